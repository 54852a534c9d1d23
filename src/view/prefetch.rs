//! What a connection is likely to read next.
//!
//! Pages that are read in the order of their numbers, or of the children of a
//! b-tree page, upwards or downwards, make a stream; each scan has its own. Ahead of
//! a stream a window is fetched, which grows while the reader uses it. Reads that
//! belong to no stream are remembered as beginnings and cost no request.

use std::collections::VecDeque;

use crate::ltx::Pgno;

/// Streams and beginnings that a connection keeps.
const STREAMS_MAX: usize = 12;
/// A stream is given up for another one when so many misses were not its own.
const STREAM_IDLE: u64 = 512;
/// Pages that may be left out between two reads of one stream.
const SKIP_MAX: usize = 8;
/// How far a stream's list is searched for a page.
const SEARCH_MAX: usize = 1_024;
/// First window, in bytes as stored.
const WINDOW_FIRST: u64 = 128 << 10;
/// Largest window, in bytes as stored.
pub(super) const WINDOW_MAX: u64 = 8 << 20;
/// The window is refilled when so much of it (one in ..) was used, in bytes
/// between these bounds, so that requests follow one another without a pause.
const STEPS: u64 = 8;
const STEP_BYTES: (u64, u64) = (64 << 10, 512 << 10);
/// One page of the level above is fetched ahead for so many bytes of window.
const PARENT_BYTES: u64 = 512 << 10;
/// Pages that are offered for fetching at once.
const OFFER_PAGES: usize = 4_096;
/// Levels of a b-tree above its leaves that a stream follows.
const LEVELS_MAX: usize = 6;

/// What was done about pages offered for fetching.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// So many, from the first on, are here or under way.
    pub(super) pages: usize,
    /// Bytes that were asked for because of them.
    pub(super) bytes: u64,
}

/// The database as a stream sees it.
pub(super) trait Outlook {
    /// Size in pages.
    fn commit(&self) -> Pgno;
    /// The interior page that has `pgno` as a child, as far as is known.
    fn parent(&self, pgno: Pgno) -> Option<Pgno>;
    /// The children of page `pgno` if it is here; none of a page without any.
    fn children(&self, pgno: Pgno) -> Option<Vec<Pgno>>;
    /// Fetches `pages`, in this order of need, until about `bytes` are asked for.
    fn ask(&self, pages: &[Pgno], bytes: u64) -> Asked;
    /// The largest window that is worth its bytes at present.
    fn window_max(&self) -> u64;
}

/// The streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    streams: Vec<Stream>,
    /// Misses so far.
    misses: u64,
    /// The stream that the present miss belongs to.
    current: Option<usize>,
    /// The present miss is the first page below each page above it.
    is_first: bool,
}

impl Readahead {
    /// Page `pgno` is wanted and not in the cache: fetches what its stream will
    /// want after it.
    pub(super) fn missed(&mut self, pgno: Pgno, outlook: &impl Outlook) {
        self.misses += 1;
        self.is_first = false;
        let found = self.streams.iter_mut().position(|stream| stream.advance(pgno));
        let n = found.unwrap_or_else(|| self.begin(pgno, outlook));
        self.current = Some(n);
        let stream = &mut self.streams[n];
        stream.last_miss = self.misses;
        stream.fetch_ahead(outlook);
    }

    /// The present miss had to wait: the window was too small.
    pub(super) fn waited(&mut self, outlook: &impl Outlook) {
        let Some(stream) = self.current.and_then(|n| self.streams.get_mut(n)) else { return };
        if stream.is_confirmed() {
            stream.grow(outlook);
        }
    }

    /// The present miss was answered; `interior` says whether by an interior page.
    pub(super) fn arrived(&mut self, interior: bool, outlook: &impl Outlook) {
        let Some(n) = self.current.filter(|n| *n < self.streams.len()) else { return };
        let stream = &mut self.streams[n];
        if interior && stream.kind != Kind::Pages {
            // Only leaves are streamed: who reads them passes the pages above.
            self.streams.swap_remove(n);
            self.current = None;
        } else if self.is_first && !stream.is_confirmed() {
            // The first leaf of a tree is read by who reads them all.
            let Some(siblings) = Siblings::of(stream.last, outlook) else { return };
            stream.follow_children(&siblings, false, outlook);
            stream.asked = 1;
            stream.fetch_ahead(outlook);
        }
    }

    /// Whether the present miss belongs to a stream upwards.
    pub(super) fn goes_up(&self) -> bool {
        let stream = self.current.and_then(|n| self.streams.get(n));
        stream.is_some_and(|stream| stream.is_confirmed() && !stream.down)
    }

