//! Tests of whole files.

use std::path::Path;
use std::time::Duration;

use super::expand::tests::around;
use super::*;
use crate::config::DbConfig;

const FILE: &str = "/etc/app/litestream.yml";

fn parse(text: &str) -> ConfigFile {
    ConfigFile::parse(Path::new(FILE), text, &around(&[])).unwrap()
}

fn error(text: &str) -> String {
    let e = ConfigFile::parse(Path::new(FILE), text, &around(&[])).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    e.to_string()
}

/// The settings of a database, its path taken as it is.
fn settings(file: &ConfigFile, path: &str) -> Option<Settings> {
    file.find(Path::new(path), &|p: &Path| p.to_owned())
}

fn config(text: &str, path: &str) -> DbConfig {
    let found = settings(&parse(text), path).unwrap();
    let mut config = DbConfig::new("");
    found.replica.apply(&mut config).unwrap();
    config
}

fn parameter<'a>(config: &'a DbConfig, name: &str) -> Option<&'a str> {
    let found = config.replica_parameters.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

/// A file with one database `/a.db` and these lines in its replica.
fn with_replica(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("      {line}\n")).collect();
    format!("dbs:\n  - path: /a.db\n    replica:\n{lines}")
}

#[test]
fn nothing_in_a_file_is_no_database() {
    for text in ["", "# only this\n", "dbs:\n", "dbs: []\n", "---\n", "levels:\n"] {
        assert!(parse(text).databases.is_empty(), "{text}");
    }
}

#[test]
fn databases_are_found_by_their_absolute_path() {
    let file = parse(
        "dbs:\n  - path: app.db\n    replica: {path: backup}\n  - path: ~/b.db\n    meta-path: ~/m\n    replica: {url: 's3://bkt/b'}\n",
    );
    let first = settings(&file, "/cwd/app.db").unwrap();
    assert_eq!((first.replica.kind, first.replica.url.as_str()), ("file", "file:///cwd/backup"));
    assert_eq!((first.meta_path, first.by_name), (None, true));
    let second = settings(&file, "/home/me/b.db").unwrap();
    assert_eq!((second.replica.kind, second.replica.url.as_str()), ("s3", "s3://bkt/b"));
    assert_eq!(second.meta_path, Some("/home/me/m".into()));
    assert!(settings(&file, "/cwd/other.db").is_none());
}

#[test]
fn r_84_every_s3_key_reaches_the_replica() {
    let text = with_replica(&[
        "type: s3",
        "bucket: 123",
        "path: /some dir/app",
        "region: eu-1",
        "endpoint: minio:9000",
        "access-key-id: id",
        "secret-access-key: secret",
        "force-path-style: no",
        "sign-payload: true",
        "skip-verify: true",
        "require-content-md5: false",
        "storage-class: COLD",
        "part-size: 8MiB",
        "concurrency: 3",
        "sse-kms-key-id: kms",
        "sync-interval: 250ms",
    ]);
    let config = config(&text, "/a.db");
    assert_eq!(config.replica_url, "s3://123/some%20dir/app");
    let keys = config.replica_keys.as_ref().unwrap();
    assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("id", "secret"));
    assert_eq!(config.sync_interval, Duration::from_millis(250));
    for (name, value) in [
        ("region", "eu-1"),
        ("endpoint", "https://minio:9000"),
        ("forcePathStyle", "false"),
        ("signPayload", "true"),
        ("skipVerify", "true"),
        ("requireContentMD5", "false"),
        ("storageClass", "COLD"),
        ("partSize", "8388608"),
        ("concurrency", "3"),
        ("sseKmsKeyId", "kms"),
    ] {
        assert_eq!(parameter(&config, name), Some(value), "{name}");
    }
    assert_eq!(config.replica_parameters.len(), 10);
    let options = crate::replica_client::ReplicaOptions {
        parameters: config.replica_parameters.clone(),
        ..Default::default()
    };
    crate::replica_client::open(&config.replica_url, &options).unwrap();
}

#[test]
fn r_84_settings_at_the_top_reach_every_replica_that_has_none_of_its_own() {
    let text = "
region: top
sync-interval: 5s
access-key-id: id
secret-access-key: secret
skip-verify: true
dbs:
  - path: /a.db
    replica: {url: 's3://b/a'}
  - path: /b.db
    replica: {url: 's3://b/b', region: own, sync-interval: 2s, skip-verify: false}
  - path: /c.db
    replica: {path: /backup}
";
    let a = config(text, "/a.db");
    assert_eq!((parameter(&a, "region"), a.sync_interval), (Some("top"), Duration::from_secs(5)));
    assert!(a.replica_keys.is_some());
    let b = config(text, "/b.db");
    assert_eq!((parameter(&b, "region"), b.sync_interval), (Some("own"), Duration::from_secs(2)));
    assert_eq!(parameter(&b, "skipVerify"), Some("true"), "true at the top stays true");
    let c = config(text, "/c.db");
    assert_eq!((parameter(&c, "region"), &c.replica_keys), (None, &None));
    assert_eq!(c.sync_interval, Duration::from_secs(5));
}

