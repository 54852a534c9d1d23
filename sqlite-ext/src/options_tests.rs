//! Tests of the order and the refusals of configuration.

use std::time::Duration;

use super::*;

fn uri(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn look(
    pairs: &[(&str, &str)],
    configured: &Configured,
    mode: Mode,
    vars: &[(&str, &str)],
) -> Result<Option<Found>, String> {
    let env = |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    find(Path::new("/data/app.db"), &uri(pairs), configured, mode, &env)
}

#[test]
fn nothing_configured_is_no_replication() {
    let none = Configured::new();
    assert_eq!(look(&[], &none, Mode::Named, &[]), Ok(None));
    assert_eq!(look(&[("mode", "rw"), ("_tag", "x")], &none, Mode::Named, &[]), Ok(None));
}

#[test]
fn the_uri_beats_configure_which_beats_the_environment() {
    let configured = Configured::new();
    let env = [("LITESTREAM_REPLICA_URL", "file:///env"), ("LITESTREAM_SYNC_INTERVAL", "7s")];
    let found =
        |c: &Configured, u: &[(&str, &str)]| look(u, c, Mode::Named, &env).unwrap().unwrap();
    let first = found(&configured, &[]);
    assert_eq!((first.config.replica_url.as_str(), first.explicit), ("file:///env", false));
    assert_eq!(first.config.sync_interval, Duration::from_secs(7));
    configured.set("/data/app.db", "replica_url", "file:///conf").unwrap();
    let second = found(&configured, &[]);
    assert_eq!((second.config.replica_url.as_str(), second.explicit), ("file:///conf", true));
    let third = found(&configured, &[("replica_url", "s3://b/x"), ("region", "eu")]);
    assert_eq!(third.config.replica_url, "s3://b/x");
    assert_eq!(third.config.replica_parameters, uri(&[("region", "eu")]));
}

#[test]
fn unknown_names_and_bad_values_are_refused() {
    let none = Configured::new();
    let error = |u: &[(&str, &str)]| look(u, &none, Mode::Named, &[]).unwrap_err();
    assert!(error(&[("replica_ulr", "x")]).contains("replica_ulr"));
    assert!(error(&[("replica_url", "s3://b/p?x=1"), ("y", "2")]).contains("%3F"));
    assert!(error(&[("replica_url", "file:///x"), ("sync_interval", "soon")]).contains("soon"));
    assert!(error(&[("sync_interval", "1s")]).contains("replica_url"));
    assert!(none.set("/x", "nonsense", "1").unwrap_err().contains("unknown config key"));
    assert!(none.set("/x", "sync_interval", "soon").is_err());
    assert!(none.set("", "sync_interval", "1s").is_err());
}

#[test]
fn placeholders_make_one_url_per_database() {
    let none = Configured::new();
    let url = |template: &str| {
        let env = [("LITESTREAM_REPLICA_URL", template)];
        look(&[], &none, Mode::Default, &env).unwrap().unwrap().config.replica_url
    };
    assert_eq!(url("s3://b/{name}"), "s3://b/app.db");
    assert_eq!(url("s3://b/{path}"), "s3://b/data/app.db");
    assert_eq!(url("s3://b/p{path}"), "s3://b/p/data/app.db");
}

#[test]
fn default_mode_wants_to_know_which_database() {
    let none = Configured::new();
    let plain = ("LITESTREAM_REPLICA_URL", "s3://b/x");
    assert!(look(&[], &none, Mode::Default, &[plain]).unwrap_err().contains("LITESTREAM_DATABASE"));
    let only = |path| [plain, ("LITESTREAM_DATABASE", path)];
    assert!(look(&[], &none, Mode::Default, &only("/data/app.db")).unwrap().is_some());
    assert!(look(&[], &none, Mode::Default, &only("/data/b.db")).unwrap().is_none());
    assert!(look(&[], &none, Mode::Named, &only("/data/b.db")).unwrap().is_none());
}

/// Writes a configuration file and gives its name for `LITESTREAM_CONFIG`.
fn config_file(dir: &Path, text: &str) -> String {
    let path = dir.join("litestream.yml");
    disk::write_private(&path, text.as_bytes(), None).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A directory of the test's own; the file in it is read once per process.
fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("litestream-{}-{name}", std::process::id()));
    disk::create_private_dir(&dir, None).unwrap();
    dir
}

