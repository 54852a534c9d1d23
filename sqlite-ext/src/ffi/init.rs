//! The entry points, the only symbols that the library exports. They register
//! the VFS and the SQL functions, and start nothing: no thread, no socket, no
//! file.

use std::ffi::{c_char, c_int, c_void};

use super::abi::*;
use super::api::{self, Refused};
use super::functions;
use super::guard::guarded;
use super::vfs;
use crate::options::{default_vfs_wanted, process_env};
use crate::sql;

/// The entry point that SQLite derives from the file name `litestream_vfs`.
///
/// # Safety
/// Called by `sqlite3_load_extension` or `sqlite3_auto_extension`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_litestreamvfs_init(
    db: *mut c_void,
    error: *mut *mut c_char,
    api: *const c_void,
) -> c_int {
    // SAFETY: the arguments of an entry point.
    unsafe { enter(db.cast(), error, api) }
}

/// The entry point that SQLite tries first, whatever the file's name.
///
/// # Safety
/// As [`sqlite3_litestreamvfs_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_extension_init(
    db: *mut c_void,
    error: *mut *mut c_char,
    api: *const c_void,
) -> c_int {
    // SAFETY: the arguments of an entry point.
    unsafe { enter(db.cast(), error, api) }
}

/// # Safety
/// The arguments of an entry point.
unsafe fn enter(db: *mut sqlite3, error: *mut *mut c_char, table: *const c_void) -> c_int {
    let outcome = guarded(Err("internal fault while loading".to_owned()), || {
        // SAFETY: as above.
        unsafe { load(db, table) }
    });
    let Err(why) = outcome else { return SQLITE_OK_LOAD_PERMANENTLY };
    if !error.is_null() {
        // SAFETY: SQLite frees the text with its own sqlite3_free; the table
        // may be too old for anything but its first slots.
        unsafe { *error = api::foreign_text(table, &format!("litestream: {why}")) };
    }
    SQLITE_ERROR
}

/// # Safety
/// The arguments of an entry point.
unsafe fn load(db: *mut sqlite3, table: *const c_void) -> Result<(), String> {
    // SAFETY: SQLite's own table.
    let api = unsafe { api::install(table) }.map_err(text_of)?;
    crate::log::check_environment(&process_env)?;
    vfs::register(api)?;
    if default_vfs_wanted(&process_env)? {
        sql::set_default(true)?;
    }
    // SAFETY: registering the same function twice is once.
    let rc = unsafe { (api.auto_extension)(functions::on_open) };
    if rc != SQLITE_OK {
        return Err(format!("sqlite3_auto_extension answered {rc}"));
    }
    // SAFETY: the connection that loads the extension.
    unsafe { functions::create(db) };
    Ok(())
}

fn text_of(refused: Refused) -> String {
    match refused {
        Refused::TooOld(found) => format!(
            "SQLite {} or later is needed, this is {}",
            version(api::MINIMUM_VERSION),
            version(found)
        ),
        Refused::Incomplete => {
            "this SQLite was built without functions that replication needs".to_owned()
        }
        Refused::OtherSqlite => "this library already serves another copy of SQLite in this \
                                 process, and two copies cannot share databases"
            .to_owned(),
    }
}

/// `3034001` as `3.34.1`.
fn version(number: c_int) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_spelled_as_sqlite_does() {
        assert_eq!(super::version(3_034_001), "3.34.1");
        assert_eq!(super::version(3_054_000), "3.54.0");
    }
}
