//! From files to the final state of every page.
//!
//! The newest file is read first and a set remembers which pages it brought,
//! so a page is delivered once, in its final version, and nothing is merged or
//! written twice. Every file is read to its end, for its checksum.

use std::sync::Arc;

use super::fetch::{Fetcher, FileReader};
use super::pages::PageSet;
use super::{PageSink, ReplayOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Decoder, HEADER_SIZE, Header, Pgno, Txid, lock_pgno};
use crate::plan::RestorePlan;
use crate::replica_client::{FileInfo, ReplicaClient};
use crate::tasks::Spawn;

/// Missing pages that an error names.
const MISSING_NAMED: usize = 5;

/// What a [`replay`] delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplaySummary {
    /// The transaction whose state it is.
    pub txid: Txid,
    /// When that transaction was captured, Unix milliseconds.
    pub timestamp_ms: i64,
    /// Bytes per page.
    pub page_size: u32,
    /// Database size in pages.
    pub commit: Pgno,
    /// Pages delivered; all but the lock page.
    pub pages: u64,
    /// Files read.
    pub files: usize,
    /// Bytes read from storage.
    pub bytes: u64,
}

/// Reads the files of `plan` and gives each page of the resulting state to
/// `sink` exactly once, in no particular order.
///
/// Blocks: call it where blocking is allowed, not on a thread of `rt`. Pages
/// are not to be trusted until it returned, since a file's checksum is at its
/// end. Holds some 20 MiB, whatever the size of the database.
///
/// # Errors
/// `Corrupt` when a file is not what its name and checksum say or when pages
/// are missing; `NotFound` when a file of the plan is gone, so that a new plan
/// is needed; the sink's errors.
pub fn replay(
    client: Arc<dyn ReplicaClient>,
    rt: &impl Spawn,
    plan: &RestorePlan,
    options: &ReplayOptions,
    sink: &mut dyn PageSink,
) -> Result<ReplaySummary> {
    let url = client.url().to_owned();
    let (newest, seen) = read(client, rt, plan, options, sink)?;
    check_complete(&seen, &newest, &url)?;
    Ok(ReplaySummary {
        txid: plan.max_txid(),
        timestamp_ms: newest.timestamp_ms,
        page_size: newest.page_size,
        commit: newest.commit,
        pages: seen.len(),
        files: plan.files.len(),
        bytes: plan.bytes(),
    })
}

/// As [`replay`], for files that continue a state: the pages that they change,
/// each once, in its final version. Returns the newest file's header.
///
/// # Errors
/// As [`replay`], but for missing pages.
pub(crate) fn replay_changes(
    client: Arc<dyn ReplicaClient>,
    rt: &impl Spawn,
    plan: &RestorePlan,
    options: &ReplayOptions,
    sink: &mut dyn PageSink,
) -> Result<Header> {
    read(client, rt, plan, options, sink).map(|(newest, _)| newest)
}

fn read(
    client: Arc<dyn ReplicaClient>,
    rt: &impl Spawn,
    plan: &RestorePlan,
    options: &ReplayOptions,
    sink: &mut dyn PageSink,
) -> Result<(Header, PageSet)> {
    check_sizes(plan)?;
    let url = client.url().to_owned();
    let files: Vec<FileInfo> = plan.files.iter().rev().cloned().collect();
    options.progress.begin(plan.bytes(), files.len());
    let mut fetcher = Fetcher::start(client, rt, files.clone(), options);
    let mut state = State { newest: None, seen: PageSet::default(), page: Vec::new(), sink };
    for file in &files {
        let mut reader = fetcher.next_file();
        let result = state.apply(&mut reader, file);
        let result = match fetcher.take_failure() {
            Some(download) => Err(download),
            None => result,
        };
        result.map_err(|e| e.context(format_args!("cannot restore from {} at {url}", file.id)))?;
    }
    match state.newest {
        Some(newest) => Ok((newest, state.seen)),
        None => Err(Error::new(ErrorKind::Internal, "no file was read")),
    }
}

/// Files smaller than their header cannot be anything.
fn check_sizes(plan: &RestorePlan) -> Result<()> {
    if plan.files.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "the restore plan is empty"));
    }
    match plan.files.iter().find(|f| f.size < HEADER_SIZE as u64) {
        None => Ok(()),
        Some(f) => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "invalid ltx file: level={} min={} max={} has size {} bytes (minimum {HEADER_SIZE})",
                f.id.level, f.id.min, f.id.max, f.size
            ),
        )),
    }
}

struct State<'a> {
    newest: Option<Header>,
    seen: PageSet,
    page: Vec<u8>,
    sink: &'a mut dyn PageSink,
}

impl State<'_> {
    fn apply(&mut self, reader: &mut FileReader<'_>, file: &FileInfo) -> Result<()> {
        let mut decoder = Decoder::new(&mut *reader)?;
        let commit = self.accept_header(*decoder.header(), file)?;
        while let Some(pgno) = decoder.next_page(&mut self.page)? {
            if pgno <= commit && self.seen.insert(pgno) {
                self.sink.page(pgno, &self.page)?;
            }
        }
        decoder.finish()?;
        match reader.is_at_end() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Corrupt, "bytes follow the file's trailer")),
        }
    }

    /// Checks a header against the name and the newest file; returns the final
    /// database size in pages.
    fn accept_header(&mut self, header: Header, file: &FileInfo) -> Result<Pgno> {
        if (header.min_txid, header.max_txid) != (file.id.min, file.id.max) {
            let (min, max) = (header.min_txid, header.max_txid);
            let text = format!("its header says transactions {min} to {max}");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let newest = match self.newest {
            Some(newest) => newest,
            None => {
                self.sink.begin(header.page_size, header.commit)?;
                self.page = vec![0; header.page_size as usize];
                *self.newest.insert(header)
            }
        };
        if header.page_size != newest.page_size {
            let text = format!(
                "its page size is {}, that of newer files {}",
                header.page_size, newest.page_size
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        Ok(newest.commit)
    }
}

fn check_complete(seen: &PageSet, newest: &Header, url: &str) -> Result<()> {
    let (commit, lock) = (newest.commit, lock_pgno(newest.page_size));
    let missing = u64::from(commit) - u64::from(lock <= commit) - seen.len();
    if missing == 0 {
        return Ok(());
    }
    let named: Vec<String> = (1..=commit)
        .filter(|&pgno| pgno != lock && !seen.contains(pgno))
        .take(MISSING_NAMED)
        .map(|pgno| pgno.to_string())
        .collect();
    let more = if missing > named.len() as u64 { ", ..." } else { "" };
    Err(Error::new(
        ErrorKind::Corrupt,
        format!(
            "the replica at {url} is incomplete: {missing} of {commit} pages are in none of its \
             files up to transaction {}: page {}{more}",
            newest.max_txid,
            named.join(", ")
        ),
    ))
}
