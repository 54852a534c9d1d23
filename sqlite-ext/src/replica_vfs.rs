//! What the VFS knows about replicas: which opens become one, and what each
//! call on such a file means for its session. The calls arrive from
//! `ffi::replica_io`, each on its connection's thread.
//!
//! A replica is a file that nobody can write: its lock only says which view
//! its reads come from, and it has neither journal nor WAL.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use litestream::clock::{Clock, SystemClock};
use litestream::config::parse_bool;
use litestream::plan::Target;
use litestream::replica_client::url::{FILE_PATH, redact};
use litestream::view::{Session, page_one};
use litestream::{Error, ErrorKind};

use crate::ffi::abi::*;
use crate::ffi::guard::is_faulted;
use crate::ffi::process;
use crate::options::{self, Mode};
use crate::primary_vfs::{CONFIGURED, OpenRequest};
use crate::raw_name::{Parameters, RawName};
use crate::replica_name::{self, Companions};
use crate::replica_options::{self, Settings, Wanted};
use crate::{last_error, runtime};

/// Bytes at which, and how many, SQLite reads to learn whether the file changed.
const COUNTER_AT: u64 = 24;
const COUNTER_BYTES: usize = 16;

const FORKED: &str = "the connection belongs to the process that this one was forked from: open \
                      the replica again in this process";
const READ_ONLY: &str = "a replica cannot be written: it is read-only";

/// An open that is about to become a replica's.
pub(crate) struct Opening {
    settings: Settings,
    /// The connection takes no locks: its view is fixed by the open.
    is_fixed: bool,
    companions: Option<Companions>,
}

/// Decides whether the open is a replica's.
///
/// # Errors
/// Text about what is wrong in its name or settings.
pub(crate) fn plan(
    request: &OpenRequest,
    raw: Option<&RawName>,
    parameters: &Parameters,
    mode: Mode,
) -> Result<Option<Opening>, String> {
    let Ok(name) = std::str::from_utf8(&request.path) else { return Ok(None) };
    let mut parameters = parameters.clone();
    let url = match named_url(request, raw, name) {
        Some(url) => {
            let (url, own) = replica_name::split(&url, replica_options::is_own)?;
            parameters.extend(own);
            Some(url)
        }
        None => None,
    };
    let label = Path::new(url.as_deref().unwrap_or(name));
    let env = &options::process_env;
    let by_role = || replica_options::is_replica(label, &parameters, &CONFIGURED, env);
    if url.is_none() && !request.is_replica_vfs && !by_role()? {
        return Ok(None);
    }
    if url.is_some() && value_of(&parameters, "role").is_some_and(|role| role == "primary") {
        return Err("role=primary is for local databases; this is a replica's URL".to_owned());
    }
    let is_label = request.is_replica_vfs && value_of(&parameters, "replica_url").is_some();
    let wanted =
        Wanted { label, url: url.clone().filter(|_| !is_label), parameters: &parameters, mode };
    let mut settings = replica_options::find(&wanted, &CONFIGURED, env, SystemClock.now_ms())?;
    let paths = [Some(name), raw.map(|raw| raw.path.as_str())].into_iter().flatten();
    if let Some(directory) = paths.filter_map(replica_name::odd_directory).next()
        && wanted.url.is_some()
    {
        settings.source.parameters.push((FILE_PATH.to_owned(), directory));
    }
    let is_fixed = is_on(&parameters, "immutable") || is_on(&parameters, "nolock");
    // Names that are URLs, and all names of the other VFS, tell by themselves.
    let is_path = !request.is_replica_vfs && !replica_name::is_url(&request.path);
    let companions = is_path.then(|| Companions::of(request.companions));
    Ok(Some(Opening { settings, is_fixed, companions }))
}

/// The URL that the name of an open is.
fn named_url(request: &OpenRequest, raw: Option<&RawName>, name: &str) -> Option<String> {
    let is_parsed = request.flags & SQLITE_OPEN_URI != 0;
    let directory = || replica_name::as_directory_url(name).filter(|_| is_parsed || raw.is_some());
    // SQLite has parsed a URI, and what came out begins with file: again.
    let nested = || raw.filter(|raw| is_parsed && raw.path.starts_with('/'));
    replica_name::as_url(name)
        .or_else(directory)
        .or_else(|| nested().map(|raw| format!("file://{}", raw.path)))
}

