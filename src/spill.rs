//! What a snapshot's read transaction costs its application: while it lasts the
//! WAL cannot begin anew, and grows with every commit.
//!
//! A file is read as fast as storage takes it. Once the WAL has grown by
//! [`WAL_GROWTH_MAX`] meanwhile, what is read goes to a file of ours first, at the
//! pace of the disk, so that the read transaction ends soon; storage gets it from
//! there. Without room for it storage's pace is kept.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::capture::Published;
use crate::capture::frames::FRAME_HEADER_SIZE;
use crate::error::Result;
use crate::os::disk::{self, File, Owner};
use crate::stream::ChunkWriter;
use crate::tasks;

/// Bytes by which the WAL may grow under a read transaction of ours before that is
/// brought to its end.
pub(crate) const WAL_GROWTH_MAX: u64 = 16 << 20;
/// Name, for a moment, of the file.
const SPILL_FILE: &str = "snapshot.tmp";
/// Between two looks at the WAL, and at a reader that takes nothing.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes that are read back at once.
const READ_BYTES: usize = 256 << 10;

/// Where the bytes go in the end.
pub(crate) trait Outlet: Write {
    /// Whether a write may have to wait for the reader.
    fn is_full(&self) -> bool;
}

impl Outlet for ChunkWriter {
    fn is_full(&self) -> bool {
        ChunkWriter::is_full(self)
    }
}

/// The end of the WAL as this process knows it.
type End = Box<dyn Fn() -> Published + Send>;

/// Tells when the WAL has grown by too much: its frames since it began anew, which
/// a file that was larger once has room for, or the file, by whatever process.
pub(crate) struct Growth {
    wal_path: PathBuf,
    published: End,
    frame_bytes: u64,
    before: (u64, Published),
    looked: Option<Instant>,
    is_high: bool,
}

impl Growth {
    /// Measures from now on. Pages have `page_size` bytes.
    pub(crate) fn new(wal_path: &Path, page_size: u32, published: End) -> Growth {
        let mut growth = Growth {
            wal_path: wal_path.to_owned(),
            before: (0, published()),
            published,
            frame_bytes: FRAME_HEADER_SIZE as u64 + u64::from(page_size),
            looked: None,
            is_high: false,
        };
        growth.before.0 = growth.size();
        growth
    }

    /// Bytes since then.
    fn grown(&self) -> u64 {
        let (size, before) = self.before;
        let end = (self.published)();
        let from = if end.salt1 == before.salt1 { before.mx_frame } else { 0 };
        let frames = u64::from(end.mx_frame.saturating_sub(from));
        self.size().saturating_sub(size).max(frames * self.frame_bytes)
    }

    fn size(&self) -> u64 {
        // A WAL that cannot be looked at is none that grows.
        disk::stat(&self.wal_path).ok().flatten().map_or(0, |s| s.size)
    }

    fn is_high(&mut self) -> bool {
        let now = tasks::now();
        if !self.is_high && self.looked.is_none_or(|at| now - at >= PAUSE) {
            self.looked = Some(now);
            self.is_high = self.grown() >= WAL_GROWTH_MAX;
        }
        self.is_high
    }
}

/// Where the file is kept.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// Directory of the spool.
    pub(crate) dir: PathBuf,
    /// Who the file belongs to.
    pub(crate) owner: Option<Owner>,
    /// Its bytes at most.
    pub(crate) bytes_max: u64,
}

/// A writer in front of `out` that does not keep its caller waiting for longer
/// than the WAL allows. [`Spill::finish`] has to be called in the end.
pub(crate) struct Spill<'a, O> {
    out: &'a mut O,
    growth: Growth,
    room: Room,
    /// What `out` has not got yet, and its length.
    file: Option<(File, u64)>,
    gave_up: bool,
}

impl<'a, O: Outlet> Spill<'a, O> {
    /// Nothing is kept before `growth` is high.
    pub(crate) fn new(out: &'a mut O, growth: Growth, room: Room) -> Self {
        Spill { out, growth, room, file: None, gave_up: false }
    }

    /// Hands on what was kept.
    ///
    /// # Errors
    /// `out` takes nothing more, or the file cannot be read.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some((file, len)) = self.file.take() else { return Ok(()) };
        let mut buf = vec![0; READ_BYTES];
        let mut at = 0;
        while at < len {
            let n = usize::try_from(len - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            file.read_exact_at(&mut buf[..n], at).map_err(io::Error::other)?;
            self.out.write_all(&buf[..n])?;
            at += n as u64;
        }
        Ok(())
    }