#[test]
fn r_80_encryption_that_nobody_does_is_refused() {
    for (text, line) in [
        ("age:\n  identities: [x]\n", 1),
        (&*with_replica(&["path: /b", "age: {recipients: []}"]), 5),
        (&*with_replica(&["path: /b", "age:"]), 5),
    ] {
        let e = error(text);
        assert!(e.starts_with(&format!("{FILE}:{line}: ")), "{e}");
        assert!(e.contains("age encryption"), "{e}");
    }
    let foreign = with_replica(&["path: /b", "sse-customer-key: secret"]);
    let e = error(&foreign);
    assert!(e.contains("sse-customer-key means nothing to a replica of type file"), "{e}");
    assert!(!e.contains("secret\""), "{e}");
    let top = "sse-kms-key-id: k\ndbs:\n  - path: /a.db\n    replica: {path: /b}\n";
    assert!(parse(top).notes[0].text.contains("does not reach"), "{:?}", parse(top).notes);
}

#[test]
fn r_81_unknown_keys_are_refused_with_their_line() {
    for (text, line, name) in [
        ("dbs: []\nretentoin: 1h\n", 2, "\"retentoin\" at the top level"),
        ("dbs:\n  - path: /a.db\n    repilca: {}\n", 3, "\"repilca\" at dbs[0]"),
        (&*with_replica(&["path: /b", "retention: 24h"]), 5, "\"retention\" at dbs[0].replica"),
        ("dbs:\n  - path: /a\n    replicas:\n      - {path: /b, x: 1}\n", 4, "dbs[0].replicas[0]"),
        ("snapshot:\n  intervall: 1h\n", 2, "\"intervall\" at snapshot"),
        ("part-size: 5MB\n", 1, "belongs into a replica"),
        ("Dbs: []\n", 1, "\"Dbs\""),
    ] {
        let e = error(text);
        assert!(e.starts_with(&format!("{FILE}:{line}: ")), "{e}");
        assert!(e.contains("unknown key") && e.contains(name), "{e}");
    }
    let secret = "dbs: []\n\"my secret is out\": 1\n";
    assert!(!error(secret).contains("my secret"), "{}", error(secret));
}

#[test]
fn keys_of_the_daemon_are_noted_once_each() {
    let text = "
addr: ':9090'
levels:
  - interval: 30s
  - interval: 5m
snapshot: {interval: 6h, retention: 72h}
socket: {enabled: true, path: /x, permissions: 0660}
logging: {level: debug}
dbs:
  - path: /a.db
    busy-timeout: 2s
    truncate-page-n: 1000
    replica: {path: /b, auto-recover: true, name: old}
";
    let notes = parse(text).notes;
    let of = |line| {
        let mine: Vec<&str> =
            notes.iter().filter(|n| n.line == line).map(|n| n.text.as_str()).collect();
        mine
    };
    for (line, key) in [
        (2, "addr"),
        (3, "levels"),
        (6, "snapshot"),
        (7, "socket"),
        (8, "logging"),
        (11, "dbs[0].busy-timeout"),
        (12, "dbs[0].truncate-page-n"),
    ] {
        let want = format!("{key} concerns only Litestream's daemon: no effect here");
        assert_eq!(of(line), [want], "{notes:?}");
    }
    assert_eq!(of(13).len(), 2, "{notes:?}");
    assert_eq!(notes.len(), 9, "{notes:?}");
}

