//! Following a replica: what the next poll asks for, and what its answer means.
//!
//! The next file at level 0 has a name that is known in advance, so one GET asks
//! for it and brings it. That it is not there can mean that nothing was written
//! or that it was merged and deleted, so now and then a listing is asked for.
//!
//! Before new files are laid over a view it is proven that they belong to its
//! chain: somebody may have deleted the replica and begun it anew, with the
//! same names. The proof is one of
//!
//! - the file continues the WAL range of the one before it, salts and offset;
//! - the newest file of the view is still stored, in the same version, after the
//!   new ones were read;
//! - a file that ends with the same transaction has the same time and size of
//!   the database.
//!
//! Without a proof the view is built anew from a listing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::build::{Built, Fault, Listing, build_from, gap_text, newest};
use super::file::RemoteFile;
use super::load::{Files, Loaded};
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{HEADER_SIZE, Header, Txid};
use crate::plan::{Target, calc_extension};
use crate::replica_client::piece::replaced;
use crate::replica_client::{FileId, FileInfo, Listed, ReplicaClient, SNAPSHOT_LEVEL, Span, Tag};

/// After so many polls in a row without a new file one listing is asked for.
const MISSES_MAX: u32 = 15;
/// The levels beside 1 that take turns in these listings.
const OTHER_LEVELS: [u8; 9] = [0, 2, 3, 4, 5, 6, 7, 8, 9];
/// After a longer pause between polls all levels are listed.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// New files taken by one poll.
const BURST_MAX: usize = 256;
/// Bytes of new files that one poll brings before it shows them.
const BURST_BYTES_MAX: usize = 8 << 20;
/// New files up to this size are fetched whole, and verified.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Files of the chain whose versions are remembered.
const SEEN_MAX: usize = 256;
/// Listings of one poll while files vanish under it.
const LISTINGS_MAX: u32 = 4;
/// Polls in a row that must find another chain, which is shorter, before that is
/// believed.
const SHORTER_MAX: u32 = 2;
/// The same of the chain that was read: more likely the listing is an old one.
const SAME_SHORTER_MAX: u32 = 20;

/// What a poll found.
pub(crate) struct Found {
    /// A newer view.
    pub(crate) view: Option<View>,
    /// Its new files.
    pub(crate) loaded: Vec<Loaded>,
    /// What lies behind the view and cannot be reached, for people.
    pub(crate) gap: Option<String>,
    /// The chain of the view before is gone, for people.
    pub(crate) restarted: Option<String>,
    /// There were more files than one poll takes.
    pub(crate) more: bool,
}

impl Found {
    fn nothing(gap: Option<String>) -> Found {
        Found { view: None, loaded: Vec::new(), gap, restarted: None, more: false }
    }
}

/// A stored file that ends the chain of a view.
#[derive(Debug, Clone)]
struct End {
    id: FileId,
    tag: Tag,
}

impl End {
    fn of(file: &RemoteFile) -> End {
        End { id: file.id, tag: file.tag.clone() }
    }

    /// Whether it is among the files of a listing, which may tell no versions.
    fn is_in(&self, listed: &[Listed]) -> bool {
        let is_other = |tag: &Tag| *tag != self.tag;
        listed.iter().any(|f| f.info.id == self.id && !f.tag.as_ref().is_some_and(is_other))
    }
}

/// What is remembered from poll to poll.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    /// Polls without a new file since the last one or the last listing.
    misses: u32,
    short_lists: u32,
    failed: bool,
    shorter: u32,
    polled: Option<Instant>,
    gap: Option<String>,
    /// The last files of the chain that were read, oldest first.
    seen: VecDeque<(FileId, Tag)>,
    /// A file that ends the view's chain and is stored, when it is not the
    /// newest file of the view any more.
    anchor: Option<(End, Txid)>,
}

impl Follow {
    /// Begins at a view that was just built out of these files, with this gap
    /// behind it.
    pub(crate) fn begin(loaded: &[Loaded], gap: Option<String>) -> Follow {
        let mut follow = Follow { gap, ..Follow::default() };
        follow.note(loaded);
        follow
    }

    /// These files belong to the chain.
    fn note(&mut self, loaded: &[Loaded]) {
        for Loaded { file, .. } in loaded {
            if self.seen.len() == SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back((file.id, file.tag.clone()));
        }
    }