    /// A stream for `pgno`: one that follows a beginning, or a beginning.
    fn begin(&mut self, pgno: Pgno, outlook: &impl Outlook) -> usize {
        let siblings = Siblings::of(pgno, outlook);
        let before = self.streams.iter().position(|stream| {
            !stream.is_confirmed()
                && (siblings.as_ref().is_some_and(|s| s.direction(stream.last).is_some())
                    || page_direction(stream.last, pgno).is_some())
        });
        let mut stream = Stream::beginning(pgno);
        let Some(n) = before else {
            self.is_first = siblings.is_some_and(|s| s.is_first(outlook));
            return self.add(stream);
        };
        let last = self.streams[n].last;
        let by_children = siblings.as_ref().and_then(|s| Some((s, s.direction(last)?)));
        match by_children {
            Some((siblings, down)) => stream.follow_children(siblings, down, outlook),
            None => stream.follow_pages(page_direction(last, pgno).unwrap_or(false)),
        }
        self.streams[n] = stream;
        n
    }

    fn add(&mut self, stream: Stream) -> usize {
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
            return self.streams.len() - 1;
        }
        let misses = self.misses;
        let worth = |stream: &Stream| {
            let idle = misses.saturating_sub(stream.last_miss);
            (stream.is_confirmed() && idle < STREAM_IDLE, stream.last_miss)
        };
        let least = (0..self.streams.len()).min_by_key(|n| worth(&self.streams[*n])).unwrap_or(0);
        self.streams[least] = stream;
        least
    }
}

/// Whether `pgno` comes soon after `last` by number: `Some(true)` downwards.
fn page_direction(last: Pgno, pgno: Pgno) -> Option<bool> {
    let near = pgno != last && pgno.abs_diff(last) as usize <= SKIP_MAX;
    near.then_some(pgno < last)
}

/// A page among the children of its parent.
struct Siblings {
    parent: Pgno,
    list: Vec<Pgno>,
    at: usize,
}

impl Siblings {
    fn of(pgno: Pgno, outlook: &impl Outlook) -> Option<Siblings> {
        let parent = outlook.parent(pgno)?;
        let list = outlook.children(parent)?;
        let at = list.iter().position(|child| *child == pgno)?;
        Some(Siblings { parent, list, at })
    }

    /// As [`page_direction`], in the order of children.
    fn direction(&self, last: Pgno) -> Option<bool> {
        let before = &self.list[self.at.saturating_sub(SKIP_MAX)..self.at];
        let after = &self.list[self.at + 1..];
        if before.contains(&last) {
            Some(false)
        } else {
            after.iter().take(SKIP_MAX).any(|page| *page == last).then_some(true)
        }
    }

    /// Whether every page above has it first.
    fn is_first(&self, outlook: &impl Outlook) -> bool {
        let (mut page, mut at) = (self.parent, self.at);
        for _ in 0..LEVELS_MAX {
            if at != 0 {
                return false;
            }
            let Some(above) = Siblings::of(page, outlook) else { return true };
            (page, at) = (above.parent, above.at);
        }
        false
    }
}

/// One scan, or the beginning of one.
#[derive(Debug)]
struct Stream {
    /// The page read last.
    last: Pgno,
    down: bool,
    kind: Kind,
    /// What is expected, and above it the parents that come next, level by level.
    levels: Vec<VecDeque<Pgno>>,
    /// So many of the pages expected were asked for.
    asked: usize,
    /// Pages and bytes of each request still ahead of the reader.
    batches: VecDeque<Asked>,
    window: u64,
    last_miss: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Beginning,
    Pages,
    Children,
}

impl Stream {
    fn beginning(pgno: Pgno) -> Stream {
        Stream {
            last: pgno,
            down: false,
            kind: Kind::Beginning,
            levels: vec![VecDeque::new()],
            asked: 0,
            batches: VecDeque::new(),
            window: WINDOW_FIRST,
            last_miss: 0,
        }
    }

    fn is_confirmed(&self) -> bool {
        self.kind != Kind::Beginning
    }

    fn follow_pages(&mut self, down: bool) {
        (self.kind, self.down) = (Kind::Pages, down);
        self.levels = vec![VecDeque::from([self.last])];
    }

