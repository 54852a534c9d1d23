//! The open spool segment: captured pages that have no TXID in storage yet.
//!
//! A log of batches; a page written again makes its older copy garbage. The
//! position file says how many bytes count, so a batch that was cut short by a
//! crash is simply overwritten. Little-endian:
//!
//! ```text
//! file   = header (64) batch*
//! header = magic "LSVFSSEG" | version u32 | page size u32 | TXID u64 | zeros
//! batch  = kind u32 | pages u32 | body length u64 | CRC-64 of the body u64
//!          | CRC-64 of bytes 0..24 u64 | body
//! body   = page numbers (u32 each) then pages        kind 1: pages
//!        | Seal (40 bytes)                           kind 2: the segment is sealed
//!        | database size u32                         kind 3: it shrank to this many pages
//!        | (page number, offset, length: u32 each)   kind 4: parts of pages that changed since
//!          for each run, then the bytes of all              their newest copy before; "pages"
//!                                                           counts the runs
//! ```
//!
//! Kind 4 came with version 2; version 1 is read all the same.

use std::path::{Path, PathBuf};

use crate::capture::page_map::{PageMap, Patch};
use crate::capture::recent::{Recent, Run};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::checksum::crc64;
use crate::ltx::{Pgno, Txid};
use crate::os::disk::{self as os, File, Owner};

const MAGIC: &[u8; 8] = b"LSVFSSEG";
const VERSION: u32 = 2;
const HEADER_LEN: u64 = 64;
const TXID_OFFSET: u64 = 16;
const BATCH_HEADER_LEN: usize = 32;
const KIND_PAGES: u32 = 1;
const KIND_SEAL: u32 = 2;
const KIND_SHRINK: u32 = 3;
const KIND_RUNS: u32 = 4;
const RUN_LEN: usize = 12;
const SEAL_LEN: usize = 40;
/// Pages in one batch at most; bounds the buffer that a reader needs.
pub const BATCH_PAGES_MAX: usize = 4096;
/// Runs in one batch at most.
const RUNS_PER_BATCH_MAX: usize = 4096;
/// Garbage that is tolerated beyond the bytes in use before a segment is
/// rewritten without it.
const GARBAGE_BYTES_MAX: u64 = 64 << 20;

/// What a sealed segment becomes: the facts of its L0 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Database size in pages after the segment.
    pub commit: Pgno,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Start of the captured WAL range in bytes.
    pub wal_offset: i64,
    /// Length of the captured WAL range in bytes.
    pub wal_size: i64,
    /// Salts of the WAL generation that the range belongs to.
    pub wal_salts: [u32; 2],
}

impl Seal {
    fn encode(&self) -> [u8; SEAL_LEN] {
        let mut b = [0u8; SEAL_LEN];
        b[0..4].copy_from_slice(&self.commit.to_le_bytes());
        b[4..8].copy_from_slice(&self.wal_salts[0].to_le_bytes());
        b[8..12].copy_from_slice(&self.wal_salts[1].to_le_bytes());
        b[16..24].copy_from_slice(&self.timestamp_ms.to_le_bytes());
        b[24..32].copy_from_slice(&self.wal_offset.to_le_bytes());
        b[32..40].copy_from_slice(&self.wal_size.to_le_bytes());
        b
    }

    fn decode(b: &[u8]) -> Option<Seal> {
        let b: &[u8; SEAL_LEN] = b.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
        let i64_at = |at: usize| i64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        Some(Seal {
            commit: u32_at(0),
            timestamp_ms: i64_at(16),
            wal_offset: i64_at(24),
            wal_size: i64_at(32),
            wal_salts: [u32_at(4), u32_at(8)],
        })
    }
}

/// A segment file and where the newest copy of each page lies in it.
#[derive(Debug)]
pub struct Segment {
    file: File,
    txid: Txid,
    generation: u32,
    page_size: u32,
    len: u64,
    /// Bytes whose batches are in `pages`: less than `len` while what another
    /// process appended was not needed.
    mapped: u64,
    pages: PageMap,
    /// What was appended last by [`Segment::append_changes`], and is the newest still.
    recent: Recent,
    seal: Option<Seal>,
    scratch: Vec<u8>,
    owner: Option<Owner>,
}

/// Name of the segment file of `txid`, generation `generation`.
pub fn file_name(txid: Txid, generation: u32) -> String {
    format!("{txid}.{generation:08x}.segment")
}