    /// Whether a file of the chain is listed in the version that was read.
    fn is_same_chain(&self, listing: &Listing) -> bool {
        let same = |(id, tag): &(FileId, Tag)| listing.tag(id) == Some(tag);
        self.seen.iter().any(same) && self.replaced(listing).is_none()
    }

    /// A file of the chain whose name is another file's now.
    fn replaced(&self, listing: &Listing) -> Option<FileId> {
        let other = |(id, tag): &&(FileId, Tag)| listing.tag(id).is_some_and(|t| t != tag);
        self.seen.iter().find(other).map(|seen| seen.0)
    }

    /// Looks for what comes after `view`.
    ///
    /// # Errors
    /// Of storage; `Corrupt` when the next file is damaged. The next poll lists.
    pub(crate) async fn poll(&mut self, files: &Files, view: &View, now: Instant) -> Result<Found> {
        let paused = self.polled.is_some_and(|polled| now.duration_since(polled) > PAUSE_MAX);
        self.polled = Some(now);
        let found = if self.failed || paused {
            self.list(files, view).await
        } else if self.misses >= MISSES_MAX {
            self.list_shortly(files, view).await
        } else {
            self.probe(files, view).await
        };
        self.failed = found.is_err();
        if let Ok(found) = &found {
            self.gap.clone_from(&found.gap);
            if found.restarted.is_some() {
                self.seen.clear();
            }
            self.note(&found.loaded);
        }
        found
    }

    /// The next poll lists all levels.
    pub(crate) fn distrust(&mut self) {
        self.failed = true;
    }

    /// Asks for the next files at level 0 by their names.
    async fn probe(&mut self, files: &Files, view: &View) -> Result<Found> {
        let mut loaded: Vec<Loaded> = Vec::new();
        let (mut next, mut bytes, mut more) = (view.txid().next(), 0, false);
        while !more {
            match probe_one(files, next).await {
                Ok(Some(file)) => {
                    bytes += file.front.as_ref().map_or(0, bytes::Bytes::len);
                    loaded.push(file);
                }
                Ok(None) => break,
                // What came before it is not held back.
                Err(_) if !loaded.is_empty() => break,
                Err(e) => return Err(e),
            }
            next = next.next();
            more = loaded.len() == BURST_MAX || bytes >= BURST_BYTES_MAX;
        }
        if loaded.is_empty() {
            self.misses += 1;
            return Ok(Found::nothing(self.gap.clone()));
        }
        if !continues(view.header(), &loaded) && !is_stored(files, view.newest()).await? {
            return self.list(files, view).await;
        }
        match extended(view, &loaded) {
            Some(view) => {
                (self.misses, self.short_lists, self.anchor) = (0, 0, None);
                Ok(Found { view: Some(view), loaded, gap: None, restarted: None, more })
            }
            None => self.list(files, view).await,
        }
    }

    /// One listing: of the end of the chain, which tells whether it is what it
    /// was, or of another level, where something may have been put past the name
    /// that is asked for.
    async fn list_shortly(&mut self, files: &Files, view: &View) -> Result<Found> {
        let turn = self.short_lists;
        let anchor = self.anchor.clone().filter(|anchor| anchor.1 == view.txid());
        let end = anchor.map_or_else(|| End::of(view.newest()), |anchor| anchor.0);
        let (level, seek) = match other_level(turn) {
            None => (end.id.level, end.id.min),
            Some(0) => (0, view.txid().next()),
            Some(level) => (level, Txid::NONE),
        };
        let listed = list_from(files, level, seek).await?;
        let has_end = other_level(turn).is_some() || end.is_in(&listed);
        if !has_end || listed.iter().any(|f| f.info.id.max > view.txid()) {
            return self.list(files, view).await;
        }
        self.misses = 0;
        self.short_lists = turn.wrapping_add(1);
        Ok(Found::nothing(self.gap.clone()))
    }

