//! `litestream restore` as a process: words, files, exit codes.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::replica::{Replica, at, database_states, noise};
use common::{litestream, names, run, text};
use tempfile::TempDir;

const PS: usize = 4096;

/// A replica of a real database and a directory for the output.
struct Fixture {
    replica: Replica,
    states: Vec<Vec<u8>>,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let (replica, states) = (Replica::new(), database_states());
        replica.put_snapshot(9, 1, &states[0], PS);
        for (n, pair) in states.windows(2).enumerate() {
            let txid = n as u64 + 2;
            replica.put_change(0, txid, txid, &pair[0], &pair[1], PS);
        }
        Fixture { replica, states, dir: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn newest(&self) -> &[u8] {
        self.states.last().unwrap()
    }

    /// `litestream restore FLAGS -o OUT URL`.
    fn restore(&self, flags: &[&str]) -> (i32, String, String) {
        let (out, url) = (self.out(), self.replica.url());
        let mut words = vec!["restore"];
        words.extend(flags);
        words.extend(["-o", out.to_str().unwrap(), &url]);
        run(&words)
    }

    fn put(&self, name: &str, data: &[u8]) {
        fs::write(self.dir.path().join(name), data).unwrap();
    }
}

fn assert_failed(result: (i32, String, String), text: &str) {
    let (code, stdout, stderr) = result;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.starts_with("Error: ") && stderr.contains(text), "no {text:?} in: {stderr}");
}

#[test]
fn a_restore_is_silent_and_leaves_one_file() {
    let f = Fixture::new();
    assert_eq!(f.restore(&[]), (0, String::new(), String::new()));
    assert_eq!(fs::read(f.out()).unwrap(), f.newest());
    assert_eq!(names(f.dir.path()), ["app.db"]);
}

