//! `file` replicas, written for one test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use litestream::ltx::{Encoder, Header, PageForm, Pgno, Txid, file_name, parse_file_name};
use tempfile::TempDir;

/// Timestamp of the file that ends with transaction n: this plus n seconds.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

pub fn at(txid: u64) -> i64 {
    EPOCH_MS + txid as i64 * 1000
}

/// A `file` replica in a temporary directory.
pub struct Replica {
    dir: TempDir,
}

impl Replica {
    pub fn new() -> Self {
        Replica { dir: tempfile::tempdir().unwrap() }
    }

    /// A copy of `source`, each file dated as its header says.
    pub fn copy(source: &Path) -> Self {
        let replica = Replica::new();
        for level in 0..=9u8 {
            let Ok(entries) = fs::read_dir(source.join(format!("ltx/{level}"))) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                let (min, max) = parse_file_name(name).unwrap();
                let bytes = fs::read(&path).unwrap();
                let header = Header::decode(&bytes).unwrap();
                replica.put(level, min.0, max.0, &bytes, header.timestamp_ms);
            }
        }
        replica
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        super::file_url(self.path())
    }

    pub fn file(&self, level: u8, min: u64, max: u64) -> PathBuf {
        let name = file_name(Txid(min), Txid(max));
        self.path().join(format!("ltx/{level}")).join(name)
    }

    /// Every (level, min, max), ascending.
    pub fn files(&self) -> Vec<(u8, u64, u64)> {
        let mut files = Vec::new();
        for level in 0..=9u8 {
            let Ok(entries) = fs::read_dir(self.path().join(format!("ltx/{level}"))) else {
                continue;
            };
            for entry in entries {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let (min, max) = parse_file_name(&name).unwrap();
                files.push((level, min.0, max.0));
            }
        }
        files.sort_unstable();
        files
    }

    pub fn put(&self, level: u8, min: u64, max: u64, bytes: &[u8], timestamp_ms: i64) {
        let path = self.file(level, min, max);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(timestamp_ms as u64);
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }

    /// Writes a file that brings a database from the bytes `old` to `new`.
    pub fn put_change(&self, level: u8, min: u64, max: u64, old: &[u8], new: &[u8], ps: usize) {
        self.put(level, min, max, &change(min, max, old, new, ps), at(max));
    }

    /// Writes the whole database `data` as the file 1 to `max`.
    pub fn put_snapshot(&self, level: u8, max: u64, data: &[u8], ps: usize) {
        self.put_change(level, 1, max, &[], data, ps);
    }
}

/// An LTX file with the pages of `new` that differ from `old`.
pub fn change(min: u64, max: u64, old: &[u8], new: &[u8], ps: usize) -> Vec<u8> {
    let pages = new.chunks(ps).enumerate().filter(|(n, page)| {
        let start = n * ps;
        old.get(start..start + ps) != Some(*page)
    });
    let pages: Vec<(Pgno, &[u8])> = pages.map(|(n, page)| (n as Pgno + 1, page)).collect();
    encode(min, max, (new.len() / ps) as Pgno, ps, &pages)
}

pub fn encode(min: u64, max: u64, commit: Pgno, ps: usize, pages: &[(Pgno, &[u8])]) -> Vec<u8> {
    let header = Header::new(ps as u32, commit, Txid(min), Txid(max), at(max));
    let mut encoder = Encoder::new(Vec::new(), header, PageForm::Block).unwrap();
    for (pgno, page) in pages {
        encoder.encode_page(*pgno, page).unwrap();
    }
    encoder.finish().unwrap().0
}

/// `count` pages that differ by number and seed and do not compress well.
pub fn noise(seed: u64, count: usize, ps: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(count * ps);
    while out.len() < count * ps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(count * ps);
    out
}

/// States of a real database, one after each of a few transactions; it grows,
/// changes and shrinks.
pub fn database_states() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA page_size=4096; PRAGMA auto_vacuum=INCREMENTAL; VACUUM;").unwrap();
    let count = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n < 60)";
    let steps = [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); CREATE INDEX i ON t(v)".to_owned(),
        format!("{count} INSERT INTO t(v) SELECT randomblob(900) FROM s"),
        "UPDATE t SET v = randomblob(700) WHERE id % 7 = 0".to_owned(),
        "DELETE FROM t WHERE id > 20; PRAGMA incremental_vacuum".to_owned(),
        format!("{count} INSERT INTO t(v) SELECT randomblob(1200) FROM s WHERE n < 40"),
        "DELETE FROM t WHERE id % 3 = 0".to_owned(),
    ];
    let mut states = Vec::new();
    for step in steps {
        db.execute_batch(&step).unwrap();
        states.push(fs::read(&path).unwrap());
    }
    states
}