    /// Lists all levels and goes on from there, or begins anew.
    async fn list(&mut self, files: &Files, view: &View) -> Result<Found> {
        let mut listings = 1;
        let found = loop {
            let listing = Listing::fetch(files, false).await?;
            match self.through_listing(files, view, &listing).await {
                Err(Fault::Gone(_)) if listings < LISTINGS_MAX => {
                    files.pause(listings).await;
                    listings += 1;
                }
                found => break found?,
            }
        };
        (self.misses, self.short_lists) = (0, 0);
        Ok(found)
    }

    async fn through_listing(
        &mut self,
        files: &Files,
        view: &View,
        listing: &Listing,
    ) -> std::result::Result<Found, Fault> {
        if listing.is_empty() {
            return Err(Fault::Other(emptied(files, view)));
        }
        let Some(end) = self.chain_end(files, view, listing).await.map_err(Fault::Other)? else {
            return self.anew(files, view, listing).await;
        };
        self.anchor = (end.id != view.newest().id).then(|| (end.clone(), view.txid()));
        let (extension, behind) = calc_extension(&listing.infos(), view.txid());
        let gap = |cover| behind.map(|file| gap_text(cover, file.id.min));
        if extension.is_empty() {
            if listing.newest() > view.txid() {
                // A snapshot may lie behind the gap.
                let built = build_from(files, listing, Target::Latest).await?;
                if built.view.txid() > view.txid() {
                    return Ok(found(built, None));
                }
            }
            self.shorter = 0;
            return Ok(Found::nothing(gap(view.txid())));
        }
        let loaded = load(files, listing, &extension).await?;
        // Levels are not listed at one moment.
        if !is_stored_as(files, &end.id, &end.tag).await.map_err(Fault::Other)? {
            return Err(Fault::Gone(replaced(&end.id, files.client().url())));
        }
        match extended(view, &loaded) {
            Some(view) => {
                self.shorter = 0;
                let gap = gap(view.txid());
                Ok(Found { view: Some(view), loaded, gap, restarted: None, more: false })
            }
            None => self.anew(files, view, listing).await,
        }
    }

    /// A listed file that ends the chain of `view`, and belongs to it.
    async fn chain_end(
        &self,
        files: &Files,
        view: &View,
        listing: &Listing,
    ) -> Result<Option<End>> {
        if self.replaced(listing).is_some() {
            return Ok(None);
        }
        let newest = view.newest();
        match listing.has(newest) {
            Some(true) => return Ok(Some(End::of(newest))),
            // Listings of this storage tell no versions.
            None if is_stored(files, newest).await? => return Ok(Some(End::of(newest))),
            _ => {}
        }
        let ends = listing.all().map(|f| f.info.id);
        for id in ends.filter(|id| id.max == view.txid() && id.level < SNAPSHOT_LEVEL) {
            if let Some((header, tag)) = header_of(files, &id).await?
                && same_state(view, &header)
            {
                return Ok(Some(End { id, tag }));
            }
        }
        Ok(None)
    }

    /// The view out of the listing alone.
    async fn anew(
        &mut self,
        files: &Files,
        view: &View,
        listing: &Listing,
    ) -> std::result::Result<Found, Fault> {
        let built = build_from(files, listing, Target::Latest).await?;
        if built.view.txid() < view.txid() {
            self.shorter += 1;
            let stored = is_stored(files, view.newest()).await.map_err(Fault::Other)?;
            let same = self.is_same_chain(listing);
            let enough = if same { SAME_SHORTER_MAX } else { SHORTER_MAX };
            if stored || self.shorter < enough {
                return Err(Fault::Other(shorter(files, view, built.view.txid())));
            }
        }
        self.shorter = 0;
        self.anchor = None;
        let why = match self.replaced(listing) {
            Some(id) => format!("{id} is another file than before"),
            None if built.view.txid() < view.txid() => "its newest files are gone".to_owned(),
            // Merged and deleted while nobody looked: most likely the same chain.
            None => return Ok(found(built, None)),
        };
        let txid = built.view.txid();
        let text = format!("the chain was begun anew ({why}); it is at transaction {txid} now");
        Ok(found(built, Some(text)))
    }
}

/// The level that the `turn`th single listing is for; none for the chain's end,
/// which has every second turn. Level 1 has half of the others.
fn other_level(turn: u32) -> Option<u8> {
    match turn % 4 {
        0 | 2 => None,
        1 => Some(1),
        _ => Some(OTHER_LEVELS[(turn / 4) as usize % OTHER_LEVELS.len()]),
    }
}

