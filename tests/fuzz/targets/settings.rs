//! Configuration files and the values of options.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream::config::{DbConfig, fill_placeholders, parse_bool, parse_bytes, parse_duration};
use litestream::config_file::{ConfigFile, Surroundings};
use litestream::ltx::crc64;
use litestream::replica_client::FixedEnv;

fn around(expand_env: bool) -> Surroundings {
    Surroundings {
        env: Arc::new(FixedEnv::new([("A", "a: b"), ("EMPTY", ""), ("NEST", "$A${NEST}")])),
        expand_env,
        pid: 42,
        current_dir: PathBuf::from("/srv/app"),
        home: Some(PathBuf::from("/home/u")),
    }
}

/// Any text as a configuration file.
pub fn files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("/etc/litestream.yml");
    for expand in [false, true] {
        let first = ConfigFile::parse(path, text, &around(expand));
        let again = ConfigFile::parse(path, text, &around(expand));
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        match first {
            Ok(file) => sound(&file),
            Err(e) => assert!(e.to_string().contains("litestream.yml"), "{e}"),
        }
    }
    // What is wrong below does not bring the secret above to light; an input
    // cannot hold a secret that is made of it.
    let secret = format!("k{:016x}", crc64(bytes));
    let text = format!("access-key-id: AKIA\nsecret-access-key: {secret}\n{text}");
    match ConfigFile::parse(path, &text, &around(false)) {
        Ok(file) => assert!(!format!("{file:?}").contains(&secret)),
        Err(e) => assert!(!format!("{e} {e:?}").contains(&secret), "{e}"),
    }
}

fn sound(file: &ConfigFile) {
    for path in ["/srv/app/a.db", "/data/x/y.db", "/", ""] {
        let own = |p: &Path| p.to_owned();
        if let Some(settings) = file.find(Path::new(path), &own) {
            let replica = settings.replica;
            assert!(!replica.kind.is_empty());
            let _ = litestream::replica_client::open(
                &replica.url,
                &litestream::replica_client::ReplicaOptions {
                    parameters: replica.parameters.clone(),
                    env: Arc::new(FixedEnv::default()),
                    ..Default::default()
                },
            );
        }
    }
}

/// Any text as the value of every option.
pub fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(duration) = parse_duration("k", text) {
        let plain = format!("{}ns", duration.as_nanos());
        let near =
            |a: Duration, b: Duration| a.abs_diff(b) <= a / 1_000_000_000 + Duration::from_nanos(1);
        assert!(near(parse_duration("k", &plain).unwrap_or(duration), duration), "{text}");
    }
    if let Ok(n) = parse_bytes("k", text) {
        assert!((1..=i64::MAX as u64).contains(&n));
        let again = parse_bytes("k", &n.to_string()).unwrap();
        assert!(again.abs_diff(n) <= n >> 50, "{text}");
    }
    let _ = parse_bool("k", text);
    for key in litestream::config::KEYS {
        let mut config = DbConfig::new("file:///r");
        let _ = config.set(key, text);
    }
    if let Ok(filled) = fill_placeholders("s3://b/{name}/x{path}", Path::new(text)) {
        assert!(!filled.contains(['?', '#', ' ']), "{filled}");
    }
    let _ = fill_placeholders(text, Path::new("/a/b.db"));
}
