//! One connection to a replica: what it sees, and for how long.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use super::prefetch::Readahead;
use super::source::{HistoryFile, Source, SourceStatus};
use super::sources::{Held, SourceOptions};
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Pgno, Txid};
use crate::plan::Target;
use crate::tasks;

/// A read finds its page elsewhere this often when files vanish under it.
const RELOCATIONS_MAX: u32 = 4;
/// Longest pause between two looks for a transaction that is waited for.
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(250);
/// A view known to be the newest so recently, or within two polls, is not asked
/// about again when a session begins.
const FRESH_MIN: Duration = Duration::from_secs(2);
/// A look for newer files that decides whether a read may go on takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Who waits for no time at all looks once, for at most so long.
const LOOK_MIN: Duration = Duration::from_secs(1);
/// Shortest pause between two looks at an empty replica.
const EMPTY_PAUSE_MIN: Duration = Duration::from_millis(10);

/// One connection to a replica.
///
/// Between [`Session::pin`] and [`Session::unpin`] it shows one state of the
/// database; at other times each call sees the newest.
#[derive(Debug)]
pub struct Session {
    held: Held,
    target: Target,
    max_staleness: Option<Duration>,
    /// The state of `target`, unless that is the newest.
    fixed: Option<Arc<View>>,
    /// What is shown while it is pinned, and was shown last otherwise.
    view: Arc<View>,
    pinned: bool,
    /// Something of the pinned state was seen, so that it cannot be exchanged
    /// any more.
    seen: Cell<bool>,
    reader: Readahead,
    /// A page of which a part is wanted.
    page: Vec<u8>,
}

impl Session {
    /// A session that follows, or looks back to `target`.
    pub(crate) fn open(held: Held, options: &SourceOptions, target: Target) -> Result<Session> {
        let view = match target {
            Target::Latest => first_view(&held, options.wait_timeout)?,
            target => held.look_back(target)?,
        };
        if target == Target::Latest {
            held.follow(1);
        }
        Ok(Session {
            held,
            target,
            max_staleness: options.max_staleness,
            fixed: (target != Target::Latest).then(|| Arc::clone(&view)),
            view,
            pinned: false,
            seen: Cell::new(false),
            reader: Readahead::default(),
            page: Vec::new(),
        })
    }

    /// Keeps to the present state until [`Session::unpin`]. Nothing more when it
    /// is pinned already.
    ///
    /// # Errors
    /// When the state is older than allowed and no newer one can be had.
    pub fn pin(&mut self) -> Result<()> {
        if !self.pinned {
            self.view = self.current()?;
            self.pinned = true;
            self.seen.set(false);
        }
        Ok(())
    }

    /// Lets the state go.
    pub fn unpin(&mut self) {
        self.pinned = false;
    }