#[test]
fn json_tells_what_was_restored() {
    let f = Fixture::new();
    let (code, stdout, stderr) = f.restore(&["-json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let summary: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(summary["db_path"], f.out().to_str().unwrap());
    assert_eq!(summary["replica"], "file");
    assert_eq!(summary["txid"], "0000000000000006");
    assert_eq!(summary["integrity_check"], "quick");
    assert!(summary["duration_ms"].is_u64());
    assert!(stdout.starts_with("{\n  \"db_path\"") && stdout.ends_with("}\n"));
}

#[test]
fn r_57_transactions_are_16_hex_digits_in_and_out() {
    let f = Fixture::new();
    let (_, stdout, _) = f.restore(&["-dry-run", "-json", "-txid", "0000000000000004"]);
    let plan: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(plan["min_txid"], "0000000000000001");
    assert_eq!(plan["max_txid"], "0000000000000004");
    assert_eq!(plan["files"][3]["name"], "0000000000000004-0000000000000004.ltx");
    for bad in ["4", "00000000000000004", "000000000000000g"] {
        let (code, _, stderr) = f.restore(&["-txid", bad]);
        assert_eq!(code, 1);
        assert!(stderr.contains("-txid") && stderr.contains(bad), "{stderr}");
    }
    assert_failed(f.restore(&["-txid", "0000000000000010"]), "no matching backup files available");
}

#[test]
fn a_txid_restores_that_state() {
    let f = Fixture::new();
    for (n, state) in f.states.iter().enumerate() {
        let txid = format!("{:016x}", n + 1);
        assert_eq!(f.restore(&["-force", "-txid", &txid]).0, 0);
        assert_eq!(&fs::read(f.out()).unwrap(), state, "{txid}");
    }
}

#[test]
fn a_timestamp_restores_what_is_older() {
    let f = Fixture::new();
    let time = |ms| litestream::ltx::format_timestamp(ms);
    let restore = |text: &str| f.restore(&["-force", "-timestamp", text]);
    assert_eq!(restore(&time(at(4) + 1)).0, 0);
    assert_eq!(fs::read(f.out()).unwrap(), f.states[3]);
    assert_eq!(restore(&time(at(4))).0, 0);
    assert_eq!(fs::read(f.out()).unwrap(), f.states[2]);
    assert_failed(restore(&time(at(1) - 1)), "timestamp does not exist");
    assert_failed(restore(&time(at(6) + 1)), "timestamp does not exist");
    assert_failed(restore(&time(at(1))), "no matching backup files available");
    assert_failed(restore("yesterday"), "invalid -timestamp, must specify in ISO 8601");
    let both = f.restore(&["-txid", "0000000000000001", "-timestamp", &time(at(1))]);
    assert_failed(both, "cannot specify both TXID & timestamp");
}

#[test]
fn r_45_the_output_is_never_taken_without_force() {
    let f = Fixture::new();
    f.put("app.db", b"old");
    assert_failed(f.restore(&[]), "output path already exists");
    assert_eq!(fs::read(f.out()).unwrap(), b"old");
    fs::remove_file(f.out()).unwrap();
    for sidecar in ["app.db-wal", "app.db-shm", "app.db-journal"] {
        f.put(sidecar, b"stale");
        assert_failed(f.restore(&[]), sidecar);
        f.put("app.db", b"");
        assert_failed(f.restore(&[]), sidecar);
        fs::remove_file(f.out()).unwrap();
        fs::remove_file(f.dir.path().join(sidecar)).unwrap();
    }
    f.put("app.db", b"");
    assert_eq!(f.restore(&[]).0, 0);
    assert_eq!(fs::read(f.out()).unwrap(), f.newest());
}

#[test]
fn r_45_force_replaces_only_by_a_verified_database() {
    let f = Fixture::new();
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        f.put(name, b"old");
    }
    let before = names(f.dir.path());
    assert_failed(f.restore(&["-force", "-txid", "00000000000000ff"]), "no matching");
    let path = f.replica.file(0, 3, 3);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_failed(f.restore(&["-force"]), "0000000000000003-0000000000000003.ltx");
    fs::write(&path, whole).unwrap();
    assert_eq!(names(f.dir.path()), before);
    assert_eq!(fs::read(f.out()).unwrap(), b"old");
    assert_eq!(f.restore(&["-force"]).0, 0);
    assert_eq!(names(f.dir.path()), ["app.db"]);
    assert_eq!(fs::read(f.out()).unwrap(), f.newest());
}

#[test]
fn r_46_missing_directories_are_created() {
    let f = Fixture::new();
    let out = f.dir.path().join("a/b/app.db");
    let (code, _, stderr) = run(&["restore", "-o", out.to_str().unwrap(), &f.replica.url()]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(fs::read(out).unwrap(), f.newest());
}

#[test]
fn r_48_the_default_check_refuses_a_damaged_database() {
    let f = Fixture::new();
    let mut damaged = f.newest().to_vec();
    damaged[PS..2 * PS].fill(0xee);
    f.replica.put_change(0, 7, 7, f.newest(), &damaged, PS);
    f.put("app.db", b"old");
    assert_failed(f.restore(&["-force"]), "post-restore integrity check: ");
    assert_eq!(fs::read(f.out()).unwrap(), b"old");
    assert_eq!(names(f.dir.path()), ["app.db"]);
    assert_eq!(f.restore(&["-force", "-integrity-check", "none"]).0, 0);
    assert_eq!(fs::read(f.out()).unwrap(), damaged);
    let bad = f.restore(&["-integrity-check", "fast"]);
    assert_failed(bad, "invalid -integrity-check value: fast");
}

#[test]
fn skips_exit_with_success() {
    let f = Fixture::new();
    f.put("app.db", b"old");
    let (code, stdout, _) = f.restore(&["-if-db-not-exists"]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("database already exists, skipping"), "{stdout}");
    let (_, stdout, _) = f.restore(&["-if-db-not-exists", "-json"]);
    assert!(stdout.contains("\"skipped\": \"database already exists\""), "{stdout}");
    fs::remove_file(f.out()).unwrap();
    let empty = Replica::new();
    let (out, url) = (f.out(), empty.url());
    let words = ["restore", "-o", out.to_str().unwrap(), &url];
    assert_failed(run(&words), "no backups found");
    let words = [&words[..1], &["-if-replica-exists"], &words[1..]].concat();
    let (code, stdout, _) = run(&words);
    assert_eq!(code, 0);
    assert!(stdout.contains("no matching backups found"), "{stdout}");
    assert_eq!(names(f.dir.path()), [""; 0]);
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let f = Fixture::new();
    let (code, stdout, _) = f.restore(&["-dry-run"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("txid range: 0000000000000001 - 0000000000000006"), "{stdout}");
    assert_eq!(stdout.lines().filter(|l| l.contains(".ltx")).count(), 6);
    assert_eq!(names(f.dir.path()), [""; 0]);
    f.put("app.db", b"old");
    assert_eq!(f.restore(&["-dry-run"]).0, 0);
}

#[test]
fn r_81_wrong_words_are_refused() {
    let f = Fixture::new();
    let url = f.replica.url();
    assert_failed(run(&["restore"]), "database path or replica URL required\nTry: litestream");
    assert_failed(run(&["restore", &url]), "output path required\nTry: litestream");
    assert_failed(run(&["restore", &url, "-o", "x"]), "too many arguments");
    let (code, stdout, stderr) = f.restore(&["-nope"]);
    assert_eq!((code, stderr.as_str()), (1, "Error: flag provided but not defined: -nope\n"));
    assert!(stdout.starts_with("The restore command"));
    let (code, _, stderr) = f.restore(&["-parallelism", "0"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("between 1 and 64"), "{stderr}");
    assert_failed(run(&["restore", "-o", "x", "ftp://host/path"]), "ftp");
    assert_failed(run(&["restore", "-o", "x", "file:///x?colour=red"]), "colour");
    let (code, stdout, stderr) = run(&["restore", "-force", "--help"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("-if-replica-exists"));
}

#[test]
fn r_84_a_path_takes_its_replica_from_the_environment() {
    let f = Fixture::new();
    let out = f.out();
    assert_failed(run(&["restore", out.to_str().unwrap()]), "LITESTREAM_REPLICA_URL");
    let base = f.replica.path().parent().unwrap();
    let name = f.replica.path().file_name().unwrap();
    let database = f.dir.path().join(name);
    let url = format!("file://{}/{{name}}", base.display());
    let mut command = litestream();
    command.env("LITESTREAM_REPLICA_URL", url).arg("restore").arg(&database);
    let (code, _, stderr) = text(command.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(fs::read(database).unwrap(), f.newest());
}

/// A replica that takes a while to restore.
fn large() -> Replica {
    let (replica, state) = (Replica::new(), noise(1, 12_000, PS));
    replica.put_snapshot(9, 1, &state, PS);
    replica
}

#[test]
fn r_44_a_killed_restore_leaves_the_old_database_and_blocks_nothing() {
    let (replica, dir) = (large(), tempfile::tempdir().unwrap());
    let out = dir.path().join("app.db");
    fs::write(&out, b"old").unwrap();
    fs::write(dir.path().join("app.db-wal"), b"old wal").unwrap();
    let mut command = litestream();
    command.args(["restore", "-force", "-integrity-check", "none", "-o"]).arg(&out);
    command.arg(replica.url()).stderr(Stdio::null());
    let mut killed = 0;
    for round in 0..8u64 {
        let mut child = command.spawn().unwrap();
        wait_for_tmp(dir.path());
        std::thread::sleep(Duration::from_millis(round * 3));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        killed += 1;
        assert_eq!(fs::read(&out).unwrap(), b"old");
        assert_eq!(fs::read(dir.path().join("app.db-wal")).unwrap(), b"old wal");
    }
    assert!(killed > 1, "killed {killed} times");
    assert!(command.status().unwrap().success());
    assert_eq!(names(dir.path()), ["app.db"]);
    assert_eq!(fs::metadata(&out).unwrap().len(), 12_000 * PS as u64);
}

fn wait_for_tmp(dir: &Path) {
    let start = Instant::now();
    while !names(dir).iter().any(|n| n.contains(".tmp-")) {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_full_disk_is_named_and_changes_nothing() {
    let (replica, dir) = (large(), tempfile::tempdir().unwrap());
    let out = dir.path().join("app.db");
    fs::write(&out, b"old").unwrap();
    // SIGXFSZ ignored, a write beyond the limit fails like one on a full disk.
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
    let mut command = std::process::Command::new("/bin/bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_litestream"), "restore", "-force", "-o"]);
    let result = text(command.arg(&out).arg(replica.url()).output().unwrap());
    assert_failed(result, out.to_str().unwrap());
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["app.db"]);
}
