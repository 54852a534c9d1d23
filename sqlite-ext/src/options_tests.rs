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