    /// Whether a state is pinned.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Fills `buf` with the bytes of the database from `offset` on; returns how
    /// many there are, fewer than asked for only at the end.
    ///
    /// The page with SQLite's lock bytes is zeros. Page 1 is as the primary stored
    /// it.
    ///
    /// # Errors
    /// `NotFound` when the pinned state is no longer in storage; `Transient` when
    /// storage does not answer, or the state is older than allowed; `Corrupt` when
    /// a page is damaged or in none of the files. Nothing of `buf` is to be used
    /// then.
    pub fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if self.pinned {
            self.check_age()?;
        } else {
            self.view = self.current()?;
        }
        let mut moves = 0;
        loop {
            match self.read_view(buf, offset) {
                Err((pgno, error)) => {
                    moves += 1;
                    if error.kind() != ErrorKind::NotFound || moves > RELOCATIONS_MAX {
                        return Err(error);
                    }
                    self.relocate(pgno, moves > 1)?;
                }
                Ok(n) => {
                    self.seen.set(true);
                    return Ok(n);
                }
            }
        }
    }

    /// Size of the database in bytes.
    pub fn size(&self) -> u64 {
        self.shown().size()
    }

    /// Size of the database in pages.
    pub fn commit(&self) -> Pgno {
        self.shown().commit()
    }

    /// Bytes per page.
    pub fn page_size(&self) -> u32 {
        self.shown().page_size()
    }

    /// The last transaction of what is shown.
    pub fn txid(&self) -> Txid {
        self.shown().txid()
    }

    /// When it was made, in milliseconds since the Unix epoch.
    pub fn time_ms(&self) -> Option<i64> {
        Some(self.shown().time_ms())
    }

    /// A number that changes exactly when what is shown changes.
    pub fn sequence(&self) -> u32 {
        self.shown().sequence()
    }

    /// Time since the newest state was last known to be the newest; none when
    /// this session looks back.
    pub fn lag(&self) -> Option<Duration> {
        if self.target == Target::Latest { self.held.lag() } else { None }
    }

    /// What it shows: the newest state, or a fixed one.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Looks back to `target`, or follows again with [`Target::Latest`]. While a
    /// state is pinned it stays until [`Session::unpin`].
    ///
    /// # Errors
    /// `NotFound` when the target cannot be reached; nothing has changed then.
    pub fn set_target(&mut self, target: Target) -> Result<()> {
        let view = match target {
            Target::Latest => first_view(&self.held, Duration::ZERO)?,
            target => self.held.look_back(target)?,
        };
        let follows = |target| i32::from(target == Target::Latest);
        match follows(target) - follows(self.target) {
            0 => {}
            change => self.held.follow(change),
        }
        self.target = target;
        self.fixed = (target != Target::Latest).then_some(view);
        Ok(())
    }

    /// Looks for newer files now, and returns the newest transaction. A pinned
    /// state stays.
    ///
    /// # Errors
    /// Why it could not look; `NotFound` for a replica that is empty.
    pub fn refresh(&self) -> Result<Txid> {
        let view = self.held.refresh()?.ok_or_else(|| self.held.empty())?;
        Ok(view.txid())
    }

    /// Waits until the newest state includes `txid`; returns the newest transaction.
    ///
    /// # Errors
    /// `Transient` when `timeout` passes first, with the last reason why storage
    /// could not be looked at.
    pub fn wait(&self, txid: Txid, timeout: Duration) -> Result<Txid> {
        if let Some(newest) = self.held.newest().filter(|newest| newest.txid() >= txid) {
            return Ok(newest.txid());
        }
        let end = tasks::now() + timeout;
        let pause = self.held.poll_interval.min(WAIT_PAUSE_MAX);
        loop {
            let left = end.saturating_duration_since(tasks::now());
            let found = self.look(left.max(LOOK_MIN));
            if let Ok(newest) = found
                && newest >= txid
            {
                return Ok(newest);
            }
            let left = end.saturating_duration_since(tasks::now());
            if left.is_zero() {
                return Err(self.not_yet(txid, found));
            }
            tasks::sleep_blocking(pause.min(left));
        }
    }

    /// The bytes out of the present view; an error comes with its page.
    fn read_view(
        &mut self,
        buf: &mut [u8],
        offset: u64,
    ) -> std::result::Result<usize, (Pgno, Error)> {
        let page_size = u64::from(self.view.page_size());
        let wanted = self.view.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let pgno = (at / page_size) as Pgno + 1;
            let within = (at % page_size) as usize;
            let n = (page_size as usize - within).min(wanted - done);
            self.read_page(pgno, within, &mut buf[done..done + n]).map_err(|e| (pgno, e))?;
            done += n;
        }
        Ok(wanted)
    }

    /// The bytes of page `pgno` from `within` on, which are as long as `out`.
    fn read_page(&mut self, pgno: Pgno, within: usize, out: &mut [u8]) -> Result<()> {
        let view = &self.view;
        if pgno == view.lock_pgno() {
            out.fill(0);
            return Ok(());
        }
        let page_size = view.page_size() as usize;
        if out.len() == page_size {
            return self.whole_page(pgno, out);
        }
        let mut page = std::mem::take(&mut self.page);
        page.resize(page_size, 0);
        let read = self.whole_page(pgno, &mut page);
        if read.is_ok() {
            out.copy_from_slice(&page[within..within + out.len()]);
        }
        self.page = page;
        read
    }

    /// Page `pgno` out of the local copy, or from storage.
    fn whole_page(&mut self, pgno: Pgno, out: &mut [u8]) -> Result<()> {
        if let Some(copy) = self.held.copy()
            && let Some((file, _)) = self.view.index().get(pgno)
            && copy.read(file, pgno, out)
        {
            return Ok(());
        }
        self.held.fetcher.page(&self.view, pgno, &mut self.reader, out)
    }

    /// What a transaction that begins now would see.
    fn current(&self) -> Result<Arc<View>> {
        if let Some(fixed) = &self.fixed {
            return Ok(Arc::clone(fixed));
        }
        self.check_age()?;
        Ok(self.held.newest().unwrap_or_else(|| Arc::clone(&self.view)))
    }

    /// What is shown, which cannot be exchanged any more if it is pinned.
    fn shown(&self) -> Arc<View> {
        if self.pinned {
            self.seen.set(true);
            return Arc::clone(&self.view);
        }
        let newest = || self.held.newest().unwrap_or_else(|| Arc::clone(&self.view));
        self.fixed.as_ref().map_or_else(newest, Arc::clone)
    }

    fn check_age(&self) -> Result<()> {
        let Some(limit) = self.max_staleness.filter(|_| self.fixed.is_none()) else {
            return Ok(());
        };
        let is_young = || self.held.lag().is_some_and(|lag| lag <= limit);
        if is_young() {
            return Ok(());
        }
        let polled = self.held.refresh_within(ANSWER_MAX);
        if is_young() {
            return Ok(());
        }
        let lag = self.held.lag().unwrap_or_default();
        let text = format!(
            "replica {}: what was read is known to be the newest state only as of {:.1} s ago,              and max_staleness is {:.1} s",
            self.held.url(),
            lag.as_secs_f64(),
            limit.as_secs_f64()
        );
        let error = Error::new(ErrorKind::Transient, text);
        Err(match (polled, self.held.status().gap) {
            (Err(e), _) => error.with_source(e),
            (Ok(_), Some(gap)) => error.with_source(Error::new(ErrorKind::Corrupt, gap)),
            (Ok(_), None) => error,
        })
    }

    /// The file of page `pgno` vanished from storage, perhaps with `all` others.
    fn relocate(&mut self, pgno: Pgno, all: bool) -> Result<()> {
        let Some((gone, _)) = self.view.index().get(pgno) else { return Ok(()) };
        let gone = Arc::clone(gone);
        match self.held.relocate(&self.view, &gone, all) {
            Ok(moved) => {
                if self.fixed.is_some() {
                    self.fixed = Some(Arc::clone(&moved));
                }
                self.view = moved;
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotFound && self.fixed.is_none() => {
                // The next transaction at least is to see a state that is there.
                let newest = self.held.refresh_from_listing()?;
                let other = newest.filter(|newest| newest.sequence() != self.view.sequence());
                match other {
                    Some(newest) if !self.seen.get() || !self.pinned => {
                        self.view = newest;
                        Ok(())
                    }
                    _ => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }

    fn look(&self, timeout: Duration) -> Result<Txid> {
        let view = self.held.refresh_within(timeout)?.ok_or_else(|| self.held.empty())?;
        Ok(view.txid())
    }

    fn not_yet(&self, txid: Txid, found: Result<Txid>) -> Error {
        let text = format!("replica {}: transaction {txid} is not there yet", self.held.url());
        match found {
            Ok(newest) => {
                Error::new(ErrorKind::Transient, format!("{text}; the newest is {newest}"))
            }
            Err(e) => Error::new(ErrorKind::Transient, text).with_source(e),
        }
    }

    /// Every file of the replica.
    ///
    /// # Errors
    /// Of storage.
    pub fn history(&self) -> Result<Vec<HistoryFile>> {
        self.held.history()
    }

    /// What is known of the replica.
    pub fn status(&self) -> SourceStatus {
        self.held.status()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.target == Target::Latest {
            self.held.follow(-1);
        }
    }
}

/// The newest view, which may have to be fetched, for a session that begins.
fn first_view(source: &Source, timeout: Duration) -> Result<Arc<View>> {
    if let Some(view) = source.newest() {
        if source.lag().is_some_and(|lag| lag < FRESH_MIN.max(source.poll_interval * 2)) {
            return Ok(view);
        }
        // Without an answer it shows what the other sessions show; the failure
        // is part of the replica's status.
        return Ok(source.refresh_within(ANSWER_MAX).ok().flatten().unwrap_or(view));
    }
    let end = tasks::now() + timeout;
    loop {
        if let Some(view) = source.refresh()? {
            return Ok(view);
        }
        let left = end.saturating_duration_since(tasks::now());
        if left.is_zero() {
            return Err(source.empty());
        }
        tasks::sleep_blocking(source.poll_interval.max(EMPTY_PAUSE_MIN).min(left));
    }
}
