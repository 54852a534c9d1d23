//! Every replica that a real Litestream v0.5 wrote: each file decodes, and each
//! chain gives the database that Litestream itself restored from it.

mod ltx_support;

use std::fs;
use std::path::{Path, PathBuf};

use litestream::compactor::merge;
use litestream::ltx::{PageForm, Txid, parse_file_name, verify};
use ltx_support::decode;
use sha2::{Digest, Sha256};

#[derive(serde::Deserialize)]
struct Replica {
    name: String,
    page_size: u32,
    restored_file_sha256: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/interop")
}

fn replicas() -> Vec<Replica> {
    let text = fs::read(root().join("manifest.json")).unwrap();
    let all: Vec<Replica> = serde_json::from_slice(&text).unwrap();
    all.into_iter().filter(|r| r.name.starts_with("v0.5")).collect()
}

/// (level, min, max, path), ascending.
fn files(replica: &Replica) -> Vec<(u8, Txid, Txid, PathBuf)> {
    let mut all = Vec::new();
    for level in fs::read_dir(root().join(&replica.name).join("ltx")).unwrap() {
        let dir = level.unwrap().path();
        let level = dir.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for file in fs::read_dir(&dir).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let (min, max) = parse_file_name(name).unwrap();
            all.push((level, min, max, path));
        }
    }
    all.sort();
    all
}

/// From `level`'s newest snapshot on, always the file that reaches farthest.
fn chain(files: &[(u8, Txid, Txid, PathBuf)], level: u8) -> Option<Vec<Vec<u8>>> {
    let start = files.iter().filter(|f| f.0 == level && f.1 == Txid(1)).max_by_key(|f| f.2)?;
    let mut picked = vec![start];
    let mut at = start.2;
    while let Some(next) =
        files.iter().filter(|f| f.0 < 9 && f.1 <= at.next() && f.2 > at).max_by_key(|f| f.2)
    {
        picked.push(next);
        at = next.2;
    }
    Some(picked.iter().map(|f| fs::read(&f.3).unwrap()).collect())
}

fn database_sha256(merged: &[u8]) -> String {
    let (header, pages, _) = decode(merged).unwrap();
    assert_eq!(pages.len(), header.commit as usize);
    let mut hash = Sha256::new();
    for (_, page) in &pages {
        hash.update(page);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Every file of every version is read, whatever form its pages have.
#[test]
fn r_51_every_file_of_litestream_decodes() {
    let mut count = 0;
    for replica in replicas() {
        for (_, min, max, path) in files(&replica) {
            let (header, _) =
                verify(fs::File::open(&path).unwrap()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert_eq!((header.min_txid, header.max_txid), (min, max));
            assert_eq!(header.page_size, replica.page_size);
            count += 1;
        }
    }
    assert_eq!(count, 107);
}

#[test]
fn every_chain_merges_to_the_restored_database() {
    for replica in replicas() {
        let files = files(&replica);
        for level in [0, 1, 2, 9] {
            let Some(chain) = chain(&files, level) else { continue };
            for form in [PageForm::Block, PageForm::Frame] {
                let inputs = chain.iter().map(|f| &f[..]).collect();
                let (merged, header, trailer) = merge(inputs, Vec::new(), form).unwrap();
                assert_eq!(trailer.post_apply_checksum, 0);
                assert!(header.is_snapshot());
                let sha = database_sha256(&merged);
                assert_eq!(sha, replica.restored_file_sha256, "{} from {level}", replica.name);
            }
        }
    }
}