fn value_of<'a>(parameters: &'a Parameters, key: &str) -> Option<&'a str> {
    parameters.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

fn is_on(parameters: &Parameters, key: &str) -> bool {
    value_of(parameters, key).is_some_and(|value| parse_bool(key, value).unwrap_or(false))
}

impl Opening {
    /// Opens the replica; may wait for storage.
    ///
    /// # Errors
    /// Text about a replica that cannot be opened.
    pub(crate) fn open(self) -> Result<ReplicaFile, String> {
        if is_faulted() {
            return Err(crate::sql::FAULTED.to_owned());
        }
        let Settings { source, target, moment, .. } = self.settings;
        let opened = runtime::sources().open(&source, target);
        let mut session = opened.map_err(|e| e.to_string())?;
        if self.is_fixed {
            session.pin().map_err(|e| e.to_string())?;
        }
        let state = State { session, level: SQLITE_LOCK_NONE, moment, error: None };
        Ok(ReplicaFile {
            state: Mutex::new(state),
            url: redact(&source.url),
            is_fixed: self.is_fixed,
            generation: process::generation(),
            companions: self.companions,
        })
    }
}

/// One connection's handle on a replica.
pub(crate) struct ReplicaFile {
    /// With a shared cache several connections have this file, and their
    /// functions no lock in common.
    state: Mutex<State>,
    /// For messages, without credentials.
    url: String,
    is_fixed: bool,
    /// The process that opened it, see [`process::generation`].
    generation: u32,
    companions: Option<Companions>,
}

struct State {
    session: Session,
    level: i32,
    /// The moment that the target was asked for by, as it was given.
    moment: Option<String>,
    /// Why the last call failed; none after a transaction began.
    error: Option<String>,
}

impl ReplicaFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, unless this process is a child of the one that opened it or
    /// a callback panicked.
    fn usable(&self) -> Result<MutexGuard<'_, State>, String> {
        if self.generation != process::generation() {
            return Err(FORKED.to_owned());
        }
        if is_faulted() { Err(crate::sql::FAULTED.to_owned()) } else { Ok(self.state()) }
    }

    /// The replica's URL, for messages.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Reads all of `buf`, with zeros behind the end of the database.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> i32 {
        let mut state = match self.usable() {
            Ok(state) => state,
            Err(text) => return self.refused(&text, SQLITE_IOERR_READ),
        };
        match state.read(buf, offset) {
            Ok(n) if n == buf.len() => SQLITE_OK,
            Ok(n) => {
                buf[n..].fill(0);
                SQLITE_IOERR_SHORT_READ
            }
            Err(e) => state.failed(&e, SQLITE_IOERR_READ),
        }
    }

    /// Bytes of the database.
    pub(crate) fn size(&self) -> Result<u64, i32> {
        match self.usable() {
            Ok(mut state) => state
                .pinned(|session| Ok(session.size()))
                .map_err(|e| state.failed(&e, SQLITE_IOERR_FSTAT)),
            Err(text) => Err(self.refused(&text, SQLITE_IOERR_FSTAT)),
        }
    }

    /// Raises the lock: SHARED begins a read transaction, more is refused.
    pub(crate) fn lock(&self, level: i32) -> i32 {
        let mut state = match self.usable() {
            Ok(state) => state,
            Err(text) => return self.refused(&text, SQLITE_IOERR_LOCK),
        };
        if level > SQLITE_LOCK_SHARED {
            state.remember(READ_ONLY.to_owned());
            return SQLITE_READONLY;
        }
        if state.level == SQLITE_LOCK_NONE && !self.is_fixed {
            if let Err(e) = state.session.pin() {
                return state.failed(&e, SQLITE_IOERR_LOCK);
            }
            state.forgive();
        }
        state.level = level.max(state.level);
        SQLITE_OK
    }

    /// Lowers the lock: NONE ends the read transaction.
    pub(crate) fn unlock(&self, level: i32) {
        let Ok(mut state) = self.usable() else { return };
        if level == SQLITE_LOCK_NONE && state.level != SQLITE_LOCK_NONE && !self.is_fixed {
            state.session.unpin();
        }
        state.level = level.min(state.level);
    }

    /// An attempt to write.
    pub(crate) fn write(&self) -> i32 {
        match self.usable() {
            Ok(mut state) => state.remember(READ_ONLY.to_owned()),
            Err(text) => return self.refused(&text, SQLITE_READONLY),
        }
        SQLITE_READONLY
    }

    fn refused(&self, text: &str, code: i32) -> i32 {
        last_error::set(format!("{}: {text}", self.url));
        code
    }

    /// SQLite closes the file.
    pub(crate) fn closed(self) {
        drop(self.companions);
        if self.generation != process::generation() || is_faulted() {
            // What the session has belongs to threads that are not here.
            std::mem::forget(self.state);
        }
    }

    /// Why the last call failed.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.usable().map_or_else(Some, |state| state.error.clone())
    }

    /// Asks the session, whatever transaction is going on.
    ///
    /// # Errors
    /// The session's, or that it belongs to another process.
    pub(crate) fn ask<T>(
        &self,
        question: impl FnOnce(&mut Session) -> litestream::Result<T>,
    ) -> Result<T, String> {
        let mut state = self.usable()?;
        question(&mut state.session).map_err(|e| e.to_string())
    }

    /// Goes to another state of the replica.
    ///
    /// # Errors
    /// Text about a state that cannot be had, a fixed one, or a transaction
    /// that is under way.
    pub(crate) fn travel(&self, target: Target, moment: Option<String>) -> Result<(), String> {
        let mut state = self.usable()?;
        if self.is_fixed {
            return Err(
                "a replica opened with immutable=1 or nolock=1 stays where it is".to_owned()
            );
        }
        if state.level != SQLITE_LOCK_NONE {
            return Err(
                "the connection is in a transaction on this replica, which sees one state: \
                        end it first"
                    .to_owned(),
            );
        }
        state.session.set_target(target).map_err(|e| e.to_string())?;
        state.moment = moment;
        Ok(())
    }

    /// The moment that was asked for, as it was given.
    pub(crate) fn moment(&self) -> Result<Option<String>, String> {
        Ok(self.usable()?.moment.clone())
    }
}

