//! SQLite's C interface of virtual tables, in the layout of `sqlite3.h`.
#![allow(non_camel_case_types, non_snake_case)]

use std::ffi::{c_char, c_int, c_uchar, c_void};

use super::abi::{sqlite3, sqlite3_context, sqlite3_value};

/// The common beginning of a table.
#[repr(C)]
pub(crate) struct sqlite3_vtab {
    pub pModule: *const sqlite3_module,
    pub nRef: c_int,
    /// SQLite's memory; SQLite takes and frees it.
    pub zErrMsg: *mut c_char,
}

/// The common beginning of a cursor; SQLite sets `pVtab`.
#[repr(C)]
pub(crate) struct sqlite3_vtab_cursor {
    pub pVtab: *mut sqlite3_vtab,
}

/// A term of a WHERE clause.
#[repr(C)]
pub(crate) struct sqlite3_index_constraint {
    pub iColumn: c_int,
    pub op: c_uchar,
    pub usable: c_uchar,
    pub iTermOffset: c_int,
}

/// What the table makes of a term.
#[repr(C)]
pub(crate) struct sqlite3_index_constraint_usage {
    pub argvIndex: c_int,
    pub omit: c_uchar,
}

/// The beginning of a plan's description; later versions of SQLite add fields.
#[repr(C)]
pub(crate) struct sqlite3_index_info {
    pub nConstraint: c_int,
    pub aConstraint: *const sqlite3_index_constraint,
    pub nOrderBy: c_int,
    pub aOrderBy: *const c_void,
    pub aConstraintUsage: *mut sqlite3_index_constraint_usage,
    pub idxNum: c_int,
    pub idxStr: *mut c_char,
    pub needToFreeIdxStr: c_int,
    pub orderByConsumed: c_int,
    pub estimatedCost: f64,
}

/// `column = value`.
pub(crate) const SQLITE_INDEX_CONSTRAINT_EQ: c_uchar = 2;
/// The answer to a plan that the table cannot follow.
pub(crate) const SQLITE_CONSTRAINT: c_int = 19;

type Connect = unsafe extern "C" fn(
    *mut sqlite3,
    *mut c_void,
    c_int,
    *const *const c_char,
    *mut *mut sqlite3_vtab,
    *mut *mut c_char,
) -> c_int;
type OfTable = unsafe extern "C" fn(*mut sqlite3_vtab) -> c_int;
type OfCursor = unsafe extern "C" fn(*mut sqlite3_vtab_cursor) -> c_int;

/// Methods of a table, version 0.
#[repr(C)]
pub(crate) struct sqlite3_module {
    pub iVersion: c_int,
    pub xCreate: Option<Connect>,
    pub xConnect: Option<Connect>,
    pub xBestIndex:
        Option<unsafe extern "C" fn(*mut sqlite3_vtab, *mut sqlite3_index_info) -> c_int>,
    pub xDisconnect: Option<OfTable>,
    pub xDestroy: Option<OfTable>,
    pub xOpen:
        Option<unsafe extern "C" fn(*mut sqlite3_vtab, *mut *mut sqlite3_vtab_cursor) -> c_int>,
    pub xClose: Option<OfCursor>,
    pub xFilter: Option<
        unsafe extern "C" fn(
            *mut sqlite3_vtab_cursor,
            c_int,
            *const c_char,
            c_int,
            *mut *mut sqlite3_value,
        ) -> c_int,
    >,
    pub xNext: Option<OfCursor>,
    pub xEof: Option<OfCursor>,
    pub xColumn: Option<
        unsafe extern "C" fn(*mut sqlite3_vtab_cursor, *mut sqlite3_context, c_int) -> c_int,
    >,
    pub xRowid: Option<unsafe extern "C" fn(*mut sqlite3_vtab_cursor, *mut i64) -> c_int>,
    /// Methods of tables that are written or renamed.
    pub others: [*const c_void; 7],
}

// SAFETY: the table is constant; its pointers are null or functions.
unsafe impl Sync for sqlite3_module {}
