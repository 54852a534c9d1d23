//! What the database should be: every state that SQLite committed, in order.
//!
//! The observer looks below the library, at the moment a commit is published:
//! at the release of the WAL's write lock it lays the frames up to the published
//! end over the database file. Plain SQLite, on a copy of the files, says
//! whether that was right.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use crate::disk::{Disk, Shm};
use crate::host::PRIVATE;
use crate::image::{Digest, Image, hash};
use crate::world::{World, locked};

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The committed states of one database.
#[derive(Default)]
pub struct Oracle {
    path: String,
    image: Image,
    commits: Vec<Digest>,
    /// Where each state is in the order; the newest place wins.
    places: BTreeMap<Digest, Vec<usize>>,
    /// Salts and last frame of the WAL as last seen.
    seen: Option<([u32; 2], u32)>,
    checks: u64,
    /// Number of each process's newest commit.
    newest_of: BTreeMap<u32, usize>,
    /// A commit that readers see already, and the process that is about to end it.
    early: Option<(u32, usize)>,
}

/// The published end of a WAL.
struct Published {
    salts: [u32; 2],
    mx_frame: u32,
    pages: u32,
    page_size: u32,
}

impl Oracle {
    /// No state of `path` yet.
    pub fn new(path: &str) -> Oracle {
        Oracle { path: path.to_owned(), ..Oracle::default() }
    }

    /// States so far; the newest has this number.
    pub fn commits(&self) -> usize {
        self.commits.len()
    }

    /// Comparisons with plain SQLite so far.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// Number of the newest commit of `process`; 0: none.
    pub fn newest_of(&self, process: u32) -> usize {
        self.newest_of.get(&process).copied().unwrap_or(0)
    }

    /// The newest state.
    pub fn newest(&self) -> Option<Digest> {
        self.commits.last().copied()
    }

    /// The first place at or after `from` where the database was `digest`.
    pub fn place(&self, digest: &Digest, from: usize) -> Option<usize> {
        self.places.get(digest)?.iter().copied().find(|p| *p >= from)
    }

    /// The newest place where the database was `digest`: the same change of the
    /// same state, made again after a power loss, leads to the same one.
    pub fn last_place(&self, digest: &Digest) -> Option<usize> {
        self.places.get(digest)?.last().copied()
    }

    /// Pages (from 0) in which `image` differs from the newest state.
    pub fn differences(&self, image: &Image) -> Vec<usize> {
        self.image.differences(image)
    }

    fn commit(&mut self) -> bool {
        let digest = self.image.digest();
        if self.commits.last() == Some(&digest) {
            return false;
        }
        self.places.entry(digest).or_default().push(self.commits.len());
        self.commits.push(digest);
        true
    }
}

fn published(disk: &mut Disk, path: &str) -> Option<Published> {
    let ino = disk.find(path)?;
    let region = disk.inode(ino).shm.as_ref()?.regions.first()?.clone();
    let same = (0..12).all(|i| region.word(i) == region.word(i + 12));
    if !same || region.word(0) != 3_007_000 || region.word(3) & 0xff == 0 {
        return None;
    }
    let size = region.word(3) >> 16;
    let swap = |word: u32| u32::from_be_bytes(word.to_ne_bytes());
    Some(Published {
        salts: [swap(region.word(8)), swap(region.word(9))],
        mx_frame: region.word(4),
        pages: region.word(5),
        page_size: (size & 0xfe00) + ((size & 1) << 16),
    })
}

/// Whether the files say what is committed without a recovery.
fn is_whole(disk: &mut Disk, path: &str) -> bool {
    if published(disk, path).is_some_and(|p| p.mx_frame > 0) {
        return true;
    }
    let empty = |suffix: &str| {
        disk.content(&format!("{path}{suffix}")).is_none_or(|c| c.iter().take(8).all(|b| *b == 0))
    };
    empty("-wal") && empty("-journal")
}

fn be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

/// Page size of a database file, if it is one.
fn page_size_of(file: &[u8]) -> Option<u32> {
    let raw = u32::from(u16::from_be_bytes(file.get(16..18)?.try_into().ok()?));
    Some(if raw == 1 { 65536 } else { raw }).filter(|_| file.starts_with(b"SQLite format 3\0"))
}

