//! What a local copy leaves for the next process: beside the file `NAME` the
//! file `NAME.meta`.
//!
//! | line | what it is |
//! |---|---|
//! | 1 | the transaction whose state was copied, decimal, as Litestream writes it |
//! | 2 | JSON: which stored file each page came from |
//!
//! It is written when the copy is closed, after the copy was made durable, and
//! removed before anything is written to the copy again. So it is there only
//! beside a copy that it describes. A stored file is recognised by its name, its
//! size and its checksum; a page whose newest version is in another file by now
//! is fetched again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::RemoteFile;
use super::state::View;
use crate::error::Result;
use crate::ltx::{Pgno, Txid};
use crate::os::replace::with_suffix;
use crate::os::{self, Access, disk};
use crate::replica_client::FileId;

const FORMAT: u32 = 1;
/// Runs that are written down; pages beyond them are fetched again.
const RUNS_MAX: usize = 1 << 20;

/// A copy that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    format: u32,
    /// Of the replica, without credentials.
    url: String,
    txid: Txid,
    page_size: u32,
    /// Of the copy, by which it is told that nobody else wrote it.
    size: u64,
    mtime_ns: i64,
    files: Vec<SavedFile>,
    /// First page, number of pages, index of their file.
    runs: Vec<(Pgno, u32, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedFile {
    level: u8,
    min: Txid,
    max: Txid,
    size: u64,
    checksum: u64,
}

impl SavedFile {
    fn is(&self, file: &RemoteFile) -> bool {
        FileId::new(self.level, self.min, self.max) == file.id
            && self.size == file.size
            && self.checksum == file.checksum
    }
}

impl Saved {
    /// The pages of `view` that a copy has; `origin` is the number of the file that
    /// a page there came from.
    pub(crate) fn of(view: &View, url: &str, origin: impl Fn(Pgno) -> u32) -> Saved {
        let (mut files, mut known) = (Vec::new(), HashMap::new());
        let mut runs: Vec<(Pgno, u32, usize)> = Vec::new();
        for pgno in 1..=view.commit() {
            let Some((file, _)) = view.index().get(pgno) else { continue };
            if origin(pgno) != file.uid {
                continue;
            }
            let index = *known.entry(file.uid).or_insert_with(|| {
                let FileId { level, min, max } = file.id;
                let (size, checksum) = (file.size, file.checksum);
                files.push(SavedFile { level, min, max, size, checksum });
                files.len() - 1
            });
            let is_full = runs.len() == RUNS_MAX;
            match runs.last_mut() {
                Some((first, count, last)) if *last == index && *first + *count == pgno => {
                    *count += 1;
                }
                _ if is_full => break,
                _ => runs.push((pgno, 1, index)),
            }
        }
        Saved {
            format: FORMAT,
            url: url.to_owned(),
            txid: view.txid(),
            page_size: view.page_size(),
            size: 0,
            mtime_ns: 0,
            files,
            runs,
        }
    }

    /// Whether it says anything about any page.
    pub(crate) fn has_pages(&self) -> bool {
        !self.runs.is_empty()
    }

    /// The numbers of the files that the copy's pages came from, where they are
    /// those of `view`; 0 elsewhere.
    pub(crate) fn origins(&self, view: &View) -> Vec<u32> {
        let mut origins = vec![0; view.commit() as usize];
        if self.page_size != view.page_size() {
            return origins;
        }
        let uid = |saved: &SavedFile| view.index().files().find(|f| saved.is(f)).map(|f| f.uid);
        let uids: Vec<Option<u32>> = self.files.iter().map(uid).collect();
        for &(first, count, file) in &self.runs {
            let Some(uid) = uids.get(file).copied().flatten() else { continue };
            for pgno in first..first.saturating_add(count) {
                let newest = view.index().get(pgno).map(|(file, _)| file.uid);
                if let Some(slot) = origins.get_mut((pgno as usize).wrapping_sub(1))
                    && newest == Some(uid)
                {
                    *slot = uid;
                }
            }
        }
        origins
    }

    /// Leaves it beside the copy `path`, which is durable.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn write(mut self, path: &Path) -> Result<()> {
        let Some(stat) = disk::stat(path)? else { return Ok(()) };
        (self.size, self.mtime_ns) = (stat.size, stat.mtime_ns);
        let json = serde_json::to_string(&self).unwrap_or_default();
        let text = format!("{}\n{json}\n", self.txid.0);
        os::write_atomic(&meta_path(path), text.as_bytes(), &Access::PRIVATE)
    }
}

fn meta_path(path: &Path) -> PathBuf {
    with_suffix(path, ".meta")
}

/// Takes what was left beside the copy `path` of the replica at `url`; none when
/// it does not describe what is there.
///
/// # Errors
/// It could not be read or removed.
pub(crate) fn take(path: &Path, url: &str) -> Result<Option<Saved>> {
    let meta = meta_path(path);
    let Some(bytes) = disk::read(&meta)? else { return Ok(None) };
    disk::remove_file(&meta)?;
    // After a power loss it must not be there again beside a copy that changed.
    disk::sync_dir(os::parent_of(path))?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let json = text.split_once('\n').map_or("", |(_, json)| json);
    let Ok(saved) = serde_json::from_str::<Saved>(json) else { return Ok(None) };
    let Some(stat) = disk::stat(path)? else { return Ok(None) };
    let fits = saved.format == FORMAT
        && saved.url == url
        && (saved.size, saved.mtime_ns) == (stat.size, stat.mtime_ns);
    Ok(fits.then_some(saved))
}
