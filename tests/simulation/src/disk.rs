//! The disk of the simulated machine: what processes see (the page cache), and
//! what would be left after a power loss.
//!
//! Writes reach the durable image when their file is synced, or when the system
//! writes back. Names are journaled: an fsync makes every earlier creation,
//! deletion and renaming durable; a power loss keeps some first part of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use litestream::os::disk::FileStat;
use litestream::os::disk::simulated::{Disk as DiskTrait, DiskFile};
use litestream_vfs::simulation::Region;

use crate::rng::Rng;
use crate::world::{World, current, locked};

/// Number of a file.
pub type Ino = u64;
/// Number of an open handle.
pub type Handle = u64;

/// Unsynced bytes of one file after which the system writes back.
const WRITE_BACK_BYTES: usize = 8 << 20;
/// What is written in one piece.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl Pending {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Pending::Write(at, bytes) => write_into(data, *at, bytes),
            Pending::Resize(len) => data.resize(*len, 0),
        }
    }
}

fn write_into(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if data.len() < at + bytes.len() {
        data.resize(at + bytes.len(), 0);
    }
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The shared memory beside a database.
#[derive(Default)]
pub struct Shm {
    /// Its regions.
    pub regions: Vec<Region>,
    /// Shared and exclusive locks of each handle, one bit per slot.
    pub locks: BTreeMap<Handle, (u32, u32)>,
}

/// One file.
#[derive(Default)]
pub struct Inode {
    /// What processes see.
    pub live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    mtime_ns: i64,
    ctime_ns: i64,
    /// Lock level of each handle that has one.
    pub locks: BTreeMap<Handle, i32>,
    posix_lock: Option<u32>,
    /// Its shared memory, while somebody has it mapped.
    pub shm: Option<Shm>,
}

impl Inode {
    fn push(&mut self, op: Pending) {
        op.apply(&mut self.live);
        self.pending_bytes += match &op {
            Pending::Write(_, bytes) => bytes.len(),
            Pending::Resize(_) => 0,
        };
        self.pending.push(op);
        if self.pending_bytes > WRITE_BACK_BYTES {
            self.sync();
        }
    }

    fn sync(&mut self) {
        for op in std::mem::take(&mut self.pending) {
            op.apply(&mut self.durable);
        }
        self.pending_bytes = 0;
    }
}

#[derive(Debug, Clone)]
enum Rename {
    Link(String, Ino),
    Unlink(String),
    Move(String, String),
}

/// What goes wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Writes: `ENOSPC`, after some of the bytes.
    Full,
    /// Writes: `EIO`, after some of the bytes; in the library's own directory also
    /// reads, fsyncs, and whatever changes a name or a length.
    Broken,
}

/// Where it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the library's own directory.
    Spool,
    /// In the files of SQLite.
    Host,
}

/// Trouble under way.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What.
    pub trouble: Trouble,
    /// Where.
    pub place: Place,
    /// One operation in this many fails.
    pub one_in: u64,
}

/// The disk.
pub struct Disk {
    inodes: BTreeMap<Ino, Inode>,
    names: BTreeMap<String, Ino>,
    durable_names: BTreeMap<String, Ino>,
    renames: Vec<Rename>,
    handles: BTreeMap<Handle, (u32, Ino)>,
    next_ino: Ino,
    next_handle: Handle,
    rng: Rng,
    tick: i64,
    /// Trouble under way.
    pub fault: Option<Fault>,
    /// Operations that failed so far.
    pub faults_hit: u64,
    /// Those of them that met SQLite's files.
    pub host_faults_hit: u64,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Whether `path` is in the library's own directory.
fn is_spool(path: &str) -> bool {
    path.contains("-litestream/")
}

impl Disk {
    /// An empty disk.
    pub fn new(seed: u64) -> Disk {
        Disk {
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renames: Vec::new(),
            handles: BTreeMap::new(),
            next_ino: 100,
            next_handle: 1,
            rng: Rng::new(seed),
            tick: 0,
            fault: None,
            faults_hit: 0,
            host_faults_hit: 0,
        }
    }

    /// The file called `path`.
    pub fn find(&self, path: &str) -> Option<Ino> {
        self.names.get(path).copied()
    }

    /// What processes see of the file called `path`.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        self.inodes.get(self.names.get(path)?).map(|i| i.live.as_slice())
    }