#[test]
fn values_that_do_not_fit_are_refused_with_their_line() {
    for (text, line, what) in [
        ("dbs: foo\n", 1, "dbs: expected a list"),
        ("dbs: [x]\n", 1, "dbs[0]: expected keys and values"),
        ("dbs:\n  - \n", 2, "dbs[0] is empty"),
        ("region: [a]\n", 1, "region: expected a text"),
        ("skip-verify: \"true\"\n", 1, "skip-verify: not true or false"),
        ("l0-retention: -1s\n", 1, "must not be negative (got -1s)"),
        ("snapshot:\n  interval: 0s\n", 2, "must be greater than 0"),
        ("heartbeat-interval: 30s\n", 1, "at least 1m"),
        ("snapshot: {retention: 7d}\n", 1, "not a duration"),
        ("levels:\n  - interval: 1m\n  - interval: 0s\n", 3, "levels[1].interval"),
        ("shutdown-sync-timeout: soon\n", 1, "not a duration"),
        (&*with_replica(&["path: /b", "sync-interval: 0s"]), 5, "greater than 0 (got 0s)"),
        (&*with_replica(&["type: s3", "bucket: b", "part-size: huge"]), 6, "not a size"),
        (&*with_replica(&["type: s3", "bucket: b", "concurrency: many"]), 6, "a whole number"),
        ("a: [\n", 1, "not valid YAML"),
        ("a: 1\nb: 'x\n", 2, "not valid YAML"),
    ] {
        let e = error(text);
        assert!(e.starts_with(&format!("{FILE}:{line}: ")), "{text}: {e}");
        assert!(e.contains(what), "{text}: {e}");
    }
}

#[test]
fn replicas_say_where_they_are_exactly_once() {
    for (lines, what) in [
        (&["{}"][..], "path required for file replica"),
        (&["url: 's3://b/x'", "path: y"], "cannot specify url & path for s3 replica"),
        (&["url: 's3://b/x'", "bucket: b"], "cannot specify url & bucket for s3 replica"),
        (&["path: 's3://u:pw@b/x'"], "please use the 'url' field instead: s3://b/x"),
        (&["url: /b"], "scheme required"),
        (&["url: 'gcs://b/x'"], "unknown replica type in url: \"gcs\""),
        (&["type: tape", "path: x"], "unknown replica type \"tape\""),
        (&["type: s3", "path: x"], "bucket required for s3 replica"),
        (&["type: sftp", "host: h", "path: x"], "user required for sftp replica"),
        (&["type: webdav", "path: x"], "webdav-url required for webdav replica"),
        (&["type: nats"], "bucket required for nats replica"),
        (&["path: /x", "region: r"], "region means nothing to a replica of type file"),
        (&["url: 's3://b/x'", "access-key-id: k"], "without secret-access-key"),
    ] {
        let e = error(&with_replica(lines));
        assert!(e.contains(what), "{lines:?}: {e}");
        assert!(!e.contains("pw"), "{e}");
    }
    for (text, what) in [
        ("dbs: [{path: /a}]", "must specify replica"),
        ("dbs: [{path: /a, replica: }]", "must specify replica"),
        ("dbs: [{path: /a, replica: {path: x}, replicas: [{path: y}]}]", "cannot specify"),
        ("dbs: [{path: /a, replicas: [{path: x}, {path: y}]}]", "only one replica"),
        ("dbs: [{replica: {path: x}}]", "either 'path' or 'dir'"),
        ("dbs: [{path: /a, dir: /d, replica: {path: x}}]", "both 'path' and 'dir'"),
        ("dbs: [{dir: /d, replica: {path: x}}]", "'pattern' is required"),
        ("dbs: [{path: /a, watch: true, replica: {path: x}}]", "only for directories"),
        ("dbs: [{path: /a, meta-dir: /m, replica: {path: x}}]", "only for directories"),
        ("dbs: [{path: /a, replica: {path: x}}, {path: //a, replica: {path: y}}]", "line 1"),
    ] {
        assert!(error(text).contains(what), "{text}: {}", error(text));
    }
}

#[test]
fn r_82_a_type_that_contradicts_the_url_is_refused() {
    let e = error(&with_replica(&["type: file", "url: 's3://b/x'"]));
    assert!(e.contains("type file does not fit the url's s3"), "{e}");
    let file = parse(&with_replica(&["type: webdav", "url: 'webdavs://h/x'"]));
    assert_eq!(file.databases[0].replica.kind, "webdav");
}

#[test]
fn the_old_list_of_replicas_may_hold_one() {
    let text = "dbs:\n  - path: /a.db\n    replicas:\n      - url: s3://b/x\n";
    assert_eq!(config(text, "/a.db").replica_url, "s3://b/x");
}