impl State {
    /// Runs `f` on a session that sees one view, which outside a transaction is
    /// the present one.
    fn pinned<T>(
        &mut self,
        f: impl FnOnce(&mut Session) -> litestream::Result<T>,
    ) -> litestream::Result<T> {
        if self.session.is_pinned() {
            return f(&mut self.session);
        }
        self.session.pin()?;
        let result = f(&mut self.session);
        self.session.unpin();
        result
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> litestream::Result<usize> {
        self.pinned(|session| {
            let n = session.read(buf, offset)?;
            if offset < page_one::END {
                present(session, &mut buf[..n], offset)?;
            }
            Ok(n)
        })
    }

    fn failed(&mut self, error: &Error, code: i32) -> i32 {
        self.remember(error.to_string());
        if error.kind() == ErrorKind::Transient { SQLITE_BUSY } else { code }
    }

    fn remember(&mut self, text: String) {
        last_error::set(text.clone());
        self.error = Some(text);
    }

    /// A transaction began: what was wrong before is over.
    fn forgive(&mut self) {
        if let Some(text) = self.error.take()
            && last_error::get() == text
        {
            last_error::clear();
        }
    }
}

/// Presents what `buf` has of page 1.
fn present(session: &mut Session, buf: &mut [u8], offset: u64) -> litestream::Result<()> {
    let mut head = [0; page_one::MAGIC.len()];
    match buf.get(..head.len()).filter(|_| offset == 0) {
        Some(start) => head.copy_from_slice(start),
        None => drop(session.read(&mut head, 0)?),
    }
    if head == *page_one::MAGIC {
        page_one::present(buf, offset, session.sequence(), session.commit());
    } else if offset == COUNTER_AT && buf.len() == COUNTER_BYTES {
        // Page 1 of an encrypted database stays as it is. These bytes are only
        // compared with those of the last whole read: unequal, SQLite drops its
        // page cache, which is always right.
        buf.iter_mut().for_each(|byte| *byte = !*byte);
    }
    Ok(())
}