    /// Waits for the reader while the WAL allows it. True: write to the file.
    fn is_late(&mut self) -> bool {
        if self.file.is_some() || self.gave_up {
            return self.file.is_some();
        }
        while !self.growth.is_high() {
            if !self.out.is_full() {
                return false;
            }
            tasks::sleep_blocking(PAUSE);
        }
        self.file = self.create().ok().map(|file| (file, 0));
        self.gave_up = self.file.is_none();
        !self.gave_up
    }

    fn create(&self) -> Result<File> {
        let path = self.room.dir.join(SPILL_FILE);
        disk::remove_file(&path)?;
        let file = File::open_private(&path, self.room.owner)?;
        disk::remove_file(&path)?;
        Ok(file)
    }
}

impl<O: Outlet> Write for Spill<'_, O> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.is_late()
            && let Some((file, len)) = &mut self.file
        {
            let end = *len + buf.len() as u64;
            let fits = end <= self.room.bytes_max;
            if fits && file.write_all_at(buf, *len).is_ok() {
                *len = end;
                return Ok(buf.len());
            }
            // What there is goes first, at storage's pace; then there is room again,
            // unless the disk has none.
            self.gave_up = fits || *len == 0;
            self.finish()?;
        }
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes nothing more after so many bytes, unless it is made to.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Outlet for Slow {
        fn is_full(&self) -> bool {
            self.0.len() >= self.1
        }
    }

    fn spill(bytes_max: u64, dir: &Path, room: &Path) -> (Vec<u8>, usize) {
        let wal_path = dir.join("wal");
        std::fs::write(&wal_path, b"wal").unwrap();
        let growth = Growth::new(&wal_path, 512, Box::new(Published::default));
        let mut out = Slow(Vec::new(), 5000);
        let room = Room { dir: room.to_owned(), owner: None, bytes_max };
        let mut writer = Spill::new(&mut out, growth, room);
        let mut kept = 0;
        for n in 0..100_u8 {
            if n == 4 {
                let wal = std::fs::File::options().write(true).open(&wal_path).unwrap();
                wal.set_len(WAL_GROWTH_MAX + 3).unwrap();
            }
            let before = writer.out.0.len();
            writer.write_all(&[n; 1000]).unwrap();
            kept += usize::from(writer.out.0.len() == before);
        }
        writer.finish().unwrap();
        (out.0, kept)
    }

    fn expected() -> Vec<u8> {
        (0..100_u8).flat_map(|n| [n; 1000]).collect()
    }

    #[test]
    fn a_writer_does_not_wait_once_the_wal_has_grown() {
        let tmp = tempfile::tempdir().unwrap();
        let (bytes, kept) = spill(1 << 20, tmp.path(), tmp.path());
        assert!(bytes == expected() && kept >= 95, "{kept}");
        assert!(!tmp.path().join(SPILL_FILE).exists());
    }

    /// After one high water mark of the file its frames were not counted.
    #[test]
    fn frames_count_in_a_file_that_does_not_grow() {
        let tmp = tempfile::tempdir().unwrap();
        let wal_path = tmp.path().join("wal");
        std::fs::write(&wal_path, b"wal").unwrap();
        let most = (WAL_GROWTH_MAX / (24 + 512)) as u32 + 1;
        for (salt1, mx_frame, high) in
            [(1, 9 + most, true), (1, 8 + most, false), (2, most, true), (2, most - 1, false)]
        {
            let end = std::cell::Cell::new(Published { salt1: 1, mx_frame: 9 });
            let next = Published { salt1, mx_frame };
            let mut growth = Growth::new(&wal_path, 512, Box::new(move || end.replace(next)));
            assert_eq!(growth.is_high(), high, "{salt1} {mx_frame}");
        }
    }

    #[test]
    fn without_room_everything_comes_out_in_order() {
        let tmp = tempfile::tempdir().unwrap();
        for (bytes_max, least) in [(7500, 70), (1000, 40), (0, 0)] {
            let (bytes, kept) = spill(bytes_max, tmp.path(), tmp.path());
            assert!(bytes == expected() && kept >= least, "{bytes_max} {kept}");
        }
        let (bytes, kept) = spill(1 << 20, tmp.path(), &tmp.path().join("missing"));
        assert!(bytes == expected() && kept == 0, "{kept}");
    }
}
