//! The table-valued function `litestream_history(schema)`: a virtual table
//! that exists without being created and holds the files of a replica.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use super::abi::*;
use super::api::api;
use super::functions::{answer, argument, database};
use super::guard::guarded;
use super::vtab_abi::*;
use crate::sql::{self, Answer, Argument};

const NAME: &std::ffi::CStr = c"litestream_history";
const COLUMNS: &std::ffi::CStr = c"CREATE TABLE x(level INTEGER, min_txid TEXT, max_txid TEXT, \
                                   time TEXT, size INTEGER, pages INTEGER, schema TEXT HIDDEN)";
/// The column that an argument of the function is compared with.
const SCHEMA: c_int = 6;

/// A table; SQLite knows its beginning.
#[repr(C)]
struct Table {
    base: sqlite3_vtab,
    db: *mut sqlite3,
}

/// A cursor; SQLite knows its beginning.
#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    rows: Vec<Vec<Answer>>,
    at: usize,
}

static MODULE: sqlite3_module = sqlite3_module {
    iVersion: 0,
    // Without it the table cannot be created, only used.
    xCreate: None,
    xConnect: Some(x_connect),
    xBestIndex: Some(x_best_index),
    xDisconnect: Some(x_disconnect),
    xDestroy: None,
    xOpen: Some(x_open),
    xClose: Some(x_close),
    xFilter: Some(x_filter),
    xNext: Some(x_next),
    xEof: Some(x_eof),
    xColumn: Some(x_column),
    xRowid: Some(x_rowid),
    others: [null(); 7],
};

/// Makes the function known to a connection.
///
/// # Safety
/// `db` is an open connection, on its own thread.
pub(super) unsafe fn create(db: *mut sqlite3) {
    // SAFETY: the caller's connection and a module that lives for ever. A
    // failure (out of memory) leaves the connection without the function.
    unsafe {
        (api().create_module_v2)(db, NAME.as_ptr(), &raw const MODULE, null_mut(), null());
    }
}

unsafe extern "C" fn x_connect(
    db: *mut sqlite3,
    _: *mut c_void,
    _: c_int,
    _: *const *const c_char,
    out: *mut *mut sqlite3_vtab,
    _: *mut *mut c_char,
) -> c_int {
    // SAFETY: the connection of the call, and a statement.
    let rc = unsafe { (api().declare_vtab)(db, COLUMNS.as_ptr()) };
    if rc == SQLITE_OK {
        let base = sqlite3_vtab { pModule: null(), nRef: 0, zErrMsg: null_mut() };
        let table = Box::new(Table { base, db });
        // SAFETY: the place for the table, which SQLite gives to `x_disconnect`
        // before the connection ends.
        unsafe { *out = Box::into_raw(table).cast() };
    }
    rc
}

unsafe extern "C" fn x_disconnect(table: *mut sqlite3_vtab) -> c_int {
    // SAFETY: made by `x_connect`, given back once.
    drop(unsafe { Box::from_raw(table.cast::<Table>()) });
    SQLITE_OK
}

unsafe extern "C" fn x_best_index(_: *mut sqlite3_vtab, plan: *mut sqlite3_index_info) -> c_int {
    // SAFETY: SQLite's description, with as many terms and uses as it says.
    unsafe {
        let plan = &mut *plan;
        for i in 0..usize::try_from(plan.nConstraint).unwrap_or(0) {
            let term = &*plan.aConstraint.add(i);
            if term.iColumn != SCHEMA || term.op != SQLITE_INDEX_CONSTRAINT_EQ {
                continue;
            }
            if term.usable == 0 {
                // Without its argument the function would be about `main`.
                return SQLITE_CONSTRAINT;
            }
            let usage = &mut *plan.aConstraintUsage.add(i);
            (usage.argvIndex, usage.omit, plan.idxNum) = (1, 1, 1);
        }
        plan.estimatedCost = 1000.0;
    }
    SQLITE_OK
}

unsafe extern "C" fn x_open(_: *mut sqlite3_vtab, out: *mut *mut sqlite3_vtab_cursor) -> c_int {
    let base = sqlite3_vtab_cursor { pVtab: null_mut() };
    let cursor = Box::new(Cursor { base, rows: Vec::new(), at: 0 });
    // SAFETY: the place for the cursor, which SQLite gives to `x_close`.
    unsafe { *out = Box::into_raw(cursor).cast() };
    SQLITE_OK
}

unsafe extern "C" fn x_close(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: made by `x_open`, given back once.
    drop(unsafe { Box::from_raw(cursor.cast::<Cursor>()) });
    SQLITE_OK
}

unsafe extern "C" fn x_filter(
    cursor: *mut sqlite3_vtab_cursor,
    _: c_int,
    _: *const c_char,
    count: c_int,
    values: *mut *mut sqlite3_value,
) -> c_int {
    let found = guarded(Err(sql::FAULTED.to_owned()), || {
        // SAFETY: a cursor of `x_open` on a table of `x_connect`, on the
        // connection's thread, and `count` values that live through the call.
        unsafe {
            let table = &*(*cursor).pVtab.cast::<Table>();
            let schema = if count > 0 { argument(*values) } else { Argument::Null };
            let schema = match &schema {
                Argument::Text(text) => text.as_str(),
                Argument::Null => "main",
            };
            sql::history(database(table.db, schema))
        }
    });
    // SAFETY: as above.
    unsafe {
        let cursor = &mut *cursor.cast::<Cursor>();
        match found {
            Ok(rows) => {
                (cursor.rows, cursor.at) = (rows, 0);
                SQLITE_OK
            }
            Err(text) => {
                let table = &mut *cursor.base.pVtab;
                (api().free)(table.zErrMsg.cast());
                table.zErrMsg = api().allocated_text(&text);
                SQLITE_ERROR
            }
        }
    }
}

unsafe extern "C" fn x_next(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: a cursor of `x_open`.
    unsafe { (*cursor.cast::<Cursor>()).at += 1 };
    SQLITE_OK
}

unsafe extern "C" fn x_eof(cursor: *mut sqlite3_vtab_cursor) -> c_int {
    // SAFETY: a cursor of `x_open`.
    let cursor = unsafe { &*cursor.cast::<Cursor>() };
    c_int::from(cursor.at >= cursor.rows.len())
}

unsafe extern "C" fn x_column(
    cursor: *mut sqlite3_vtab_cursor,
    context: *mut sqlite3_context,
    column: c_int,
) -> c_int {
    // SAFETY: a cursor of `x_open` and the context of this call.
    unsafe {
        let cursor = &*cursor.cast::<Cursor>();
        let row = cursor.rows.get(cursor.at);
        let value = usize::try_from(column).ok().and_then(|n| row?.get(n));
        answer(context, Ok(value.cloned().unwrap_or(Answer::Null)));
    }
    SQLITE_OK
}

unsafe extern "C" fn x_rowid(cursor: *mut sqlite3_vtab_cursor, out: *mut i64) -> c_int {
    // SAFETY: a cursor of `x_open` and a place for the number.
    unsafe { *out = i64::try_from((*cursor.cast::<Cursor>()).at).unwrap_or(i64::MAX) };
    SQLITE_OK
}