fn found(built: Built, restarted: Option<String>) -> Found {
    let Built { view, loaded, gap } = built;
    Found { view: Some(view), loaded, gap, restarted, more: false }
}

/// The file at level 0 with exactly the transaction `txid`; none when there is none.
async fn probe_one(files: &Files, txid: Txid) -> Result<Option<Loaded>> {
    let id = FileId::new(0, txid, txid);
    let read = || files.client().read_prefix(&id, Some(WHOLE_BYTES_MAX));
    let piece = match files.retrier().repeat(read).await {
        Ok(piece) => piece,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if piece.bytes.len() as u64 == piece.size {
        return files.of_whole(&id, piece).map(Some);
    }
    let info = FileInfo { id, size: piece.size, created_at_ms: 0 };
    let listed = Listed { info, tag: Some(piece.tag) };
    Ok(files.load(&[listed], WHOLE_BYTES_MAX).await?.pop())
}

async fn load(
    files: &Files,
    listing: &Listing,
    infos: &[FileInfo],
) -> std::result::Result<Vec<Loaded>, Fault> {
    files.load(&listing.listed(infos), WHOLE_BYTES_MAX).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound => Fault::Gone(e),
        _ => Fault::Other(e),
    })
}

/// `view` with `loaded` laid over it; none when that is another database.
fn extended(view: &View, loaded: &[Loaded]) -> Option<View> {
    let (newest, header) = newest(loaded)?;
    if header.page_size != view.page_size() {
        return None;
    }
    let mut index = view.index().clone();
    for Loaded { file, .. } in loaded {
        index.apply(file, header.commit);
    }
    Some(View::new(newest, header, index))
}

/// Whether each of `loaded` carries on the WAL range of the one before it.
fn continues(before: &Header, loaded: &[Loaded]) -> bool {
    let mut before = *before;
    loaded.iter().all(|file| {
        let Some(next) = file.header else { return false };
        let same_wal = (next.wal_salt1, next.wal_salt2) == (before.wal_salt1, before.wal_salt2);
        let carries_on = before.wal_offset.checked_add(before.wal_size) == Some(next.wal_offset);
        let proven = before.wal_size > 0 && same_wal && carries_on;
        before = next;
        proven
    })
}

/// Whether exactly this file is still in storage.
pub(crate) async fn is_stored(files: &Files, file: &RemoteFile) -> Result<bool> {
    is_stored_as(files, &file.id, &file.tag).await
}

/// Whether the file `id` is in storage in the version `tag`.
async fn is_stored_as(files: &Files, id: &FileId, tag: &Tag) -> Result<bool> {
    let span = Span::Range { offset: 0, len: 1 };
    let read = || files.client().read_piece(id, span, Some(tag));
    match files.retrier().repeat(read).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

async fn header_of(files: &Files, id: &FileId) -> Result<Option<(Header, Tag)>> {
    let read = || files.client().read_prefix(id, Some(HEADER_SIZE as u64));
    match files.retrier().repeat(read).await {
        Ok(piece) => Header::decode(&piece.bytes).map(|header| Some((header, piece.tag))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether a file with this header, which ends with the view's transaction, ends
/// the same chain: merged files keep the time of their last transaction.
pub(crate) fn same_state(view: &View, header: &Header) -> bool {
    header.max_txid == view.txid()
        && header.timestamp_ms == view.time_ms()
        && header.commit == view.commit()
        && header.page_size == view.page_size()
}

async fn list_from(files: &Files, level: u8, seek: Txid) -> Result<Vec<Listed>> {
    files.retrier().repeat(|| files.client().list_tagged(level, seek)).await
}

fn emptied(files: &Files, view: &View) -> Error {
    let text = format!(
        "replica {} is empty now: what was read of it ends with transaction {}",
        files.client().url(),
        view.txid()
    );
    Error::new(ErrorKind::NotFound, text)
}

fn shorter(files: &Files, view: &View, txid: Txid) -> Error {
    let text = format!(
        "the listing of replica {} ends with transaction {txid}, but {} was read already",
        files.client().url(),
        view.txid()
    );
    Error::new(ErrorKind::Transient, text)
}