    /// A file by its number.
    pub fn inode(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.entry(ino).or_default()
    }

    /// Names that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.names.keys().filter(|n| n.starts_with(prefix)).cloned().collect()
    }

    fn stamp(&mut self, ino: Ino, now_ns: u64) {
        self.tick += 1;
        let time = 1_800_000_000_000_000_000 + now_ns as i64 + self.tick;
        let inode = self.inode(ino);
        (inode.mtime_ns, inode.ctime_ns) = (time, time);
    }

    /// Makes a file, or finds it.
    pub fn create(&mut self, path: &str, now_ns: u64) -> Ino {
        if let Some(ino) = self.find(path) {
            return ino;
        }
        self.next_ino += 1;
        let ino = self.next_ino;
        self.inodes.insert(ino, Inode::default());
        self.names.insert(path.to_owned(), ino);
        self.renames.push(Rename::Link(path.to_owned(), ino));
        self.stamp(ino, now_ns);
        ino
    }

    /// A file without a name.
    pub fn create_nameless(&mut self) -> Ino {
        self.next_ino += 1;
        self.inodes.insert(self.next_ino, Inode::default());
        self.next_ino
    }

    /// Registers an open handle of `process`.
    pub fn open(&mut self, process: u32, ino: Ino) -> Handle {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, (process, ino));
        self.next_handle
    }

    /// Closes a handle: its locks go, and as POSIX has it every lock of
    /// its process on the file.
    pub fn close(&mut self, handle: Handle) {
        let Some((process, ino)) = self.handles.remove(&handle) else { return };
        let inode = self.inode(ino);
        inode.locks.remove(&handle);
        if inode.posix_lock == Some(process) {
            inode.posix_lock = None;
        }
        self.shm_detach(ino, handle);
        self.forget_if_unused(ino);
    }

    /// Ends a handle's use of shared memory, which goes with its last user.
    pub fn shm_detach(&mut self, ino: Ino, handle: Handle) {
        let inode = self.inode(ino);
        if let Some(shm) = &mut inode.shm {
            shm.locks.remove(&handle);
            if shm.locks.is_empty() {
                inode.shm = None;
            }
        }
    }

    fn forget_if_unused(&mut self, ino: Ino) {
        let named = self.names.values().chain(self.durable_names.values()).any(|i| *i == ino)
            || self.renames.iter().any(|r| matches!(r, Rename::Link(_, i) if *i == ino));
        if !named && !self.handles.values().any(|(_, i)| *i == ino) {
            self.inodes.remove(&ino);
        }
    }

    /// Whether a write to `path` fails now; how many of `len` bytes it writes.
    fn trouble(&mut self, path: &str, len: usize) -> Option<(usize, i32)> {
        let fault = self.fault?;
        let place = if is_spool(path) { Place::Spool } else { Place::Host };
        if place != fault.place || !self.rng.chance(1, fault.one_in) {
            return None;
        }
        self.faults_hit += 1;
        self.host_faults_hit += u64::from(place == Place::Host);
        let written = self.rng.range(0, len as u64 + 1) as usize / SECTOR * SECTOR;
        Some((written.min(len), if fault.trouble == Trouble::Full { ENOSPC } else { EIO }))
    }

    /// The process that has the write lock of the WAL beside database `ino`.
    pub fn wal_writer(&self, ino: Ino) -> Option<u32> {
        let shm = self.inodes.get(&ino)?.shm.as_ref()?;
        let (handle, _) = shm.locks.iter().find(|(_, (_, exclusive))| exclusive & 1 != 0)?;
        self.handles.get(handle).map(|(process, _)| *process)
    }

    /// Whether another operation of the library on a file of its own fails now.
    fn refuses(&mut self, path: &str) -> io::Result<()> {
        let broken = self.fault.is_some_and(|f| f.trouble == Trouble::Broken);
        if broken && is_spool(path) && self.trouble(path, 0).is_some() {
            return Err(errno(EIO));
        }
        Ok(())
    }

    /// An fsync that fails: as on Linux what was to be written is taken for
    /// written then, and a power loss takes it.
    fn lose(&mut self, ino: Ino) {
        let inode = self.inode(ino);
        inode.pending.clear();
        inode.pending_bytes = 0;
    }

    /// Writes, perhaps only a part.
    ///
    /// # Errors
    /// An injected fault.
    pub fn write(
        &mut self,
        ino: Ino,
        path: &str,
        at: u64,
        data: &[u8],
        now_ns: u64,
    ) -> io::Result<()> {
        let trouble = self.trouble(path, data.len());
        let written = trouble.map_or(data.len(), |(written, _)| written);
        if written > 0 {
            self.inode(ino).push(Pending::Write(at as usize, data[..written].to_vec()));
            self.stamp(ino, now_ns);
        }
        trouble.map_or(Ok(()), |(_, code)| Err(errno(code)))
    }

    /// Sets the length.
    pub fn resize(&mut self, ino: Ino, len: u64, now_ns: u64) {
        self.inode(ino).push(Pending::Resize(len as usize));
        self.stamp(ino, now_ns);
    }

    /// Makes a file durable, and every name before.
    pub fn sync(&mut self, ino: Ino) {
        self.inode(ino).sync();
        self.sync_names();
    }

    /// Makes every name durable.
    pub fn sync_names(&mut self) {
        for rename in std::mem::take(&mut self.renames) {
            self.make_durable(rename);
        }
    }

    fn make_durable(&mut self, rename: Rename) {
        match rename {
            Rename::Link(name, ino) => drop(self.durable_names.insert(name, ino)),
            Rename::Unlink(name) => drop(self.durable_names.remove(&name)),
            Rename::Move(from, to) => {
                if let Some(ino) = self.durable_names.remove(&from) {
                    self.durable_names.insert(to, ino);
                }
            }
        }
    }

    /// Removes a name.
    pub fn unlink(&mut self, path: &str) -> bool {
        let Some(ino) = self.names.remove(path) else { return false };
        self.renames.push(Rename::Unlink(path.to_owned()));
        self.forget_if_unused(ino);
        true
    }

    /// Gives a file another name.
    pub fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(ino) = self.names.remove(from) else { return false };
        self.names.insert(to.to_owned(), ino);
        // One entry of the journal: a crash leaves the old or the new name.
        self.renames.push(Rename::Move(from.to_owned(), to.to_owned()));
        true
    }

    fn stat(&self, path: &str) -> Option<FileStat> {
        let ino = self.find(path)?;
        let inode = self.inodes.get(&ino)?;
        Some(FileStat {
            dev: 7,
            ino,
            size: inode.live.len() as u64,
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            owner: (0, 0),
            is_dir: false,
        })
    }

    /// Takes every handle of `process` away; returns the shared memory as it is
    /// now, so that what the dying threads still write can be undone.
    pub fn end_process(&mut self, process: u32) -> Vec<(Region, Vec<u32>)> {
        let mine: Vec<Handle> =
            self.handles.iter().filter(|(_, (p, _))| *p == process).map(|(h, _)| *h).collect();
        mine.into_iter().for_each(|handle| self.close(handle));
        let regions = self.inodes.values().filter_map(|i| i.shm.as_ref());
        regions.flat_map(|s| &s.regions).map(|r| (r.clone(), r.words())).collect()
    }

    /// Nothing but the durable images is left, and some part of what was on its
    /// way to them. Returns how many operations are lost.
    pub fn power_loss(&mut self) -> usize {
        let mut lost = 0;
        let renames = std::mem::take(&mut self.renames);
        let kept = self.rng.range(0, renames.len() as u64 + 1) as usize;
        lost += renames.len() - kept;
        for rename in renames.into_iter().take(kept) {
            self.make_durable(rename);
        }
        // Everything, nothing, or each write for itself.
        let keep = self.rng.pick(&[0, 50, 90, 100]);
        let Disk { inodes, rng, .. } = self;
        for inode in inodes.values_mut() {
            for op in std::mem::take(&mut inode.pending) {
                if !rng.chance(keep, 100) {
                    lost += 1;
                    continue;
                }
                match op {
                    Pending::Write(at, bytes) if rng.chance(1, 10) => {
                        let torn = rng.range(0, bytes.len() as u64 + 1) as usize / SECTOR * SECTOR;
                        write_into(&mut inode.durable, at, &bytes[..torn]);
                    }
                    op => op.apply(&mut inode.durable),
                }
            }
            inode.pending_bytes = 0;
            inode.live.clone_from(&inode.durable);
            inode.shm = None;
            inode.locks.clear();
            inode.posix_lock = None;
        }
        self.names.clone_from(&self.durable_names);
        let used: BTreeSet<Ino> = self.names.values().copied().collect();
        self.inodes.retain(|ino, _| used.contains(ino));
        self.handles.clear();
        lost
    }

    /// Puts a copy of `data` at `path`, durable at once and unseen by faults.
    pub fn put(&mut self, path: &str, data: Vec<u8>) {
        let ino = self.create(path, 0);
        let inode = self.inode(ino);
        inode.live = data;
        inode.pending.clear();
    }
}

