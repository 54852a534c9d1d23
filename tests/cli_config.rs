//! The configuration file on the command line, beside Litestream's own where
//! both accept the same file.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::replica::{Replica, noise};
use common::{litestream, root, text};
use tempfile::TempDir;

/// A directory with a configuration file in it.
struct Config {
    dir: TempDir,
}

impl Config {
    fn new(content: &str) -> Config {
        let config = Config { dir: tempfile::tempdir().unwrap() };
        fs::write(config.path(), content).unwrap();
        config
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("litestream.yml")
    }

    /// Runs our command line, `LITESTREAM_CONFIG` naming the file.
    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = litestream();
        command.args(words).env("LITESTREAM_CONFIG", self.path()).env("NAME", "expanded");
        text(command.current_dir(self.dir.path()).output().unwrap())
    }

    /// Runs Litestream 0.5.17 in the same way.
    fn run_theirs(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(theirs());
        command.args(words).env("LITESTREAM_CONFIG", self.path()).env("NAME", "expanded");
        text(command.current_dir(self.dir.path()).output().unwrap())
    }
}

fn theirs() -> PathBuf {
    let binary = root().join(".cache/litestream-0.5.17/bin/litestream");
    assert!(binary.is_file(), "{} is missing: run tests/setup", binary.display());
    binary
}

/// Files that mean the same to both programs.
const SAME: &[&str] = &[
    "",
    "# nothing\n",
    "dbs:\n",
    "dbs:\n  - path: /tmp/a.db\n    replica: { path: /backup/app }\n",
    "dbs:\n  - path: b.db\n    replicas:\n      - url: s3://bkt/x?region=eu-1\n",
    "dbs: [{path: ~/c.db, replica: {type: s3, bucket: 123, path: p}}]\n",
    "dbs: [{path: 'sqlite:///tmp/d.db', replica: {url: 'webdav://h/x'}}]\n",
    "dbs: [{path: ~bob/x, replica: {path: k}}, {path: a//b/../c/, replica: {path: k}}]\n",
    "dbs: [{path: 'x${NAME}y$NAME-$$z', replica: {path: k}}]\n",
    "dbs: [{path: 'a${}b$ c${NAME:-d}e$NOPE', replica: {path: k}}]\n",
    "dbs: [{path: a, replica: &r {type: gs, bucket: b}}, {path: b, replica: {<<: *r, path: k}}]\n",
    "dbs: [{path: a, path: c, replica: {path: k}}]\n",
    "bucket: b\ndbs: [{path: a, replica: {type: s3, path: k}}, {path: b, replica: {type: gs}}]\n",
    "dbs: [{path: a, replica: {type: sftp, host: h, user: u, path: x}}]\n",
    "dbs: [{path: a, replica: {url: 'nats://h:4222/bucket'}}]\n",
    "dbs: [{path: a, replica: {type: abs, bucket: b, account-name: n}}]\n",
    "dbs: [{path: a, replica: {type: oss, bucket: b, part-size: 8MB}}]\n",
    "sync-interval: 5s\nsnapshot: {interval: 1h, retention: 1h30m}\nl0-retention: 0s\n\
     levels: [{interval: 1m}]\nsocket: {enabled: no, permissions: 0600}\n\
     dbs: [{path: a, busy-timeout: 1s, replica: {path: k, sync-interval: 250ms}}]\n",
];

#[test]
fn databases_prints_what_litestream_prints() {
    for content in SAME {
        let config = Config::new(content);
        for words in [&["databases"][..], &["databases", "-json"], &["databases", "-no-expand-env"]]
        {
            let (ours, theirs) = (config.run(words), config.run_theirs(words));
            assert_eq!(ours, theirs, "{words:?} of {content}");
            assert_eq!(ours.0, 0, "{content}");
        }
    }
}

