//! The host's file of the connection whose callback is running.

use std::ffi::{c_int, c_void};

use litestream::host::OwnFile;
use litestream::{Error, ErrorKind, Result};

use super::abi::*;

/// Lives within one callback, on the connection's thread; neither sent nor kept.
pub(super) struct ConnectionFile {
    host: *mut sqlite3_file,
}

impl ConnectionFile {
    /// The file behind `host`.
    ///
    /// # Safety
    /// `host` is an open file of the host VFS, not closed while the value lives,
    /// and no other method of it runs meanwhile.
    pub(super) unsafe fn new(host: *mut sqlite3_file) -> ConnectionFile {
        ConnectionFile { host }
    }

    fn methods(&self) -> &sqlite3_io_methods {
        // SAFETY: the promise to `new`: an open file has its methods set.
        unsafe { &*(*self.host).pMethods }
    }
}

fn failed(action: &str, rc: c_int) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("cannot {action} the database by its own handle (host VFS result {rc})"),
    )
}

impl OwnFile for ConnectionFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let (Some(read), Ok(n), Ok(at)) =
            (self.methods().xRead, c_int::try_from(buf.len()), i64::try_from(offset))
        else {
            return Err(failed("read", SQLITE_IOERR));
        };
        // SAFETY: the promise to `new`, and a buffer of `n` writable bytes.
        match unsafe { read(self.host, buf.as_mut_ptr().cast::<c_void>(), n, at) } {
            SQLITE_OK => Ok(buf.len()),
            // The host VFS tells only that it was short; the size tells how much.
            SQLITE_IOERR_SHORT_READ => {
                let present = self.size()?.saturating_sub(offset);
                Ok(usize::try_from(present).map_or(buf.len(), |n| n.min(buf.len())))
            }
            rc => Err(failed("read", rc)),
        }
    }

    fn size(&self) -> Result<u64> {
        let Some(size) = self.methods().xFileSize else {
            return Err(failed("get the size of", SQLITE_IOERR));
        };
        let mut bytes = 0_i64;
        // SAFETY: the promise to `new`, and a place for the answer.
        match unsafe { size(self.host, &raw mut bytes) } {
            SQLITE_OK => Ok(u64::try_from(bytes).unwrap_or(0)),
            rc => Err(failed("get the size of", rc)),
        }
    }
}