/// The disk as the library's own files see it.
pub struct DiskView;

/// A step of the caller; an error when its process is dead.
fn step() -> io::Result<Arc<World>> {
    let world = current().ok_or_else(|| errno(EIO))?;
    world.pause();
    if world.is_dead() { Err(errno(EIO)) } else { Ok(world) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl DiskTrait for DiskView {
    fn stat(&self, path: &Path) -> io::Result<Option<FileStat>> {
        let world = step()?;
        Ok(locked(&world.disk).stat(&text(path)))
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let world = step()?;
        let (now_ns, process, path) = (world.now_ns(), world.process(), text(path));
        let mut disk = locked(&world.disk);
        let ino = match disk.find(&path) {
            Some(ino) => ino,
            None if create => {
                if let Some((_, code)) = disk.trouble(&path, 0) {
                    return Err(errno(code));
                }
                disk.create(&path, now_ns)
            }
            None => return Err(errno(ENOENT)),
        };
        let handle = disk.open(process, ino);
        Ok(Box::new(OpenFile { ino, handle, path }))
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        step().map(drop)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = step()?;
        let prefix = format!("{}/", text(path));
        let names = locked(&world.disk).names(&prefix);
        let rest = names.iter().map(|n| n[prefix.len()..].to_owned());
        Ok(rest.filter(|n| !n.contains('/')).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let world = step()?;
        let mut disk = locked(&world.disk);
        disk.refuses(&text(path))?;
        if disk.unlink(&text(path)) { Ok(()) } else { Err(errno(ENOENT)) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let world = step()?;
        let mut disk = locked(&world.disk);
        disk.refuses(&text(from))?;
        if disk.rename(&text(from), &text(to)) { Ok(()) } else { Err(errno(ENOENT)) }
    }
}

/// A file that the library has open.
#[derive(Debug)]
struct OpenFile {
    ino: Ino,
    handle: Handle,
    path: String,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(world) = current() {
            locked(&world.disk).close(self.handle);
        }
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = step()?;
        let mut disk = locked(&world.disk);
        disk.refuses(&self.path)?;
        let live = &disk.inode(self.ino).live;
        let from = live.len().min(offset as usize);
        let n = buf.len().min(live.len() - from);
        buf[..n].copy_from_slice(&live[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let world = step()?;
        let now_ns = world.now_ns();
        let result = locked(&world.disk).write(self.ino, &self.path, offset, buf, now_ns);
        if result.is_err() {
            world.tell(&format!("disk fault: {} at {offset}", self.path));
        }
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let world = step()?;
        let now_ns = world.now_ns();
        let mut disk = locked(&world.disk);
        disk.refuses(&self.path)?;
        disk.resize(self.ino, len, now_ns);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let world = step()?;
        let mut disk = locked(&world.disk);
        Ok(disk.inode(self.ino).live.len() as u64)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((7, self.ino))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let world = step()?;
        let process = world.process();
        let mut disk = locked(&world.disk);
        let inode = disk.inode(self.ino);
        let free = inode.posix_lock.is_none_or(|p| p == process);
        if free {
            inode.posix_lock = Some(process);
        }
        Ok(free)
    }

    fn unlock(&self) -> io::Result<()> {
        let world = step()?;
        let process = world.process();
        let mut disk = locked(&world.disk);
        let inode = disk.inode(self.ino);
        if inode.posix_lock == Some(process) {
            inode.posix_lock = None;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let world = step()?;
        world.fsync_pause();
        let mut disk = locked(&world.disk);
        if let Err(e) = disk.refuses(&self.path) {
            disk.lose(self.ino);
            return Err(e);
        }
        disk.sync(self.ino);
        Ok(())
    }
}
