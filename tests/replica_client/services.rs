//! The S3 servers that the suite talks to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Addresses and keys of running servers.
#[derive(Debug)]
pub struct Services(HashMap<String, String>);

impl Services {
    /// The value that `services.sh env` exports as `name`.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("{name} is not exported by the services"))
    }
}

/// The servers, started at the first call.
pub fn services() -> &'static Services {
    static SERVICES: OnceLock<Services> = OnceLock::new();
    SERVICES.get_or_init(|| match std::env::var("LITESTREAM_TEST_SERVICES") {
        Ok(file) => parse(Path::new(&file)),
        Err(_) => start(),
    })
}

fn start() -> Services {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = match std::env::var("SERVICES_ROOT") {
        Ok(root) => PathBuf::from(root),
        Err(_) => project.join(".cache/services"),
    };
    let run = root.join(format!("run-{}", std::process::id()));
    let status = Command::new(project.join("tests/services/services.sh"))
        .arg("up")
        .env("SERVICES_ROOT", &root)
        .env("SERVICES_RUN", &run)
        .env("WATCH_PID", std::process::id().to_string())
        .status()
        .expect("tests/services/services.sh runs");
    assert!(status.success(), "tests/services/services.sh up failed: {status}");
    parse(&run.join("env"))
}

fn parse(file: &Path) -> Services {
    let text = std::fs::read_to_string(file)
        .unwrap_or_else(|e| panic!("cannot read the services' exports {}: {e}", file.display()));
    let words = text.lines().filter_map(|line| line.strip_prefix("export "));
    let pairs = words.flat_map(str::split_whitespace).filter_map(|word| word.split_once('='));
    Services(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}
