//! What restore tests share: replicas made for the occasion, replicas that
//! Litestream wrote, Litestream itself, and our command line.
#![allow(dead_code)]

pub mod clients;
pub mod oracle;
pub mod replica;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Our command line, in an environment without any of its variables.
pub fn litestream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_litestream"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("LITESTREAM_") || text.starts_with("AWS_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs our command line and returns (exit code, stdout, stderr).
pub fn run(words: &[&str]) -> (i32, String, String) {
    text(litestream().args(words).output().unwrap())
}

pub fn text(out: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}

pub fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A replica in `tests/data/interop`.
#[derive(Debug, serde::Deserialize)]
pub struct Interop {
    pub name: String,
    pub restored_file_sha256: String,
    pub dump_sha256: String,
}

impl Interop {
    pub fn path(&self) -> PathBuf {
        root().join("tests/data/interop").join(&self.name)
    }

    /// Those that Litestream 0.5 wrote.
    pub fn all() -> Vec<Interop> {
        let text = fs::read(root().join("tests/data/interop/manifest.json")).unwrap();
        let all: Vec<Interop> = serde_json::from_slice(&text).unwrap();
        let v05: Vec<_> = all.into_iter().filter(|r| r.name.starts_with("v0.5")).collect();
        assert_eq!(v05.len(), 6);
        v05
    }
}