/// Something may have been committed just now. `finished`: by the caller, who
/// gives his lock back; else by whoever has it.
pub fn observe(world: &Arc<World>, path: &str, finished: bool) {
    let mut oracle = locked(&world.oracle);
    if oracle.path != path {
        return;
    }
    if finished && let Some((_, number)) = oracle.early.take_if(|e| e.0 == world.process()) {
        oracle.newest_of.insert(world.process(), number);
    }
    let mut disk = locked(&world.disk);
    let found = published(&mut disk, path).filter(|p| p.mx_frame > 0);
    let known = oracle.seen;
    oracle.seen = found.as_ref().map(|p| (p.salts, p.mx_frame));
    if known.is_some() && known == oracle.seen {
        return;
    }
    if found.is_none() && !is_whole(&mut disk, path) {
        // A close whose checkpoint failed: the next recovery will tell.
        return;
    }
    let follows = match (&found, known) {
        (Some(p), Some((salts, mx))) => salts == p.salts && mx < p.mx_frame,
        _ => false,
    };
    let first = if follows { known.map_or(0, |(_, mx)| mx) } else { 0 };
    if !follows {
        let Some(file) = disk.content(path) else { return };
        let page_size = match (&found, page_size_of(file)) {
            (Some(p), _) => p.page_size,
            (None, Some(size)) => size,
            (None, None) => return,
        };
        oracle.image = Image::of(file, page_size);
        // A commit outside WAL mode cuts the file last.
        if found.is_none() && be(file, 24) == be(file, 92) && be(file, 28) > 0 {
            let size = (be(file, 28) as usize).min(file.len() / page_size as usize);
            oracle.image.resize(size);
        }
    }
    if let Some(p) = found {
        let wal = disk.content(&format!("{path}-wal")).unwrap_or_default();
        let frame_len = FRAME_HEADER + p.page_size as usize;
        for frame in first..p.mx_frame {
            let at = WAL_HEADER + frame as usize * frame_len;
            let Some(bytes) = wal.get(at..at + frame_len) else {
                drop(disk);
                world.fail(&format!("the WAL ends before published frame {}", frame + 1));
                return;
            };
            let pgno = be(bytes, 0) as usize;
            oracle.image.set(pgno.saturating_sub(1), hash(&bytes[FRAME_HEADER..]));
        }
        oracle.image.resize(p.pages as usize);
    }
    let pages = oracle.image.digest().pages;
    let committed = oracle.commit();
    let number = oracle.commits.len();
    if committed {
        if finished {
            oracle.newest_of.insert(world.process(), number);
        } else {
            let writer = disk.find(path).and_then(|ino| disk.wal_writer(ino));
            oracle.early = writer.map(|process| (process, number));
        }
    }
    drop((oracle, disk));
    if committed {
        world.tell(&format!("commit {number}: {pages} pages"));
    }
}

/// A copy of the database and what belongs to it, for the observer alone.
fn copy(world: &Arc<World>, path: &str) -> Option<String> {
    let mut disk = locked(&world.disk);
    let private = format!("{PRIVATE}copy.db");
    remove(&mut disk, &private);
    for suffix in ["", "-wal", "-journal"] {
        if let Some(data) = disk.content(&format!("{path}{suffix}")).map(<[u8]>::to_vec) {
            disk.put(&format!("{private}{suffix}"), data);
        }
    }
    let source = disk.find(path)?;
    let words: Option<Vec<Vec<u32>>> =
        disk.inode(source).shm.as_ref().map(|s| s.regions.iter().map(|r| r.words()).collect());
    if let (Some(words), Some(ino)) = (words, disk.find(&private)) {
        let mut shm = Shm::default();
        for region in words {
            let copy = litestream_vfs::simulation::Region::default();
            copy.restore(&region);
            shm.regions.push(copy);
        }
        disk.inode(ino).shm = Some(shm);
    }
    Some(private)
}

fn remove(disk: &mut Disk, path: &str) {
    for suffix in ["", "-wal", "-journal", "-shm"] {
        disk.unlink(&format!("{path}{suffix}"));
    }
}

/// The bytes of a database as plain SQLite reads it, after an integrity check.
///
/// # Errors
/// Text.
pub fn read_plainly(path: &str) -> Result<Vec<u8>, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
    let text = |e: rusqlite::Error| e.to_string();
    let db = Connection::open_with_flags_and_vfs(path, flags, "host").map_err(text)?;
    let answer: String =
        db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(text)?;
    if answer != "ok" {
        return Err(format!("integrity_check: {answer}"));
    }
    db.serialize("main").map(|data| data.to_vec()).map_err(text)
}

/// Compares what was observed with what plain SQLite reads.
pub fn verify(world: &Arc<World>) {
    look(world, false);
}

/// After a crash: what plain SQLite recovers is the newest state.
pub fn resume(world: &Arc<World>) {
    look(world, true);
}

fn look(world: &Arc<World>, adopt: bool) {
    let path = locked(&world.oracle).path.clone();
    if locked(&world.disk).content(&path).is_none_or(|c| c.is_empty()) {
        return;
    }
    if !adopt {
        // SQLite does not journal pages that are free: in the midst of a
        // transaction they need not be what they were at the last commit.
        if !is_whole(&mut locked(&world.disk), &path) {
            return;
        }
        // A commit whose writer has not given its lock back yet is one for readers.
        observe(world, &path, false);
    }
    let Some(private) = copy(world, &path) else { return };
    let read = read_plainly(&private);
    remove(&mut locked(&world.disk), &private);
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(why) => return world.fail(&format!("plain SQLite cannot read {path}: {why}")),
    };
    let Some(page_size) = page_size_of(&bytes) else { return };
    let image = Image::of(&bytes, page_size);
    let mut oracle = locked(&world.oracle);
    oracle.checks += 1;
    if adopt {
        let known = oracle.commits.len();
        oracle.image = image;
        oracle.seen = None;
        let new = oracle.commit();
        drop(oracle);
        return world.tell(&format!("recovered after commit {known}, as a new state: {new}"));
    }
    if image.digest() != oracle.image.digest() {
        let pages = oracle.image.differences(&image);
        drop(oracle);
        let mut disk = locked(&world.disk);
        let end = published(&mut disk, &path).map(|p| p.mx_frame);
        let bytes = |suffix: &str| disk.content(&format!("{path}{suffix}")).map(<[u8]>::len);
        let files = (bytes(""), bytes("-wal"), bytes("-journal"));
        drop(disk);
        world.fail(&format!(
            "plain SQLite reads another state: pages (from 0) {pages:?}; published frame {end:?}, \
             bytes of database, WAL and journal {files:?}"
        ));
    }
}
