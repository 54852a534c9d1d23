//! Replays the inputs in `data/fuzz`: each once looked dangerous, none may
//! panic, and damaged files must be refused.
//!
//! A new finding is a file in the folder of the format it is for. Names that
//! begin with `ok-` are valid. Every input also goes through the fuzz target of
//! its folder, whose properties are in `fuzz/targets`.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use litestream::compactor::merge;
use litestream::ltx::{Checks, Decoder, PageForm, PageIndex, decode_page, page_index, verify};
use litestream::sqlite::{CheckpointInfo, DatabaseHeader, WalHeader, WalIndexHeader};
use litestream::wal_reader::{SeekSource, WalPosition, WalReader, newest_pages};
use targets::extension::{ffi, last_error, raw_name};

fn corpus(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(folder);
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

fn is_valid(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("ok-")
}

#[test]
fn ltx_files() {
    for (path, bytes) in corpus("ltx") {
        assert_eq!(verify(&bytes[..]).is_ok(), is_valid(&path), "{}", path.display());
        let merged = merge(vec![&bytes[..]], Vec::new(), PageForm::Block);
        assert_eq!(merged.is_ok(), is_valid(&path), "{}", path.display());
        let _ = PageIndex::from_suffix(&bytes, bytes.len() as u64);
        if let Ok(mut decoder) = Decoder::with_checks(&bytes[..], Checks::AsLitestream) {
            let mut page = vec![0; decoder.header().page_size as usize];
            while let Ok(Some(_)) = decoder.next_page(&mut page) {}
            let _ = decoder.finish();
        }
    }
}

#[test]
fn page_frames_and_indexes() {
    for (path, bytes) in corpus("index") {
        let decoded = page_index::decode(&bytes, 464);
        assert_eq!(decoded.is_ok(), is_valid(&path), "{}", path.display());
        let _ = PageIndex::from_suffix(&bytes, u64::MAX);
        let _ = decode_page(&bytes, 512, &mut [0; 512]);
    }
}

#[test]
fn wal_files() {
    for (path, bytes) in corpus("wal") {
        let header = WalHeader::decode(&bytes);
        assert_eq!(header.is_ok(), is_valid(&path), "{}", path.display());
        let _ = (WalIndexHeader::decode(&bytes), CheckpointInfo::decode(&bytes));
        let _ = DatabaseHeader::decode(&bytes);
        let Ok(header) = header else { continue };
        let at = WalPosition::start(&header);
        for max_frame in [1, 2, u32::MAX] {
            let source = SeekSource(Cursor::new(&bytes));
            let _ = newest_pages(&mut WalReader::trusted(source, at, max_frame));
        }
        let mut reader = WalReader::verified(SeekSource(Cursor::new(&bytes)), at);
        newest_pages(&mut reader).unwrap();
    }
}

#[test]
fn properties_of_every_target() {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz"));
    for folder in folders.unwrap().map(|f| f.unwrap().path()).filter(|p| p.is_dir()) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(targets::TARGETS.iter().any(|t| t.0 == name), "no target for {name}");
    }
    for (name, target) in targets::TARGETS {
        for (path, bytes) in corpus(name) {
            let held = std::panic::catch_unwind(|| target(&bytes));
            assert!(held.is_ok(), "{}", path.display());
        }
    }
}
