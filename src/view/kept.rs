//! What a process needs to open a replica without storage, in the cache
//! directory: the page indexes of files, and the chain of files that made the newest view.
//!
//! | key | part | content |
//! |---|---|---|
//! | `index`, URL, file, tag | 0 | checksum (8 bytes LE), header (100 bytes, or none), page index |
//! | `chain`, URL | 0 | number of the chain (8 bytes LE) |
//! | `chain`, URL, number | n | the n-th file: its name, size, time and tag as text |

use std::sync::Arc;

use super::disk_cache::{DiskCache, DiskKey};
use super::file::RemoteFile;
use crate::ltx::{HEADER_SIZE, Header, PageIndex, TRAILER_SIZE, Txid, page_index};
use crate::replica_client::{FileId, FileInfo, Listed, Tag};
use crate::tasks::{self, Mutex};

/// End marker, index length and trailer: what a file has beside pages and index.
const AROUND_INDEX: u64 = 6 + 8 + TRAILER_SIZE as u64;
/// Files of one chain that are remembered.
const CHAIN_MAX: u32 = 1 << 16;

/// The index of a file as it was kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeptIndex {
    pub(crate) index: PageIndex,
    pub(crate) header: Option<Header>,
    /// File checksum of the trailer.
    pub(crate) checksum: u64,
}

impl KeptIndex {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.checksum.to_le_bytes().to_vec();
        bytes.push(u8::from(self.header.is_some()));
        if let Some(header) = &self.header {
            bytes.extend_from_slice(&header.encode());
        }
        bytes.extend_from_slice(&page_index::encode(&self.index));
        bytes
    }

    fn decode(bytes: &[u8], size: u64) -> Option<KeptIndex> {
        let (checksum, rest) = bytes.split_first_chunk::<8>()?;
        let (has_header, mut rest) = rest.split_first()?;
        let mut header = None;
        if *has_header == 1 {
            let (front, index) = rest.split_at_checked(HEADER_SIZE)?;
            header = Some(Header::decode(front).ok()?);
            rest = index;
        }
        let pages_end = size.checked_sub(AROUND_INDEX)?.checked_sub(rest.len() as u64)?;
        let index = page_index::decode(rest, pages_end).ok()?;
        Some(KeptIndex { index, header, checksum: u64::from_le_bytes(*checksum) })
    }
}

/// What one replica has in the cache directory.
#[derive(Debug)]
pub(crate) struct Kept {
    disk: Arc<DiskCache>,
    url: String,
    chain: Mutex<Chain>,
}

/// The chain that this process keeps, once it began one.
#[derive(Debug, Default)]
struct Chain {
    number: Option<u64>,
    files: u32,
}

impl Kept {
    /// What `disk` has of the replica at `url`.
    pub(crate) fn new(disk: Arc<DiskCache>, url: &str) -> Kept {
        Kept { disk, url: url.to_owned(), chain: Mutex::default() }
    }

    fn index_key(&self, id: &FileId, size: u64, tag: &Tag) -> DiskKey {
        DiskKey::of(&["index", &self.url, &id.to_string(), &size.to_string(), tag.as_str()])
    }

    fn chain_key(&self, number: Option<u64>) -> DiskKey {
        match number {
            None => DiskKey::of(&["chain", &self.url]),
            Some(number) => DiskKey::of(&["chain", &self.url, &number.to_string()]),
        }
    }

    /// The index of a listed file, if storage told its version.
    pub(crate) fn index(&self, listed: &Listed) -> Option<KeptIndex> {
        let (info, tag) = (&listed.info, listed.tag.as_ref()?);
        let bytes = self.disk.get(self.index_key(&info.id, info.size, tag), 0)?;
        KeptIndex::decode(&bytes, info.size)
    }

    /// Keeps the index of a file.
    pub(crate) fn keep_index(&self, id: &FileId, size: u64, tag: &Tag, index: &KeptIndex) {
        let key = self.index_key(id, size, tag);
        self.disk.put(key, &[(0, &index.encode())], tasks::clock().now_ms());
    }

