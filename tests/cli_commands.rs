//! The command line's grammar and its smaller commands.
#![cfg(feature = "cli")]

mod common;

use std::fs;

use common::replica::{Replica, noise};
use common::{file_url, root, run};

#[test]
fn top_level_words() {
    let (code, usage, stderr) = run(&[]);
    assert_eq!((code, stderr.as_str()), (1, ""));
    assert!(usage.contains("restore") && usage.contains("version"));
    for word in ["help", "-h", "-help", "--help"] {
        assert_eq!(run(&[word]), (0, usage.clone(), String::new()));
    }
    assert_eq!(run(&["-x"]), (1, usage, String::new()));
    let (code, stdout, stderr) = run(&["mcp"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr, "Error: unknown command: litestream mcp\nTry: litestream help\n");
}

#[test]
fn version_is_one_bare_line() {
    let version = format!("{}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["version", "ignored"]), (0, version, String::new()));
    let (_, verbose, _) = run(&["version", "-verbose"]);
    assert!(verbose.starts_with("version:  ") && verbose.contains("os/arch:"), "{verbose}");
    assert_eq!(run(&["version", "-nope"]).0, 1);
}

#[test]
fn ltx_lists_a_level_or_all() {
    let url = file_url(&root().join("tests/data/interop/v0.5.17-levels"));
    let (code, stdout, _) = run(&["ltx", "-level", "1", &url]);
    assert_eq!(code, 0);
    let mut lines = stdout.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["level", "min_txid", "max_txid", "size", "created"]);
    assert!(lines.all(|l| l.starts_with("1      ")));
    let (_, all, _) = run(&["ltx", "-json", "-level", "all", &url]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&all).unwrap();
    assert_eq!(rows.len(), 28);
    let levels: Vec<u64> = rows.iter().map(|r| r["level"].as_u64().unwrap()).collect();
    assert!(levels.is_sorted());
    assert_eq!(rows[1]["min_txid"].as_str().unwrap().len(), 16);
    assert!(rows[1]["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn ltx_of_nothing_is_empty() {
    let replica = Replica::new();
    let header = "level  min_txid  max_txid  size  created\n".to_owned();
    assert_eq!(run(&["ltx", &replica.url()]), (0, header, String::new()));
    assert_eq!(run(&["ltx", "-json", &replica.url()]).1, "[]\n");
}

#[test]
fn r_81_ltx_refuses_wrong_words() {
    let (code, _, stderr) = run(&["ltx"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("\nTry: litestream ltx "), "{stderr}");
    for level in ["10", "-1", "x"] {
        let (code, help, stderr) = run(&["ltx", "-level", level, "file:///nowhere"]);
        assert_eq!(code, 1);
        assert!(help.starts_with("The ltx command"));
        assert!(stderr.contains(&format!("invalid value \"{level}\" for flag -level")), "{stderr}");
    }
    assert!(run(&["ltx", "a", "b"]).2.contains("too many arguments"));
}

#[test]
fn the_old_name_of_ltx_still_works() {
    let replica = Replica::new();
    replica.put_snapshot(0, 1, &noise(1, 2, 512), 512);
    let (code, stdout, stderr) = run(&["wal", &replica.url()]);
    assert_eq!((code, stdout.lines().count()), (0, 2));
    assert!(stderr.contains("deprecated"), "{stderr}");
}

#[test]
fn status_reads_what_lies_beside_the_databases() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at(".app.db-litestream/vfs")).unwrap();
    fs::create_dir_all(at(".go.db-litestream/ltx/0")).unwrap();
    let l0 = ".go.db-litestream/ltx/0/0000000000000002-000000000000000a.ltx";
    fs::write(at(l0), b"").unwrap();
    let object = "{\"role\":\"primary\",\"spooled_txid\":\"0000000000000007\",\"pid\":4294967295,\"requests\":{\"put\":3}}";
    fs::write(at(".app.db-litestream/vfs/status.json"), object).unwrap();
    fs::write(at("app.db"), b"").unwrap();
    fs::write(at("app.db-wal"), vec![0; 37_112]).unwrap();
    fs::write(at("go.db"), b"").unwrap();
    fs::write(at("plain.db"), b"").unwrap();

    let (code, stdout, _) = run(&["status", "-json", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["database"], at("app.db").to_str().unwrap());
    assert_eq!(rows[0]["status"], "ok");
    assert_eq!(rows[0]["local_txid"], "0000000000000007");
    assert_eq!(rows[0]["wal_size"], "37 kB");
    assert_eq!(rows[0]["vfs"], serde_json::from_str::<serde_json::Value>(object).unwrap());
    assert_eq!(rows[1]["local_txid"], "000000000000000a");
    assert_eq!(rows[1]["vfs"], serde_json::Value::Null);

    let (code, stdout, _) = run(&["status", at("app.db").to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(stdout.contains("app.db (written by a process that has ended):\n"), "{stdout}");
    assert!(stdout.contains("  role:         primary\n"), "{stdout}");
    for (name, word) in [("plain.db", "not initialized"), ("absent.db", "no database")] {
        let (code, stdout, _) = run(&["status", at(name).to_str().unwrap()]);
        assert_eq!(code, 0);
        assert!(stdout.contains(word), "{stdout}");
    }
    fs::write(at(".app.db-litestream/vfs/status.json"), "{").unwrap();
    let (code, stdout, _) = run(&["status", at("app.db").to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(stdout.contains("  error") && stdout.contains("status.json"), "{stdout}");
    assert_eq!(run(&["status"]).0, 1);
}
