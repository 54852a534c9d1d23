//! The host VFS of the simulated machine: SQLite's files, their locks and
//! shared memory, with the meaning that the unix VFS gives them.

use litestream_vfs::simulation::{HostFile, HostFs, Region};

use crate::disk::{Handle, Ino, Shm};
use crate::oracle;
use crate::world::{World, current, locked};
use std::sync::Arc;

const OK: i32 = 0;
const BUSY: i32 = 5;
const IOERR: i32 = 10;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const IOERR_SHORT_READ: i32 = 522;
const IOERR_WRITE: i32 = 778;
const IOERR_DELETE_NOENT: i32 = 5898;

const OPEN_CREATE: i32 = 0x4;
const OPEN_DELETEONCLOSE: i32 = 0x8;
const OPEN_MAIN_DB: i32 = 0x100;

const SHARED: i32 = 1;
const RESERVED: i32 = 2;
const PENDING: i32 = 3;
const EXCLUSIVE: i32 = 4;

const SHM_UNLOCK: i32 = 1;
const SHM_SHARED: i32 = 4;
const SHM_EXCLUSIVE: i32 = 8;
const SHM_WRITE_SLOT: i32 = 0;

const FCNTL_COMMIT_PHASETWO: i32 = 22;

/// Files below this are the observer's: nothing happens to them, and no time passes.
pub const PRIVATE: &str = "/oracle/";

/// A step of the calling thread.
///
/// # Errors
/// `SQLITE_IOERR` when its process is dead.
fn step(path: &str) -> Result<Arc<World>, i32> {
    let world = current().ok_or(IOERR)?;
    if !path.starts_with(PRIVATE) {
        world.pause();
    }
    if world.is_dead() { Err(IOERR) } else { Ok(world) }
}

/// The host's file system.
pub struct Host;

impl HostFs for Host {
    fn open(&self, path: Option<&str>, flags: i32) -> Result<Box<dyn HostFile>, i32> {
        let world = step(path.unwrap_or_default())?;
        let (now_ns, process) = (world.now_ns(), world.process());
        let mut disk = locked(&world.disk);
        let ino = match path {
            None => disk.create_nameless(),
            Some(path) => match disk.find(path) {
                Some(ino) => ino,
                None if flags & OPEN_CREATE == 0 => return Err(CANTOPEN),
                None => disk.create(path, now_ns),
            },
        };
        let handle = disk.open(process, ino);
        Ok(Box::new(File {
            ino,
            handle,
            path: path.unwrap_or_default().to_owned(),
            level: 0,
            is_main: flags & OPEN_MAIN_DB != 0,
            delete_on_close: flags & OPEN_DELETEONCLOSE != 0,
        }))
    }

    fn delete(&self, path: &str, sync_dir: bool) -> i32 {
        let world = match step(path) {
            Ok(world) => world,
            Err(rc) => return rc,
        };
        let mut disk = locked(&world.disk);
        if !disk.unlink(path) {
            return IOERR_DELETE_NOENT;
        }
        if sync_dir {
            disk.sync_names();
        }
        OK
    }

    fn exists(&self, path: &str) -> Result<bool, i32> {
        let world = step(path)?;
        let disk = locked(&world.disk);
        // As the unix VFS: an empty file is none.
        Ok(disk.content(path).is_some_and(|c| !c.is_empty()))
    }

    fn randomness(&self, buf: &mut [u8]) {
        if let Some(world) = current() {
            world.draw(|rng| rng.fill(buf));
        }
    }

    fn sleep(&self, microseconds: u64) {
        if let Some(world) = current() {
            world.sleep(std::time::Duration::from_micros(microseconds));
        }
    }

    fn now_ms(&self) -> i64 {
        current().map_or(0, |world| world.wall_ms())
    }

    fn panicked(&self) {
        if let Some(world) = current() {
            world.fail("the simulated host panicked");
        }
    }
}

/// An open file.
struct File {
    ino: Ino,
    handle: Handle,
    path: String,
    level: i32,
    is_main: bool,
    delete_on_close: bool,
}

impl File {
    fn is_private(&self) -> bool {
        self.path.starts_with(PRIVATE)
    }

    fn step(&self) -> Result<Arc<World>, i32> {
        step(&self.path)
    }

    /// Locks of this handle may have been committed under: the observer looks.
    fn observe(&self, world: &Arc<World>) {
        if self.is_main && !self.is_private() {
            oracle::observe(world, &self.path, true);
        }
    }

    fn try_level(&mut self, level: i32) -> Result<i32, i32> {
        let world = self.step()?;
        let mut disk = locked(&world.disk);
        let handle = self.handle;
        let inode = disk.inode(self.ino);
        let others = |least: i32| inode.locks.iter().any(|(h, l)| *h != handle && *l >= least);
        if level <= self.level {
            return Ok(OK);
        }
        match level {
            SHARED if others(PENDING) => return Ok(BUSY),
            RESERVED if others(RESERVED) => return Ok(BUSY),
            EXCLUSIVE if others(RESERVED) => return Ok(BUSY),
            EXCLUSIVE if others(SHARED) => {
                inode.locks.insert(handle, PENDING);
                self.level = PENDING;
                return Ok(BUSY);
            }
            _ => {}
        }
        inode.locks.insert(handle, level);
        self.level = level;
        Ok(OK)
    }