    /// Keeps `files` as the chain of the newest view, behind those that are there
    /// unless it is `anew`.
    pub(crate) fn keep_chain<'a>(
        &self,
        files: impl Iterator<Item = &'a Arc<RemoteFile>>,
        anew: bool,
    ) {
        let lines: Vec<String> = files.map(|file| line_of(file)).collect();
        if lines.is_empty() {
            return;
        }
        let mut chain = tasks::lock(&self.chain);
        let now_ms = tasks::clock().now_ms();
        let begins = anew || chain.number.is_none();
        if begins {
            *chain = Chain { number: Some(tasks::random().next_u64()), files: 0 };
        }
        let key = self.chain_key(chain.number);
        let parts = (chain.files..CHAIN_MAX).zip(lines.iter().map(String::as_bytes));
        let parts: Vec<(u32, &[u8])> = parts.collect();
        chain.files += parts.len() as u32;
        self.disk.put(key, &parts, now_ms);
        // The name comes last: a chain is whole when it is found.
        if let (true, Some(number)) = (begins, chain.number) {
            self.disk.put(self.chain_key(None), &[(0, &number.to_le_bytes())], now_ms);
        }
    }

    /// The files of the chain that was kept last; empty when there is none.
    pub(crate) fn chain(&self) -> Vec<Listed> {
        let number = self.disk.get(self.chain_key(None), 0);
        let number = number.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let Some(number) = number else { return Vec::new() };
        let key = self.chain_key(Some(number));
        let lines = (0..CHAIN_MAX).map_while(|part| self.disk.get(key, part));
        lines.map_while(|line| listed_of(&line)).collect()
    }
}

fn line_of(file: &RemoteFile) -> String {
    let RemoteFile { id, size, created_at_ms, tag, .. } = file;
    format!("{} {} {} {size} {created_at_ms} {tag}", id.level, id.min.0, id.max.0)
}

fn listed_of(line: &[u8]) -> Option<Listed> {
    let mut fields = std::str::from_utf8(line).ok()?.splitn(6, ' ');
    let mut next = || fields.next();
    let level = next()?.parse().ok()?;
    let (min, max) = (Txid(next()?.parse().ok()?), Txid(next()?.parse().ok()?));
    let (size, created_at_ms) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let tag = Some(Tag::new(next()?));
    Some(Listed { info: FileInfo { id: FileId::new(level, min, max), size, created_at_ms }, tag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::NoLog;
    use crate::view::testing::{Storage, leaves};

    fn kept(dir: &std::path::Path) -> Kept {
        let disk = DiskCache::open(dir, 64 << 20, Arc::new(NoLog));
        Kept::new(Arc::new(disk), "s3://bucket/app")
    }

    fn page_index(file: &RemoteFile) -> PageIndex {
        let mut index = PageIndex::default();
        file.index.iter().for_each(|entry| index.push(entry).unwrap());
        index
    }

    #[test]
    fn indexes_come_back_and_belong_to_one_version() {
        let dir = tempfile::tempdir().unwrap();
        let file = Storage::default().add(1, &leaves(300, 4096));
        let header = Header::new(4096, 300, Txid(1), Txid(1), 77);
        for header in [None, Some(header)] {
            let index = KeptIndex { index: page_index(&file), header, checksum: 5 };
            kept(dir.path()).keep_index(&file.id, file.size, &file.tag, &index);
            let mut listed = listed_of(line_of(&file).as_bytes()).unwrap();
            assert_eq!(kept(dir.path()).index(&listed), Some(index));
            listed.tag = Some(Tag::new("another"));
            assert_eq!(kept(dir.path()).index(&listed), None);
            listed.tag = None;
            assert_eq!(kept(dir.path()).index(&listed), None);
        }
        let index = KeptIndex { index: page_index(&file), header: None, checksum: 5 };
        let bytes = index.encode();
        assert!(KeptIndex::decode(&bytes, file.size + 1).is_none());
        for end in 0..bytes.len() {
            assert!(KeptIndex::decode(&bytes[..end], file.size).is_none());
        }
    }

    #[test]
    fn the_chain_grows_and_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::default();
        let files: Vec<_> = (1..6).map(|txid| storage.add(txid, &leaves(3, 512))).collect();
        let one = kept(dir.path());
        let chain = || {
            let listed = kept(dir.path()).chain();
            listed.iter().map(|listed| listed.info.id.max.0).collect::<Vec<_>>()
        };
        assert!(chain().is_empty());
        one.keep_chain(files[..2].iter(), true);
        one.keep_chain(files[2..3].iter(), false);
        one.keep_chain([].iter(), true);
        assert_eq!(chain(), [1, 2, 3]);
        one.keep_chain(files[3..].iter(), true);
        assert_eq!(chain(), [4, 5]);
        kept(dir.path()).keep_chain(files[4..].iter(), false);
        assert_eq!(chain(), [5]);
        let listed = kept(dir.path()).chain().remove(0);
        let file = &files[4];
        let info = FileInfo { id: file.id, size: file.size, created_at_ms: file.created_at_ms };
        assert_eq!(listed, Listed { info, tag: Some(file.tag.clone()) });
    }
}
