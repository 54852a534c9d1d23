//! The ledger as a file: believed or not, brought forward, replaced.
//!
//! An update writes the TXID that it leads to into `applying`, then the
//! entries, then the header without that mark. A process that is killed in
//! between leaves entries of both states; they are completed by the same or a
//! longer update, and until then the ledger stands for nothing.
//!
//! A whole new state is built under another name and takes the ledger's name
//! when storage acknowledged it.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::ledger::entries::Sums;
use crate::ledger::format::{ENTRIES_AT, ENTRY_LEN, HEADER_LEN, Header, Totals};
use crate::ltx::{self, Pgno, Txid, crc64};
use crate::os::disk::{self, File, Owner};

/// Name of the ledger in the spool directory.
pub const FILE: &str = "ledger";
/// Name of the next ledger while it is built and until storage has its state.
pub const NEW_FILE: &str = "ledger.new";
/// Bytes that a copy moves at once.
const COPY_BYTES: usize = 256 << 10;

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    sums: Sums,
    header: Header,
    boot: [u8; 16],
}

/// Identifies an LTX file by its header.
fn file_id(header: &ltx::Header) -> u64 {
    crc64(&header.encode())
}

fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("page ledger {}: {why}", path.display()))
}

impl Ledger {
    /// The ledger of `replica` in `dir`; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` and `Unsupported`: there is one, but it cannot be believed.
    pub fn load(dir: &Path, replica: u64) -> Result<Option<Ledger>> {
        Self::load_in(dir, replica, disk::boot_id())
    }

    /// [`Ledger::load`] in the boot `boot`.
    ///
    /// # Errors
    /// As [`Ledger::load`].
    pub fn load_in(dir: &Path, replica: u64, boot: [u8; 16]) -> Result<Option<Ledger>> {
        let path = dir.join(FILE);
        let Some((file, mut header)) = read_header(&path)? else { return Ok(None) };
        if header.replica != replica {
            return Err(corrupt(&path, "it is about another replica"));
        }
        let mut sums = Sums::new(file);
        if header.boot != boot {
            // The machine may have lost power: the kernel writes pages of a
            // file in any order.
            let whole = header.synced && header.applying == Txid::NONE;
            if !whole || sums.totals()? != header.totals {
                return Err(corrupt(&path, "the machine restarted before it was written whole"));
            }
        } else if header.applying != Txid::NONE {
            header.totals = sums.totals()?;
        }
        Ok(Some(Ledger { sums, header, boot }))
    }

