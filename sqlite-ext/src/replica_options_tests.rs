//! Tests of a replica's settings: order, names, refusals.

use std::time::Duration;

use super::*;

/// 2026-11-23T03:00:00Z
const NOW: i64 = 1_795_402_800_000;

fn pairs(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn look(
    name: &str,
    parameters: &[(&str, &str)],
    configured: &Configured,
    vars: &[(&str, &str)],
) -> Result<Settings, String> {
    let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    let parameters = pairs(parameters);
    let wanted = Wanted {
        label: Path::new(name),
        url: crate::replica_name::as_url(name),
        parameters: &parameters,
        mode: Mode::Named,
    };
    find(&wanted, configured, &env, NOW)
}

fn none() -> Configured {
    Configured::new()
}

#[test]
fn a_url_needs_nothing_else() {
    let found = look("s3:/b/app", &[("region", "eu"), ("mode", "ro")], &none(), &[]).unwrap();
    assert_eq!((found.source.url.as_str(), found.target), ("s3://b/app", Target::Latest));
    assert_eq!(found.source.parameters, pairs(&[("region", "eu")]));
    assert_eq!(found.source.poll_interval, Duration::from_secs(1));
    assert_eq!(found.source.cache_bytes_max, 64 << 20);
}

#[test]
fn the_uri_beats_configure_which_beats_the_environment() {
    let env = [
        ("LITESTREAM_REPLICA_URL", "s3://b/{name}"),
        ("LITESTREAM_POLL_INTERVAL", "7s"),
        ("LITESTREAM_CACHE_SIZE", "5MiB"),
        ("LITESTREAM_SYNC_INTERVAL", "3s"),
    ];
    let configured = none();
    let found = look("/data/app.db", &[], &configured, &env).unwrap();
    assert_eq!(found.source.url, "s3://b/app.db");
    assert_eq!(found.source.poll_interval, Duration::from_secs(7));
    configured.set("/data/app.db", "replica_url", "s3://c/x").unwrap();
    configured.set("/data/app.db", "poll_interval", "2s").unwrap();
    let found = look("/data/app.db", &[], &configured, &env).unwrap();
    assert_eq!((found.source.url.as_str(), found.source.cache_bytes_max), ("s3://c/x", 5 << 20));
    assert_eq!(found.source.poll_interval, Duration::from_secs(2));
    let uri = [("replica_url", "s3://d/y"), ("poll_interval", "50ms")];
    let found = look("/data/app.db", &uri, &configured, &env).unwrap();
    assert_eq!(found.source.url, "s3://d/y");
    assert_eq!(found.source.poll_interval, Duration::from_millis(50));
}

#[test]
fn a_url_is_configured_by_its_name() {
    let configured = none();
    configured.set("s3:/b/app", "poll_interval", "9s").unwrap();
    let found = look("s3://b/app", &[], &configured, &[]).unwrap();
    assert_eq!(found.source.poll_interval, Duration::from_secs(9));
}

#[test]
fn a_moment_or_a_transaction() {
    let found = |key, value| look("s3://b/a", &[(key, value)], &none(), &[]).unwrap();
    let past = found("time", "5 minutes ago");
    assert_eq!(past.target, Target::Timestamp(NOW - 300_000));
    assert_eq!(past.moment.as_deref(), Some("2026-11-23T02:55:00Z"));
    let past = found("time", "2026-11-23T05:00:00+02:00");
    assert_eq!(past.moment.as_deref(), Some("2026-11-23T05:00:00+02:00"));
    assert_eq!(found("time", "LATEST").target, Target::Latest);
    assert_eq!(
        found("txid", "000000000000001f").target,
        Target::Txid("000000000000001f".parse().unwrap())
    );
}

#[test]
fn a_local_copy_is_kept_when_it_is_asked_for() {
    let found = |uri: &[(&str, &str)]| look("s3://b/a", uri, &none(), &[]).unwrap().source.hydrate;
    assert_eq!(found(&[("hydration_path", "/nonexistent/copy.db")]), Hydrate::Off);
    assert_eq!(
        found(&[("hydration_path", "/nonexistent/copy.db"), ("hydration_enabled", "true")]),
        Hydrate::At("/nonexistent/copy.db".into())
    );
    assert!(matches!(found(&[("hydration_enabled", "1")]), Hydrate::Temporary(_)));
    assert_eq!(found(&[("hydration_enabled", "0")]), Hydrate::Off);
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = |uri: &[(&str, &str)]| look("s3://b/a", uri, &none(), &[]).unwrap_err();
    assert!(error(&[("pol_interval", "1s")]).contains("unknown URI parameter 'pol_interval'"));
    assert!(error(&[("poll_interval", "soon")]).contains("soon"));
    assert!(error(&[("poll_interval", "0")]).contains("poll_interval=0"));
    assert!(error(&[("meta_path", "/x")]).contains("this is a replica"));
    assert!(error(&[("time", "soon")]).contains("5 minutes ago"));
    assert!(error(&[("txid", "31")]).contains("txid: "));
    let both = [("time", "now"), ("txid", "000000000000001f")];
    assert!(error(&both).contains("give one of them"));
    assert!(error(&[("offline", "allow")]).contains("cache_dir"));
    assert!(error(&[("offline", "maybe")]).contains("allow or refuse"));
    for key in ["write_enabled", "sync_interval", "buffer_path"] {
        assert!(error(&[(key, "1")]).contains("cannot be written yet"), "{key}");
    }
    assert!(error(&[("hydration_enabled", "maybe")]).contains("hydration_enabled"));
    look("s3://b/a", &[("write_enabled", "false"), ("hydration_enabled", "0")], &none(), &[])
        .unwrap();
    assert!(look("label", &[], &none(), &[]).unwrap_err().contains("no replica is named"));
    assert!(none().set("label", "offline", "maybe").is_err());
    assert!(none().set("label", "log_level", "x").unwrap_err().contains("unknown config key"));
}

#[test]
fn roles_are_given_per_database_or_for_all() {
    let role = |uri: &[(&str, &str)], configured: &Configured, vars: &[(&str, &str)]| {
        let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        is_replica(Path::new("/data/app.db"), &pairs(uri), configured, &env)
    };
    let env = [("LITESTREAM_ROLE", "replica")];
    assert_eq!(role(&[], &none(), &[]), Ok(false));
    assert_eq!(role(&[], &none(), &env), Ok(true));
    assert_eq!(role(&[("role", "primary")], &none(), &env), Ok(false));
    assert_eq!(role(&[("role", "replica")], &none(), &[]), Ok(true));
    let other = [env[0], ("LITESTREAM_DATABASE", "/data/other.db")];
    assert_eq!(role(&[], &none(), &other), Ok(false));
    let configured = none();
    configured.set("/data/app.db", "role", "replica").unwrap();
    assert_eq!(role(&[], &configured, &[]), Ok(true));
    assert!(role(&[("role", "boss")], &none(), &[]).unwrap_err().contains("replica or primary"));
    assert!(role(&[], &none(), &[("LITESTREAM_ROLE", "x")]).unwrap_err().contains("_ROLE"));
}

#[test]
fn a_file_gives_urls_to_labels_and_keys_to_urls() {
    let name = format!("litestream-{}-replica-file", std::process::id());
    let dir = std::env::temp_dir().join(name);
    litestream::os::disk::create_private_dir(&dir, None).unwrap();
    let path = dir.join("litestream.yml");
    let text = "dbs:\n- path: /data/app.db\n  replica: {url: 's3://b/filed', region: eu, \
                access-key-id: k, secret-access-key: s}\n";
    litestream::os::disk::write_private(&path, text.as_bytes(), None).unwrap();
    let env = [("LITESTREAM_CONFIG", path.to_str().unwrap())];
    let found = look("/data/app.db", &[], &none(), &env).unwrap();
    assert_eq!(found.source.url, "s3://b/filed");
    assert_eq!(found.source.parameters, pairs(&[("region", "eu")]));
    assert!(found.source.keys.is_some());
    let found = look("s3://b/filed", &[("region", "us")], &none(), &env).unwrap();
    assert_eq!(found.source.parameters, pairs(&[("region", "us")]));
    assert!(found.source.keys.is_some());
    let found = look("s3://c/else", &[], &none(), &env).unwrap();
    assert!(found.source.keys.is_none());
    std::fs::remove_dir_all(dir).unwrap();
}
