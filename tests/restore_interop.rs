//! What Litestream wrote, we restore as Litestream does.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::replica::Replica;
use common::{Interop, file_url, oracle, run, sha256};

/// Our restore into a fresh directory: the database's bytes, or our complaint.
fn ours(url: &str, flags: &[&str]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.db");
    let words: Vec<&str> = ["restore"]
        .iter()
        .chain(flags)
        .chain(&["-o", out.to_str().unwrap(), url])
        .copied()
        .collect();
    let (code, stdout, stderr) = run(&words);
    assert_eq!(stdout, "");
    match code {
        0 => Ok(fs::read(&out).unwrap()),
        _ => Err(stderr),
    }
}

const DUMP: &str = "
import hashlib, sqlite3, sys
digest = hashlib.sha256()
for line in sqlite3.connect(sys.argv[1]).iterdump():
    digest.update((line + '\\n').encode())
print(digest.hexdigest())";

fn dump_sha256(database: &Path) -> String {
    let out = Command::new("/usr/bin/python3").args(["-c", DUMP]).arg(database).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn every_replica_restores_to_the_recorded_bytes() {
    for replica in Interop::all() {
        let url = file_url(&replica.path());
        for flags in [&[][..], &["-integrity-check", "full"], &["-parallelism", "1"]] {
            let bytes = ours(&url, flags).unwrap();
            assert_eq!(sha256(&bytes), replica.restored_file_sha256, "{} {flags:?}", replica.name);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.db");
        fs::write(&path, ours(&url, &[]).unwrap()).unwrap();
        assert_eq!(dump_sha256(&path), replica.dump_sha256, "{}", replica.name);
    }
}

#[test]
fn every_transaction_restores_as_litestream_does_it() {
    for replica in Interop::all() {
        let copy = Replica::copy(&replica.path());
        let last = copy.files().iter().map(|f| f.2).max().unwrap();
        let mut restored = 0;
        for txid in 1..=last + 1 {
            let flags = ["-txid", &format!("{txid:016x}")];
            match (ours(&copy.url(), &flags), oracle::restore(copy.path(), &flags)) {
                (Ok(a), Ok(b)) => {
                    assert_eq!(sha256(&a), sha256(&b), "{} {flags:?}", replica.name);
                    restored += 1;
                }
                (Err(a), Err(_)) => {
                    assert!(a.contains("no matching backup files available"), "{a}");
                }
                (a, b) => panic!("{} {flags:?}: {:?} {:?}", replica.name, a.err(), b.err()),
            }
        }
        assert!(restored > 1, "{}", replica.name);
    }
}

#[test]
fn every_time_restores_as_litestream_does_it() {
    for replica in Interop::all() {
        let copy = Replica::copy(&replica.path());
        let mut times: Vec<i64> = copy.files().iter().map(|f| modified_ms(&copy, *f)).collect();
        times.sort_unstable();
        times.dedup();
        let around = times.iter().flat_map(|t| [t - 1, *t, t + 1]);
        for ms in around {
            let text = litestream::ltx::format_timestamp(ms);
            let flags = ["-timestamp", &text];
            match (ours(&copy.url(), &flags), oracle::restore(copy.path(), &flags)) {
                (Ok(a), Ok(b)) => assert_eq!(sha256(&a), sha256(&b), "{} {text}", replica.name),
                (Err(a), Err(b)) => {
                    let reasons =
                        ["timestamp does not exist", "no matching backup files available"];
                    let which = |text: &str| reasons.iter().position(|r| text.contains(r));
                    assert!(which(&a).is_some(), "{a}");
                    assert_eq!(which(&a), which(&b), "{} {text}: {a} {b}", replica.name);
                }
                (a, b) => panic!("{} {text}: {:?} {:?}", replica.name, a.err(), b.err()),
            }
        }
    }
}

fn modified_ms(replica: &Replica, (level, min, max): (u8, u64, u64)) -> i64 {
    let meta = fs::metadata(replica.file(level, min, max)).unwrap();
    let since = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

#[test]
fn the_layout_of_0_3_is_named() {
    let path = common::root().join("tests/data/interop/v0.3.13");
    let complaint = ours(&file_url(&path), &[]).unwrap_err();
    assert!(complaint.contains("layout of Litestream 0.3"), "{complaint}");
    assert!(complaint.contains("v0.3.13"), "{complaint}");
}