    /// The state that the ledger in `dir` says it has, without a look at its
    /// entries; `None` when there is none to be believed.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn peek(dir: &Path, replica: u64) -> Result<Option<Header>> {
        let found = match read_header(&dir.join(FILE)) {
            Ok(found) => found.map(|(_, header)| header),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => None,
            Err(e) => return Err(e),
        };
        Ok(found.filter(|h| {
            let sure = h.synced || h.boot == disk::boot_id();
            sure && h.replica == replica && h.applying == Txid::NONE
        }))
    }

    /// The header, as of the last completed update.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The newest transaction that it knows.
    pub fn txid(&self) -> Txid {
        self.header.txid
    }

    /// Whether it describes exactly the state that `file` led to.
    pub fn is_state_of(&self, file: &ltx::Header) -> bool {
        self.header.applying == Txid::NONE
            && self.header.txid == file.max_txid
            && self.header.file == file_id(file)
    }

    /// Whether `file` is the one that led to its state.
    pub fn stems_from(&self, file: &[u8; ltx::HEADER_SIZE]) -> bool {
        self.header.file == crc64(file)
    }

    /// Whether the entries are those that were written, by reading them all:
    /// before something is left out because of them.
    ///
    /// # Errors
    /// `Corrupt` when they are not.
    pub fn check(&mut self) -> Result<()> {
        let whole = self.sums.file().len()? == len_of(self.header.commit);
        if self.header.applying != Txid::NONE || !whole || self.sums.totals()? != self.header.totals
        {
            return Err(corrupt(self.sums.file().path(), "its entries were altered"));
        }
        Ok(())
    }

    /// The checksums of its pages.
    pub fn sums(&mut self) -> &mut Sums {
        &mut self.sums
    }

    /// Goes on to the state that `file` leads to. `pages` calls its argument
    /// with number and checksum of every page in the file, in any order.
    ///
    /// Only for files that storage acknowledged.
    ///
    /// # Errors
    /// `InvalidInput` when the file does not follow; the ledger is unchanged.
    /// After any other error it stands for nothing until an update that
    /// reaches as far succeeds.
    pub fn apply(
        &mut self,
        file: &ltx::Header,
        pages: impl FnOnce(&mut dyn FnMut(Pgno, u64) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let h = &self.header;
        let follows = file.min_txid <= h.txid.next() && file.max_txid > h.txid;
        if !follows || file.page_size != h.page_size {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "transactions {} to {} do not follow {} in the page ledger",
                    file.min_txid, file.max_txid, h.txid
                ),
            ));
        }
        let reach = h.applying.max(file.max_txid);
        self.write_header(Header { applying: reach, ..self.header })?;
        let mut totals = self.header.totals;
        let sums = &mut self.sums;
        pages(&mut |pgno, sum| {
            if pgno <= file.commit {
                let before = sums.set(pgno, sum)?;
                totals.remove(pgno, before);
                totals.add(pgno, sum);
            }
            Ok(())
        })?;
        sums.flush()?;
        if sums.file().len()? != len_of(file.commit) {
            sums.scan(file.commit.saturating_add(1), |pgno, sum| totals.remove(pgno, sum))?;
            sums.cut(file.commit)?;
        }
        self.write_header(Header {
            commit: file.commit,
            txid: file.max_txid,
            totals,
            file: file_id(file),
            applying: if reach > file.max_txid { reach } else { Txid::NONE },
            ..self.header
        })
    }

    fn write_header(&mut self, header: Header) -> Result<()> {
        let header = Header { boot: self.boot, synced: false, ..header };
        self.sums.file().write_all_at(&header.encode(), 0)?;
        self.header = header;
        Ok(())
    }

    /// Makes it survive a power loss, if it does not yet.
    ///
    /// # Errors
    /// The file system refused; the ledger stays as it is.
    pub fn settle(&mut self) -> Result<()> {
        if self.header.synced || self.header.applying != Txid::NONE {
            return Ok(());
        }
        self.sums.flush()?;
        self.sums.file().sync()?;
        let header = Header { synced: true, boot: self.boot, ..self.header };
        self.sums.file().write_all_at(&header.encode(), 0)?;
        self.header = header;
        Ok(())
    }
}

fn len_of(commit: Pgno) -> u64 {
    ENTRIES_AT + u64::from(commit) * ENTRY_LEN
}

fn read_header(path: &Path) -> Result<Option<(File, Header)>> {
    if disk::stat(path)?.is_none() {
        return Ok(None);
    }
    let file = File::open_private(path, None)?;
    let mut bytes = [0u8; HEADER_LEN];
    let got = file.read_at(&mut bytes, 0)?;
    let header = Header::decode(&bytes[..got]).map_err(|e| e.context(path.display()))?;
    Ok(Some((file, header)))
}

/// The next ledger while it is built.
#[derive(Debug)]
pub struct Builder {
    sums: Sums,
    totals: Totals,
    replica: u64,
    /// The state that a copy began with.
    origin: Option<Header>,
}

impl Builder {
    /// Begins an empty one in `dir`, in place of any that was not completed.
    ///
    /// # Errors
    /// The file could not be made.
    pub fn create(dir: &Path, replica: u64, owner: Option<Owner>) -> Result<Builder> {
        let path = dir.join(NEW_FILE);
        disk::remove_file(&path)?;
        let file = File::open_private(&path, owner)?;
        Ok(Builder { sums: Sums::new(file), totals: Totals::default(), replica, origin: None })
    }