#[test]
fn directories_give_each_database_a_place_of_its_own() {
    let text = |keys: &str| format!("dbs: [{{dir: /srv, pattern: '*.db', {keys}}}]");
    let flat = parse(&text("replica: {path: /backup}"));
    let found = settings(&flat, "/srv/a.db").unwrap();
    assert_eq!((found.replica.url.as_str(), found.by_name), ("file:///backup/a.db", false));
    for other in ["/srv/x/a.db", "/srv/a.txt", "/other/a.db", "/srv"] {
        assert!(settings(&flat, other).is_none(), "{other}");
    }
    let deep = parse(&text("recursive: true, meta-path: /m, replica: {url: 's3://b/t?region=eu'}"));
    let found = settings(&deep, "/srv/x/a b.db").unwrap();
    assert_eq!(found.replica.url, "s3://b/t/x/a%20b.db?region=eu");
    assert_eq!(found.meta_path, Some("/m/x/.a b.db-litestream".into()));
    let plain = parse(&text("meta-dir: /m, replica: {type: s3, bucket: b}"));
    let found = settings(&plain, "/srv/a.db").unwrap();
    assert_eq!(found.replica.url, "s3://b/a.db");
    assert_eq!(found.meta_path, Some("/m/a.db-litestream".into()));
}

#[test]
fn an_entry_for_the_file_wins_over_its_directory() {
    let text = "dbs:\n  - {dir: /srv, pattern: '*', replica: {path: /all}}\n  - {path: /srv/a.db, replica: {path: /one}}\n";
    assert_eq!(config(text, "/srv/a.db").replica_url, "file:///one");
    assert_eq!(config(text, "/srv/b.db").replica_url, "file:///all/b.db");
}

#[test]
fn a_path_may_hold_what_no_url_can_say() {
    let config = config(&with_replica(&["path: '/back up/100%'"]), "/a.db");
    let options = crate::replica_client::ReplicaOptions {
        parameters: config.replica_parameters.clone(),
        ..Default::default()
    };
    let client = crate::replica_client::open(&config.replica_url, &options).unwrap();
    assert_eq!(client.url(), "file:///back up/100%");
}

#[test]
fn customer_keys_are_read_from_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let text =
        with_replica(&["url: 's3://b/x'", &format!("sse-customer-key-path: {}", path.display())]);
    let found = settings(&parse(&text), "/a.db").unwrap();
    let e = found.replica.apply(&mut DbConfig::new("")).unwrap_err().to_string();
    assert!(e.contains(&*path.to_string_lossy()), "{e}");
    os::write_atomic(&path, b" c2VjcmV0 \n", &os::Access::PRIVATE).unwrap();
    let config = config(&text, "/a.db");
    assert_eq!(parameter(&config, "sseCustomerKey"), Some("c2VjcmV0"));
    let shown = format!("{found:?}{config:?}");
    assert!(!shown.contains("c2VjcmV0"), "{shown}");
}

#[test]
fn variables_anchors_and_repeated_keys() {
    let text = "
defaults: &d
";
    assert!(error(text).contains("unknown key"), "no place for anchors but where they are used");
    let text = "
dbs:
  - path: /$NAME.db
    replica: &r {type: s3, bucket: '${BUCKET}', path: a}
  - path: /b.db
    replica: {<<: *r, path: b}
  - path: /c.db
    path: /d.db
    replica: {path: /backup-$PID}
";
    let here = around(&[("NAME", "a"), ("BUCKET", "bkt")]);
    let file = ConfigFile::parse(Path::new(FILE), text, &here).unwrap();
    let url = |path| settings(&file, path).unwrap().replica.url;
    assert_eq!(url("/a.db"), "s3://bkt/a");
    assert_eq!(url("/b.db"), "s3://bkt/b");
    assert_eq!(url("/d.db"), "file:///backup-77");
    assert!(file.notes[0].text.contains("the last one counts"), "{:?}", file.notes);
    let plain = Surroundings { expand_env: false, ..here };
    let file = ConfigFile::parse(Path::new(FILE), text, &plain).unwrap();
    assert!(settings(&file, "/$NAME.db").is_some());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.yml");
    let e = ConfigFile::load(&path, &around(&[])).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert_eq!(e.to_string(), format!("config file not found: {}", path.display()));
    os::write_atomic(&path, b"dbs:\n\n# \xff\n", &os::Access::PRIVATE).unwrap();
    let e = ConfigFile::load(&path, &around(&[])).unwrap_err();
    assert!(e.to_string().ends_with("x.yml:3: the file is not UTF-8"), "{e}");
    let long = "#".repeat(BYTES_MAX + 1);
    assert!(error(&long).contains("longer than"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(
        lines in proptest::collection::vec(
            "( {0,6})(- )?(dbs|path|dir|pattern|replica|url|type|levels|region|'x')?:? ?(s3://b/x|file|[-*&{}\\[\\]a0:~$]{0,6})?",
            0..8,
        ),
    ) {
        let _ = ConfigFile::parse(Path::new(FILE), &lines.join("\n"), &around(&[]));
    }
}
