//! SQL functions: from SQLite's values to `sql` and back.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use super::abi::*;
use super::api::{api, c_text};
use super::guard::guarded;
use super::history;
use super::io::main_hooks;
use super::replica_io::replica_hooks;
use crate::sql::{self, Answer, Argument, Call, Database, FUNCTIONS, Outcome};

/// Creates every function on a connection.
///
/// # Safety
/// `db` is an open connection, on its own thread.
pub(super) unsafe fn create(db: *mut sqlite3) {
    // SAFETY: the caller's connection.
    unsafe { history::create(db) };
    for (index, function) in FUNCTIONS.iter().enumerate() {
        let name = c_text(function.name);
        let effects = if function.has_effects { SQLITE_DIRECTONLY } else { 0 };
        for &arguments in function.arguments {
            // SAFETY: the caller's connection; the name is copied. The user
            // data is an index, not a pointer to anything. A failure (out of
            // memory) leaves the connection without that function.
            unsafe {
                (api().create_function_v2)(
                    db,
                    name.as_ptr(),
                    arguments,
                    SQLITE_UTF8 | effects,
                    index as *mut c_void,
                    Some(run),
                    null(),
                    null(),
                    null(),
                );
            }
        }
    }
}

unsafe extern "C" fn run(
    context: *mut sqlite3_context,
    count: c_int,
    values: *mut *mut sqlite3_value,
) {
    let outcome = guarded(Err(sql::FAULTED.to_owned()), || {
        // SAFETY: SQLite passes `count` values that live through the call, and
        // the user data that `create` gave.
        unsafe {
            let index = (api().user_data)(context) as usize;
            let Some(function) = FUNCTIONS.get(index) else { return Ok(Answer::Null) };
            let arguments: Vec<Argument> = (0..usize::try_from(count).unwrap_or(0))
                .map(|i| argument(*values.add(i)))
                .collect();
            let schema = match function.schema_at.and_then(|at| arguments.get(at)) {
                Some(Argument::Text(text)) => text.as_str(),
                _ => "main",
            };
            let db = (api().context_db_handle)(context);
            sql::call(function, &Call { arguments: &arguments, database: database(db, schema) })
        }
    });
    // SAFETY: the context of this call.
    unsafe { answer(context, outcome) }
}

/// # Safety
/// `value` is an argument of the running function.
pub(super) unsafe fn argument(value: *mut sqlite3_value) -> Argument {
    // SAFETY: the text is copied before any other call on the value.
    unsafe {
        if (api().value_type)(value) == SQLITE_NULL {
            return Argument::Null;
        }
        let text = (api().value_text)(value);
        let n = usize::try_from((api().value_bytes)(value)).unwrap_or(0);
        if text.is_null() {
            return Argument::Null;
        }
        let bytes = std::slice::from_raw_parts(text.cast::<u8>(), n);
        Argument::Text(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// The database of ours behind `schema` of a connection.
///
/// # Safety
/// `db` is an open connection, on its own thread; the reference is not kept
/// past the running call.
pub(super) unsafe fn database<'a>(db: *mut sqlite3, schema: &str) -> Option<Database<'a>> {
    let schema = c_text(schema);
    let mut file: *mut sqlite3_file = null_mut();
    let place = (&raw mut file).cast::<c_void>();
    // SAFETY: the opcode wants a place for a pointer to the schema's open file,
    // which is null or an open file of some VFS.
    unsafe {
        let rc = (api().file_control)(db, schema.as_ptr(), SQLITE_FCNTL_FILE_POINTER, place);
        // A file that never was opened (a temporary one) has no methods.
        if rc != SQLITE_OK || file.is_null() || (*file).pMethods.is_null() {
            return None;
        }
        let primary = main_hooks(file).map(Database::Primary);
        primary.or_else(|| replica_hooks(file).map(Database::Replica))
    }
}

/// # Safety
/// `context` is that of the running function.
pub(super) unsafe fn answer(context: *mut sqlite3_context, outcome: Outcome) {
    /// Has SQLite copy the text (`SQLITE_TRANSIENT`).
    const COPY: isize = -1;
    // SAFETY: texts outlive the calls, which copy them.
    unsafe {
        match outcome {
            Ok(Answer::Null) => (api().result_null)(context),
            Ok(Answer::Integer(n)) => (api().result_int64)(context, n),
            Ok(Answer::Real(x)) => (api().result_double)(context, x),
            Ok(Answer::Text(text)) => (api().result_text64)(
                context,
                text.as_ptr().cast::<c_char>(),
                text.len() as u64,
                COPY,
                SQLITE_UTF8 as u8,
            ),
            Err(text) => {
                let text = c_text(&text);
                (api().result_error)(context, text.as_ptr(), -1);
            }
        }
    }
}

/// Creates the functions on every connection that opens from now on. Always
/// answers OK: a failure here would fail the open of a database that may have
/// nothing to do with replication.
pub(super) unsafe extern "C" fn on_open(
    db: *mut sqlite3,
    _: *mut *mut c_char,
    _: *const c_void,
) -> c_int {
    // SAFETY: SQLite calls with a connection that is being opened.
    guarded((), || unsafe { create(db) });
    SQLITE_OK
}