    /// Begins with a copy of `ledger`, which was checked.
    ///
    /// # Errors
    /// The copy could not be made.
    pub fn copy(dir: &Path, ledger: &Ledger, owner: Option<Owner>) -> Result<Builder> {
        let mut new = Builder::create(dir, ledger.header.replica, owner)?;
        let (mut at, mut buf) = (ENTRIES_AT, vec![0u8; COPY_BYTES]);
        loop {
            let got = ledger.sums.file().read_at(&mut buf, at)?;
            new.sums.file().write_all_at(&buf[..got], at)?;
            at += got as u64;
            if got < buf.len() {
                break;
            }
        }
        new.totals = ledger.header.totals;
        new.origin = Some(ledger.header);
        Ok(new)
    }

    /// Sets the checksum of a page, in any order.
    ///
    /// # Errors
    /// `Full` when the device has no room.
    pub fn set(&mut self, pgno: Pgno, sum: u64) -> Result<()> {
        let before = self.sums.set(pgno, sum)?;
        self.totals.remove(pgno, before);
        self.totals.add(pgno, sum);
        Ok(())
    }

    /// The checksums of its pages so far.
    pub fn sums(&mut self) -> &mut Sums {
        &mut self.sums
    }

    /// Completes it as the state that `file` leads to. It does not stand for
    /// anything before [`promote`].
    ///
    /// # Errors
    /// `Full` when the device has no room; `InvalidInput` when a copy has
    /// another page size.
    pub fn finish(self, file: &ltx::Header) -> Result<()> {
        self.finish_in(file, disk::boot_id())
    }

    fn finish_in(mut self, file: &ltx::Header, boot: [u8; 16]) -> Result<()> {
        if self.origin.is_some_and(|o| o.page_size != file.page_size) {
            return Err(Error::new(ErrorKind::InvalidInput, "the page size changed"));
        }
        let totals = &mut self.totals;
        self.sums.scan(file.commit.saturating_add(1), |pgno, sum| totals.remove(pgno, sum))?;
        self.sums.cut(file.commit)?;
        let header = Header {
            page_size: file.page_size,
            commit: file.commit,
            txid: file.max_txid,
            totals: self.totals,
            file: file_id(file),
            replica: self.replica,
            boot,
            synced: false,
            applying: Txid::NONE,
        };
        self.sums.file().write_all_at(&header.encode(), 0)
    }
}

/// Makes the completed next ledger the present one if it is the state that
/// `file` led to. False: there is no such one.
///
/// # Errors
/// The file system refused.
pub fn promote(dir: &Path, file: &ltx::Header) -> Result<bool> {
    let path = dir.join(NEW_FILE);
    // One that is not complete has no header.
    let found = match read_header(&path) {
        Ok(found) => found,
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => None,
        Err(e) => return Err(e),
    };
    let Some((_, header)) = found else { return Ok(false) };
    // In another boot its entries may be gone while the header is there.
    let fits = header.txid == file.max_txid
        && header.file == file_id(file)
        && header.boot == disk::boot_id();
    if fits {
        disk::rename(&path, &dir.join(FILE))?;
    }
    Ok(fits)
}

/// Removes the next ledger: there is no file for its state.
///
/// # Errors
/// The file system refused.
pub fn discard_next(dir: &Path) -> Result<()> {
    disk::remove_file(&dir.join(NEW_FILE))
}

/// Removes the ledger and the next one: storage has something else.
///
/// # Errors
/// The file system refused.
pub fn discard(dir: &Path) -> Result<()> {
    disk::remove_file(&dir.join(FILE))?;
    disk::remove_file(&dir.join(NEW_FILE))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