#[test]
fn the_file_is_stronger_than_the_environment_and_weaker_than_configure() {
    let dir = scratch("order");
    let name = config_file(
        &dir,
        "dbs:\n- path: /data/app.db\n  meta-path: /meta\n  replica: {url: 's3://b/filed', region: eu, \
         access-key-id: k, secret-access-key: s, sync-interval: 3s}\n",
    );
    let env = [
        ("LITESTREAM_CONFIG", name.as_str()),
        ("LITESTREAM_REPLICA_URL", "file:///env"),
        ("LITESTREAM_SYNC_INTERVAL", "7s"),
        ("LITESTREAM_CLOSE_TIMEOUT", "9s"),
    ];
    let configured = Configured::new();
    // The environment's URL would not do in this mode.
    let found = look(&[], &configured, Mode::Default, &env).unwrap().unwrap();
    assert_eq!((found.config.replica_url.as_str(), found.explicit), ("s3://b/filed", true));
    assert_eq!(found.config.replica_parameters, uri(&[("region", "eu")]));
    assert!(found.config.replica_keys.is_some());
    assert_eq!(found.config.sync_interval, Duration::from_secs(3));
    assert_eq!(found.config.close_timeout, Duration::from_secs(9));
    assert_eq!(found.config.meta_path, Some("/meta".into()));

    configured.set("/data/app.db", "sync_interval", "2s").unwrap();
    let found = look(&[("region", "us")], &configured, Mode::Named, &env).unwrap().unwrap();
    assert_eq!(found.config.replica_url, "s3://b/filed");
    assert_eq!(found.config.replica_parameters, uri(&[("region", "us")]));
    assert_eq!(found.config.sync_interval, Duration::from_secs(2));

    // Its credentials and parameters are not for another place.
    let found = look(&[("replica_url", "s3://c/x")], &configured, Mode::Named, &env);
    let config = found.unwrap().unwrap().config;
    assert_eq!((config.replica_url.as_str(), &config.replica_keys), ("s3://c/x", &None));
    assert_eq!((config.replica_parameters, config.meta_path), (Vec::new(), Some("/meta".into())));

    let env = [env[0]];
    let immutable = look(&[("immutable", "1")], &Configured::new(), Mode::Named, &env);
    assert!(!immutable.unwrap().unwrap().explicit);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_that_is_missing_or_wrong_fails_the_open() {
    let dir = scratch("wrong");
    let error = |name: &str| {
        let env = [("LITESTREAM_CONFIG", name)];
        let uri = [("replica_url", "file:///x")];
        look(&uri, &Configured::new(), Mode::Named, &env).unwrap_err()
    };
    let missing = dir.join("none.yml");
    assert!(error(missing.to_str().unwrap()).contains("config file not found: "));
    let name = config_file(&dir, "dbs: []\nnonsense: 1\n");
    let text = error(&name);
    assert!(text.contains("litestream.yml:2: unknown key \"nonsense\""), "{text}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn r_84_the_environments_options_reach_databases_with_a_url_of_their_own() {
    let env = [("LITESTREAM_SYNC_INTERVAL", "7s")];
    let none = Configured::new();
    let found = look(&[("replica_url", "file:///x")], &none, Mode::Named, &env).unwrap().unwrap();
    assert_eq!(found.config.sync_interval, Duration::from_secs(7));
    let bad = [("LITESTREAM_SYNC_INTERVAL", "soon")];
    assert_eq!(look(&[], &none, Mode::Named, &bad), Ok(None));
    assert!(look(&[("replica_url", "file:///x")], &none, Mode::Named, &bad).is_err());
}