    /// Expects the siblings behind it, then the children of their parent's.
    fn follow_children(&mut self, siblings: &Siblings, down: bool, outlook: &impl Outlook) {
        (self.kind, self.down) = (Kind::Children, down);
        let rest = |siblings: &Siblings, skip: usize| -> VecDeque<Pgno> {
            let Siblings { list, at, .. } = siblings;
            if down {
                list[..(at + 1).saturating_sub(skip)].iter().rev().copied().collect()
            } else {
                list[(at + skip).min(list.len())..].iter().copied().collect()
            }
        };
        self.levels = vec![rest(siblings, 0)];
        let mut page = siblings.parent;
        while self.levels.len() < LEVELS_MAX {
            let Some(above) = Siblings::of(page, outlook) else { break };
            self.levels.push(rest(&above, 1));
            page = above.parent;
        }
    }

    /// Whether `pgno` is what comes next; then it stands in front.
    fn advance(&mut self, pgno: Pgno) -> bool {
        if !self.is_confirmed() {
            return false;
        }
        let reach = (self.asked + SKIP_MAX).min(SEARCH_MAX);
        let Some(n) = self.levels[0].iter().take(reach).position(|page| *page == pgno) else {
            return false;
        };
        self.last = pgno;
        self.levels[0].drain(..n);
        self.asked = self.asked.saturating_sub(n);
        self.consume(n);
        true
    }

    /// `n` pages were passed.
    fn consume(&mut self, mut n: usize) {
        while let Some(batch) = self.batches.front_mut() {
            if batch.pages > n {
                batch.bytes -= batch.bytes * n as u64 / batch.pages as u64;
                batch.pages -= n;
                return;
            }
            n -= batch.pages;
            self.batches.pop_front();
            self.window = (self.window * 2).min(WINDOW_MAX);
        }
    }

    fn grow(&mut self, outlook: &impl Outlook) {
        self.window = (self.window * 2).min(outlook.window_max());
    }

    /// Keeps the window under way or here, but for a step.
    fn fetch_ahead(&mut self, outlook: &impl Outlook) {
        if !self.is_confirmed() {
            return;
        }
        self.window = self.window.min(outlook.window_max());
        let ahead: u64 = self.batches.iter().map(|batch| batch.bytes).sum();
        let step = (self.window / STEPS).clamp(STEP_BYTES.0, STEP_BYTES.1);
        if ahead + step > self.window {
            return;
        }
        self.ask_for_parents(outlook);
        let mut want = self.window - ahead;
        while want > 0 {
            if self.asked >= self.levels[0].len() && !self.extend(outlook) {
                return;
            }
            let list = self.levels[0].make_contiguous();
            let end = list.len().min(self.asked + OFFER_PAGES);
            let asked = outlook.ask(&list[self.asked..end], want);
            if asked.pages == 0 {
                return;
            }
            self.asked += asked.pages;
            self.batches.push_back(asked);
            want = want.saturating_sub(asked.bytes);
        }
    }

    /// The children of the pages above are known only when these are here.
    fn ask_for_parents(&mut self, outlook: &impl Outlook) {
        let Some(parents) = self.levels.get_mut(1) else { return };
        let count = parents.len().min(1 + (self.window / PARENT_BYTES) as usize);
        outlook.ask(&parents.make_contiguous()[..count], u64::MAX);
    }

    /// Expects more pages; false when there are none, or none are known yet.
    fn extend(&mut self, outlook: &impl Outlook) -> bool {
        match self.kind {
            Kind::Beginning => false,
            Kind::Pages => self.extend_pages(outlook.commit()),
            Kind::Children => extend_level(&mut self.levels, self.down, outlook),
        }
    }

    fn extend_pages(&mut self, commit: Pgno) -> bool {
        let list = &mut self.levels[0];
        let last = list.back().copied().unwrap_or(self.last);
        let before = list.len();
        if self.down {
            list.extend((1..last).rev().take(OFFER_PAGES));
        } else {
            list.extend((last..commit).map(|page| page + 1).take(OFFER_PAGES));
        }
        list.len() > before
    }
}

/// Appends the children of the next page of the level above.
fn extend_level(levels: &mut [VecDeque<Pgno>], down: bool, outlook: &impl Outlook) -> bool {
    let Some((list, above)) = levels.split_first_mut() else { return false };
    if above.is_empty() || (above[0].is_empty() && !extend_level(above, down, outlook)) {
        return false;
    }
    let Some(&parent) = above[0].front() else { return false };
    let Some(mut children) = outlook.children(parent) else {
        outlook.ask(&[parent], 1);
        return false;
    };
    above[0].pop_front();
    if children.is_empty() {
        return false;
    }
    if down {
        children.reverse();
    }
    list.extend(children);
    true
}

#[cfg(test)]
#[path = "prefetch_tests.rs"]
mod tests;