/// The TXID and generation in a segment file's name.
pub fn parse_file_name(name: &str) -> Option<(Txid, u32)> {
    let (txid, rest) = name.strip_suffix(".segment")?.split_once('.')?;
    let (txid, generation) = (txid.parse().ok()?, u32::from_str_radix(rest, 16).ok()?);
    // A name spelled otherwise would be looked for in vain.
    (file_name(txid, generation) == name).then_some((txid, generation))
}

impl Segment {
    /// Makes an empty segment in `dir`, in place of whatever has its name: one
    /// file is one log, so that who has it open may trust what he read of it.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn create(
        dir: &Path,
        txid: Txid,
        generation: u32,
        page_size: u32,
        owner: Option<Owner>,
    ) -> Result<Segment> {
        let path = dir.join(file_name(txid, generation));
        os::remove_file(&path)?;
        let file = File::open_private(&path, owner)?;
        let mut header = [0u8; HEADER_LEN as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&page_size.to_le_bytes());
        header[16..24].copy_from_slice(&txid.0.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Segment {
            file,
            txid,
            generation,
            page_size,
            len: HEADER_LEN,
            mapped: HEADER_LEN,
            pages: PageMap::default(),
            recent: Recent::default(),
            seal: None,
            scratch: Vec::new(),
            owner,
        })
    }

    /// Opens a segment and checks every batch in its first `len` bytes
    /// (`None`: all of the file).
    ///
    /// # Errors
    /// `Corrupt` when a batch is torn or altered, `NotFound` when there is no
    /// such file.
    pub fn open(
        dir: &Path,
        txid: Txid,
        generation: u32,
        len: Option<u64>,
        owner: Option<Owner>,
    ) -> Result<Segment> {
        let mut segment = Self::attach(dir, txid, generation, len, owner)?;
        segment.load()?;
        Ok(segment)
    }

    /// Opens a segment of `len` bytes (`None`: all of the file) to append to it;
    /// its batches are read when somebody asks for them by [`Segment::load`].
    ///
    /// # Errors
    /// `Corrupt` when it is no such segment, `NotFound` when there is no such file.
    pub fn attach(
        dir: &Path,
        txid: Txid,
        generation: u32,
        len: Option<u64>,
        owner: Option<Owner>,
    ) -> Result<Segment> {
        let path = dir.join(file_name(txid, generation));
        let file = File::open_existing(&path)?;
        let mut header = [0u8; HEADER_LEN as usize];
        file.read_exact_at(&mut header, 0)?;
        let page_size = u32::from_le_bytes(header[12..16].try_into().unwrap_or_default());
        let version = u32::from_le_bytes(header[8..12].try_into().unwrap_or_default());
        let named = u64::from_le_bytes(header[16..24].try_into().unwrap_or_default());
        if &header[..8] != MAGIC
            || !(1..=VERSION).contains(&version)
            || !(512..=65536).contains(&page_size)
            || !page_size.is_power_of_two()
            || named != txid.0
        {
            return Err(corrupt(&path, "its header is not that of a spool segment"));
        }
        let end = match len {
            Some(len) => len,
            None => file.len()?,
        };
        Ok(Segment {
            file,
            txid,
            generation,
            page_size,
            len: end.max(HEADER_LEN),
            mapped: HEADER_LEN,
            pages: PageMap::default(),
            recent: Recent::default(),
            seal: None,
            scratch: Vec::new(),
            owner,
        })
    }

    /// Another process appended: `len` bytes count now.
    pub fn extend_to(&mut self, len: u64) {
        if len > self.len {
            self.recent.clear();
            self.len = len;
        }
    }

    /// Whether this is still the file of that name.
    pub fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }

    /// Reads and checks the batches that were not read yet.
    ///
    /// # Errors
    /// `Corrupt` when a batch is torn or altered.
    pub fn load(&mut self) -> Result<()> {
        let path = self.file.path().to_owned();
        // A sealed segment ends with its seal, though the file may be longer: of
        // a batch that a crash cut short, only the beginning was overwritten.
        let end = self.len;
        while self.mapped < end && self.seal.is_none() {
            let at = self.mapped;
            let mut h = [0u8; BATCH_HEADER_LEN];
            self.file.read_exact_at(&mut h, at)?;
            let kind = u32::from_le_bytes(h[0..4].try_into().unwrap_or_default());
            let count = u32::from_le_bytes(h[4..8].try_into().unwrap_or_default()) as usize;
            let body_len = u64::from_le_bytes(h[8..16].try_into().unwrap_or_default());
            let body_crc = u64::from_le_bytes(h[16..24].try_into().unwrap_or_default());
            let crc = u64::from_le_bytes(h[24..32].try_into().unwrap_or_default());
            let expected = match kind {
                KIND_PAGES if count <= BATCH_PAGES_MAX => {
                    Some(count as u64 * (4 + self.page_len()))
                }
                KIND_SEAL => Some(SEAL_LEN as u64),
                KIND_SHRINK => Some(4),
                KIND_RUNS if count <= RUNS_PER_BATCH_MAX => Some(body_len)
                    .filter(|&n| n <= count as u64 * (RUN_LEN as u64 + self.page_len())),
                _ => None,
            };
            let body_at = at + BATCH_HEADER_LEN as u64;
            let fits = Some(body_len) == expected && body_at + body_len <= end;
            if crc64(&h[..24]) != crc || !fits {
                return Err(corrupt(&path, &format!("the batch at byte {at} is torn")));
            }
            self.scratch.resize(body_len as usize, 0);
            self.file.read_exact_at(&mut self.scratch, body_at)?;
            if crc64(&self.scratch) != body_crc {
                return Err(corrupt(&path, &format!("the batch at byte {at} is altered")));
            }
            match kind {
                KIND_PAGES => {
                    let data_at = body_at + count as u64 * 4;
                    for i in 0..count {
                        let pgno = u32::from_le_bytes(
                            self.scratch[i * 4..i * 4 + 4].try_into().unwrap_or_default(),
                        );
                        self.pages.insert(pgno, data_at + i as u64 * self.page_len());
                    }
                }
                KIND_SHRINK => {
                    let commit =
                        u32::from_le_bytes(self.scratch[..4].try_into().unwrap_or_default());
                    self.pages.retain_up_to(commit);
                }
                KIND_RUNS if !self.map_runs(count, body_at) => {
                    return Err(corrupt(&path, &format!("the batch at byte {at} cannot be")));
                }
                KIND_RUNS => {}
                _ => self.seal = Seal::decode(&self.scratch),
            }
            self.mapped = body_at + body_len;
        }
        self.len = self.mapped;
        Ok(())
    }

    /// Maps a batch of runs, whose body is in `scratch` and lies at byte `body_at`;
    /// false when no segment has such a batch.
    fn map_runs(&mut self, count: usize, body_at: u64) -> bool {
        let Some((list, bytes)) = self.scratch.split_at_checked(count * RUN_LEN) else {
            return false;
        };
        let mut at = body_at + list.len() as u64;
        let end = at + bytes.len() as u64;
        for run in list.chunks_exact(RUN_LEN) {
            let word = |i: usize| u32::from_le_bytes(run[i..i + 4].try_into().unwrap_or_default());
            let run = Run { pgno: word(0), at: word(4), len: word(8) };
            let fits = u64::from(run.at) + u64::from(run.len) <= self.page_len();
            if !fits || !self.pages.patch(run.pgno, Patch { from: at, at: run.at, len: run.len }) {
                return false;
            }
            at += u64::from(run.len);
        }
        at == end
    }

    /// Whether every batch was read.
    pub fn is_loaded(&self) -> bool {
        self.mapped == self.len
    }

    fn page_len(&self) -> u64 {
        u64::from(self.page_size)
    }

    /// Appends pages; `pages` yields at most [`BATCH_PAGES_MAX`] of them.
    ///
    /// # Errors
    /// `Full` when the device has no room; the segment stays as it was.
    pub fn append<'a>(
        &mut self,
        pages: impl ExactSizeIterator<Item = (Pgno, &'a [u8])> + Clone,
    ) -> Result<()> {
        let count = pages.len();
        if count == 0 {
            return Ok(());
        }
        for (pgno, _) in pages.clone() {
            self.recent.forget(pgno);
        }
        let mut batch = std::mem::take(&mut self.scratch);
        batch.clear();
        batch.resize(BATCH_HEADER_LEN, 0);
        for (pgno, _) in pages.clone() {
            batch.extend_from_slice(&pgno.to_le_bytes());
        }
        for (_, data) in pages.clone() {
            batch.extend_from_slice(data);
        }
        let data_at = self.len + (BATCH_HEADER_LEN + count * 4) as u64;
        let mapped = self.is_loaded();
        let wrote = self.write_batch(KIND_PAGES, count as u32, &mut batch);
        self.scratch = batch;
        wrote?;
        if !mapped {
            return Ok(());
        }
        self.mapped = self.len;
        for (i, (pgno, _)) in pages.enumerate() {
            self.pages.insert(pgno, data_at + i as u64 * self.page_len());
        }
        Ok(())
    }

    /// As [`Segment::append`], for pages that come again and again: of those that
    /// were appended so before, only what differs is.
    ///
    /// # Errors
    /// `Full` when the device has no room; then some of the pages may be appended.
    pub fn append_changes<'a>(
        &mut self,
        pages: impl ExactSizeIterator<Item = (Pgno, &'a [u8])> + Clone,
    ) -> Result<()> {
        if !Recent::takes(pages.len()) {
            return self.append(pages);
        }
        let (mut runs, mut changed, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        for (pgno, data) in pages {
            let before = runs.len();
            if self.recent.differences(pgno, data, &mut runs) {
                changed.push((pgno, data, runs.len() - before));
            } else {
                whole.push((pgno, data));
            }
        }
        self.append(whole.iter().copied())?;
        for (pgno, data) in whole {
            self.recent.keep(pgno, data, None);
        }
        self.append_runs(&runs, &changed)?;
        for (pgno, data, runs) in changed {
            self.recent.keep(pgno, data, Some(runs));
        }
        Ok(())
    }

    /// Appends `runs`, which are those of the pages `changed`, in their order.
    fn append_runs(&mut self, runs: &[Run], changed: &[(Pgno, &[u8], usize)]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.scratch);
        batch.clear();
        batch.resize(BATCH_HEADER_LEN, 0);
        for run in runs {
            for word in [run.pgno, run.at, run.len] {
                batch.extend_from_slice(&word.to_le_bytes());
            }
        }
        let mut from = self.len + batch.len() as u64;
        let mut left = runs.iter();
        for (_, data, count) in changed {
            for run in left.by_ref().take(*count) {
                batch.extend_from_slice(&data[run.at as usize..(run.at + run.len) as usize]);
            }
        }
        let mapped = self.is_loaded();
        let wrote = self.write_batch(KIND_RUNS, runs.len() as u32, &mut batch);
        self.scratch = batch;
        wrote?;
        if mapped {
            self.mapped = self.len;
            for run in runs {
                self.pages.patch(run.pgno, Patch { from, at: run.at, len: run.len });
                from += u64::from(run.len);
            }
        }
        Ok(())
    }

    /// Records that the database shrank to `commit` pages: later pages are dropped.
    ///
    /// # Errors
    /// `Full` when the device has no room; the segment stays as it was.
    pub fn shrink(&mut self, commit: Pgno) -> Result<()> {
        self.recent.retain_up_to(commit);
        let mut batch = vec![0u8; BATCH_HEADER_LEN];
        batch.extend_from_slice(&commit.to_le_bytes());
        let mapped = self.is_loaded();
        self.write_batch(KIND_SHRINK, 0, &mut batch)?;
        if mapped {
            self.mapped = self.len;
            self.pages.retain_up_to(commit);
        }
        Ok(())
    }

    /// Ends the segment. After this nothing is appended.
    ///
    /// # Errors
    /// `Full` when the device has no room, `Corrupt` when a batch is torn.
    pub fn seal(&mut self, seal: Seal) -> Result<()> {
        self.load()?;
        self.recent.clear();
        let mut batch = vec![0u8; BATCH_HEADER_LEN];
        batch.extend_from_slice(&seal.encode());
        self.write_batch(KIND_SEAL, 0, &mut batch)?;
        self.mapped = self.len;
        self.seal = Some(seal);
        Ok(())
    }

    /// Takes the seal back, which began at byte `len`: its TXID was not recorded as given.
    pub fn unseal(&mut self, len: u64) {
        self.seal = None;
        self.len = len;
        self.mapped = len;
    }

    fn write_batch(&mut self, kind: u32, count: u32, batch: &mut [u8]) -> Result<()> {
        let body_len = (batch.len() - BATCH_HEADER_LEN) as u64;
        let body_crc = crc64(&batch[BATCH_HEADER_LEN..]);
        batch[0..4].copy_from_slice(&kind.to_le_bytes());
        batch[4..8].copy_from_slice(&count.to_le_bytes());
        batch[8..16].copy_from_slice(&body_len.to_le_bytes());
        batch[16..24].copy_from_slice(&body_crc.to_le_bytes());
        let crc = crc64(&batch[..24]);
        batch[24..32].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(batch, self.len)?;
        self.len += batch.len() as u64;
        Ok(())
    }

    /// Whether the file is long enough for a rewrite to be thought of.
    pub fn is_long(&self) -> bool {
        self.len > GARBAGE_BYTES_MAX
    }

    /// Whether so much of the file is garbage that a rewrite pays. The segment
    /// is loaded.
    pub fn wants_rewrite(&self) -> bool {
        let live = self.pages.len() as u64 * self.page_len();
        self.len.saturating_sub(live) > live + GARBAGE_BYTES_MAX
    }

    /// Copies the pages in use to the next generation's file. The old file
    /// stays until the caller removes it, after the position names the new one.
    ///
    /// # Errors
    /// `Full` when the device has no room; the segment stays as it was.
    pub fn rewrite(&mut self, dir: &Path) -> Result<PathBuf> {
        self.load()?;
        let mut fresh =
            Segment::create(dir, self.txid, self.generation + 1, self.page_size, self.owner)?;
        let order = self.pages.sorted();
        let batch_pages = (1 << 20) / self.page_size as usize;
        let mut data = vec![0u8; batch_pages * self.page_size as usize];
        for chunk in order.chunks(batch_pages) {
            let page = self.page_size as usize;
            for (i, &(pgno, at)) in chunk.iter().enumerate() {
                self.read_page(pgno, at, &mut data[i * page..(i + 1) * page])?;
            }
            fresh.append(
                chunk.iter().enumerate().map(|(i, &(p, _))| (p, &data[i * page..(i + 1) * page])),
            )?;
        }
        let old = self.file.path().to_owned();
        *self = fresh;
        Ok(old)
    }

    /// Gives the segment another TXID, and its file the name. What is in it stays
    /// as it is: a process that dies before the position names the new file leaves
    /// a gap.
    ///
    /// # Errors
    /// The file could not be renamed; the segment stays as it was.
    pub fn retitle(&mut self, dir: &Path, txid: Txid, generation: u32) -> Result<()> {
        let path = dir.join(file_name(txid, generation));
        let before = self.txid.0.to_le_bytes();
        self.file.write_all_at(&txid.0.to_le_bytes(), TXID_OFFSET)?;
        if let Err(e) = self.file.rename(&path) {
            self.file.write_all_at(&before, TXID_OFFSET)?;
            return Err(e);
        }
        (self.txid, self.generation) = (txid, generation);
        Ok(())
    }

    /// Calls `visit` with every page in ascending order of page number. The
    /// segment is loaded.
    ///
    /// # Errors
    /// A read failed, or `visit` did.
    pub fn for_each_page(&self, mut visit: impl FnMut(Pgno, &[u8]) -> Result<()>) -> Result<()> {
        let mut page = vec![0u8; self.page_size as usize];
        for (pgno, at) in self.pages.sorted() {
            self.read_page(pgno, at, &mut page)?;
            visit(pgno, &page)?;
        }
        Ok(())
    }

    /// Reads the page whose newest whole copy lies at byte `at`.
    fn read_page(&self, pgno: Pgno, at: u64, page: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(page, at)?;
        for patch in self.pages.patches(pgno) {
            let part = patch.at as usize..(patch.at + patch.len) as usize;
            self.file.read_exact_at(&mut page[part], patch.from)?;
        }
        Ok(())
    }

    /// Whether the newest copy of `pgno` is here. The segment is loaded.
    pub fn contains(&self, pgno: Pgno) -> bool {
        self.pages.contains(pgno)
    }

    /// The pages that are here. The segment is loaded.
    pub fn page_numbers(&self) -> Vec<Pgno> {
        self.pages.sorted().into_iter().map(|(pgno, _)| pgno).collect()
    }

    /// Number of pages in use, as far as it was read.
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Bytes of the file that count.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no page; what was not read counts as one.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.is_loaded()
    }

    /// TXID that it gets, or got when sealed.
    pub fn txid(&self) -> Txid {
        self.txid
    }

    /// Generation of its file.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Page size in bytes.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Its seal, when it has one.
    pub fn sealed(&self) -> Option<Seal> {
        self.seal
    }

    /// Path of its file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Removes its file.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove(self) -> Result<()> {
        os::remove_file(self.file.path())
    }
}

fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("spool segment {}: {why}", path.display()))
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