    fn shm_change(&mut self, offset: i32, n: i32, flags: i32) -> Result<i32, i32> {
        let world = self.step()?;
        let mask = ((1u32 << n) - 1) << offset;
        if flags & SHM_UNLOCK != 0 && flags & SHM_EXCLUSIVE != 0 && offset == SHM_WRITE_SLOT {
            self.observe(&world);
        }
        let mut disk = locked(&world.disk);
        let handle = self.handle;
        let Some(shm) = &mut disk.inode(self.ino).shm else { return Ok(IOERR) };
        if flags & SHM_UNLOCK == 0 {
            let taken = shm.locks.iter().any(|(h, (shared, exclusive))| {
                let wanted = flags & SHM_SHARED != 0;
                *h != handle && (exclusive & mask != 0 || (!wanted && shared & mask != 0))
            });
            if taken {
                return Ok(BUSY);
            }
        }
        let (shared, exclusive) = shm.locks.entry(handle).or_default();
        let bits = if flags & SHM_SHARED != 0 { shared } else { exclusive };
        *bits = if flags & SHM_UNLOCK != 0 { *bits & !mask } else { *bits | mask };
        Ok(OK)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let Some(world) = current() else { return };
        let mut disk = locked(&world.disk);
        disk.close(self.handle);
        if self.delete_on_close && !self.path.is_empty() && !world.is_dead() {
            disk.unlink(&self.path);
        }
    }
}

fn either(result: Result<i32, i32>) -> i32 {
    result.unwrap_or_else(|rc| rc)
}

impl HostFile for File {
    fn read(&mut self, buf: &mut [u8], offset: u64) -> i32 {
        let world = match self.step() {
            Ok(world) => world,
            Err(rc) => return rc,
        };
        let mut disk = locked(&world.disk);
        let live = &disk.inode(self.ino).live;
        let from = live.len().min(offset as usize);
        let n = buf.len().min(live.len() - from);
        buf[..n].copy_from_slice(&live[from..from + n]);
        buf[n..].fill(0);
        if n < buf.len() { IOERR_SHORT_READ } else { OK }
    }

    fn write(&mut self, data: &[u8], offset: u64) -> i32 {
        let world = match self.step() {
            Ok(world) => world,
            Err(rc) => return rc,
        };
        let now_ns = world.now_ns();
        let result = locked(&world.disk).write(self.ino, &self.path, offset, data, now_ns);
        match result {
            Ok(()) => OK,
            Err(e) => {
                world.tell(&format!("disk fault: {} at {offset}", self.path));
                if e.raw_os_error() == Some(28) { FULL } else { IOERR_WRITE }
            }
        }
    }

    fn truncate(&mut self, size: u64) -> i32 {
        match self.step() {
            Ok(world) => {
                let now_ns = world.now_ns();
                locked(&world.disk).resize(self.ino, size, now_ns);
                OK
            }
            Err(rc) => rc,
        }
    }

    fn sync(&mut self) -> i32 {
        match self.step() {
            Ok(world) => {
                if !self.is_private() {
                    world.fsync_pause();
                }
                locked(&world.disk).sync(self.ino);
                OK
            }
            Err(rc) => rc,
        }
    }

    fn size(&mut self) -> Result<u64, i32> {
        let world = self.step()?;
        let mut disk = locked(&world.disk);
        Ok(disk.inode(self.ino).live.len() as u64)
    }

    fn lock(&mut self, level: i32) -> i32 {
        either(self.try_level(level))
    }

    fn unlock(&mut self, level: i32) -> i32 {
        let world = match self.step() {
            Ok(world) => world,
            Err(rc) => return rc,
        };
        if self.level >= RESERVED && level < RESERVED {
            self.observe(&world);
        }
        let mut disk = locked(&world.disk);
        let inode = disk.inode(self.ino);
        if level == 0 {
            inode.locks.remove(&self.handle);
        } else {
            inode.locks.insert(self.handle, level);
        }
        self.level = level;
        OK
    }

    fn is_reserved(&mut self) -> Result<bool, i32> {
        let world = self.step()?;
        let mut disk = locked(&world.disk);
        Ok(disk.inode(self.ino).locks.values().any(|l| *l >= RESERVED))
    }

    fn control(&mut self, op: i32) -> Option<i32> {
        if op == FCNTL_COMMIT_PHASETWO
            && self.level == EXCLUSIVE
            && let Ok(world) = self.step()
        {
            self.observe(&world);
        }
        None
    }

    fn characteristics(&self) -> i32 {
        0
    }

    fn shm_map(&mut self, index: usize, extend: bool) -> Result<Option<Region>, i32> {
        let world = self.step()?;
        let (now_ns, name) = (world.now_ns(), format!("{}-shm", self.path));
        let mut disk = locked(&world.disk);
        disk.create(&name, now_ns);
        let shm = disk.inode(self.ino).shm.get_or_insert_with(Shm::default);
        shm.locks.entry(self.handle).or_default();
        while shm.regions.len() <= index && extend {
            shm.regions.push(Region::default());
        }
        Ok(shm.regions.get(index).cloned())
    }

    fn shm_lock(&mut self, offset: i32, n: i32, flags: i32) -> i32 {
        either(self.shm_change(offset, n, flags))
    }

    fn shm_unmap(&mut self, delete: bool) -> i32 {
        let world = match self.step() {
            Ok(world) => world,
            Err(rc) => return rc,
        };
        let mut disk = locked(&world.disk);
        disk.shm_detach(self.ino, self.handle);
        if delete {
            disk.unlink(&format!("{}-shm", self.path));
        }
        OK
    }
}