#[test]
fn databases_refuses_what_litestream_refuses() {
    for content in [
        "dbs: [{path: a, replica: {}}]\n",
        "dbs: [{path: a}]\n",
        "dbs: [{replica: {path: k}}]\n",
        "dbs: [{path: a, dir: b, replica: {path: k}}]\n",
        "dbs: [{path: a, replica: {path: k}}, {path: ./a, replica: {path: k}}]\n",
        "dbs: [{path: a, replica: {url: 's3://c/x', bucket: c}}]\n",
        "bucket: b\ndbs: [{path: a, replica: {url: 's3://c/x'}}]\n",
        "dbs: [{path: a, replica: {type: s3, path: x}}]\n",
        "dbs: [{path: a, replica: {type: sftp, host: h, path: x}}]\n",
        "dbs: [{path: a, replica: {path: 's3://b/k'}}]\n",
        "dbs: [{path: a, replica: {url: 'gcs://b/k'}}]\n",
        "skip-verify: \"true\"\n",
        "dbs: foo\n",
        "region: [a]\n",
        "snapshot: {interval: 7d}\n",
        "snapshot: {interval: 0s}\n",
        "heartbeat-interval: 1s\n",
        "age: {identities: [x]}\ndbs: [{path: a, replica: {path: k}}]\n",
        "dbs: [{path: a, replica: {path: k}}\n",
    ] {
        let config = Config::new(content);
        let (code, stdout, stderr) = config.run(&["databases"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{content}");
        assert!(stderr.starts_with("Error: ") && stderr.contains("litestream.yml:"), "{stderr}");
        assert_eq!(config.run_theirs(&["databases"]).0, 1, "{content}");
    }
}

#[test]
fn r_81_unknown_keys_stop_every_command_with_file_and_line() {
    let config = Config::new("dbs:\n- path: a.db\n  replica: {path: k}\n  snapshots: 1\n");
    for words in [&["databases"][..], &["ltx", "a.db"], &["restore", "a.db"], &["status", "a.db"]] {
        let (code, stdout, stderr) = config.run(words);
        assert_eq!((code, stdout.as_str()), (1, ""), "{words:?}");
        let want =
            format!("Error: {}:4: unknown key \"snapshots\" at dbs[0]", show(&config.path()));
        assert!(stderr.starts_with(&want), "{words:?}: {stderr}");
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn the_flag_wins_over_the_environment_and_the_file_must_be_there() {
    let config = Config::new("dbs: [{path: env.db, replica: {path: k}}]\n");
    let other = Config::new("dbs: [{path: flag.db, replica: {path: k}}]\n");
    let other_path = show(&other.path());
    let (_, stdout, _) = config.run(&["databases", "-config", &other_path]);
    assert!(stdout.contains("flag.db") && !stdout.contains("env.db"), "{stdout}");
    let (code, _, stderr) = config.run(&["databases", "-config", "none.yml"]);
    let want =
        format!("Error: config file not found: {}\n", show(&config.dir.path().join("none.yml")));
    assert_eq!((code, stderr), (1, want.clone()));
    assert_eq!(config.run_theirs(&["databases", "-config", "none.yml"]).2, want);
    let (code, _, stderr) = config.run(&["databases", "extra"]);
    assert_eq!((code, stderr.as_str()), (1, "Error: too many arguments\n"));
    let (code, help, _) = config.run(&["databases", "-h"]);
    assert_eq!(code, 0);
    assert!(help.contains(&show(&config.path())), "{help}");
}

#[test]
fn directories_list_the_databases_in_them() {
    let config = Config::new(
        "dbs:\n- {dir: data, pattern: '*.db', recursive: true, replica: {path: backup}}\n",
    );
    let data = config.dir.path().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    let header = [&b"SQLite format 3\0"[..], &[0; 84]].concat();
    for name in ["b.db", "sub/a.db", "a.txt"] {
        fs::write(data.join(name), &header).unwrap();
    }
    fs::write(data.join("no.db"), "text").unwrap();
    let (_, stdout, stderr) = config.run(&["databases", "-json"]);
    assert_eq!(stderr, "");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    let paths: Vec<&str> = rows.iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [show(&data.join("b.db")), show(&data.join("sub/a.db"))]);
    assert!(rows.iter().all(|r| r["replica"] == "file"));
}

#[test]
fn restore_and_ltx_find_the_replica_in_the_file() {
    let replica = Replica::new();
    let pages = noise(1, 2, 512);
    replica.put_snapshot(0, 1, &pages, 512);
    let place = replica.url().trim_start_matches("file://").to_owned();
    let config = Config::new(&format!("dbs:\n- path: app.db\n  replica:\n    path: {place}\n"));
    let (code, stdout, stderr) = config.run(&["ltx", "app.db"]);
    assert_eq!((code, stdout.lines().count(), stderr.as_str()), (0, 2, ""));
    let out = ["restore", "-integrity-check", "none", "app.db"];
    assert_eq!(config.run(&out), (0, String::new(), String::new()));
    assert_eq!(fs::read(config.dir.path().join("app.db")).unwrap().len(), 1024);
    let (code, _, stderr) = config.run(&["ltx", "other.db"]);
    assert_eq!(code, 1);
    let want =
        format!("database not found in config: {}", show(&config.dir.path().join("other.db")));
    assert!(stderr.contains(&want), "{stderr}");
    let (code, _, stderr) = config.run(&["ltx", "-config", &show(&config.path()), &replica.url()]);
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot specify a replica URL and the -config flag"), "{stderr}");
    assert_eq!(config.run(&["ltx", &replica.url()]).0, 0);
}

#[test]
fn status_looks_where_the_file_says() {
    let config = Config::new("dbs: [{path: app.db, meta-path: state, replica: {path: k}}]\n");
    let state = config.dir.path().join("state/vfs");
    fs::create_dir_all(&state).unwrap();
    fs::write(config.dir.path().join("app.db"), "").unwrap();
    fs::write(state.join("status.json"), r#"{"state": "replicating"}"#).unwrap();
    for words in [&["status", "-json"][..], &["status", "-json", "app.db"]] {
        let (code, stdout, _) = config.run(words);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, rows.len(), rows[0]["status"].as_str()), (0, 1, Some("replicating")));
    }
}
