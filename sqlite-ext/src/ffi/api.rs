//! SQLite's API, reached through the table that the host hands to the entry
//! point (`sqlite3_api_routines`): a plain array of pointers that only ever
//! grows at its end. The extension links no libsqlite3.
#![allow(clippy::missing_transmute_annotations)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::abi::*;
use super::vtab_abi::sqlite3_module;

/// The oldest host: 3.34 has every slot named here.
pub(crate) const MINIMUM_VERSION: c_int = 3_034_000;

/// Index of `sqlite3_libversion_number`; in the table since its beginning.
const LIBVERSION_NUMBER: usize = 67;
/// Index of `sqlite3_mprintf`; in the table since its beginning.
const MPRINTF: usize = 69;

macro_rules! api_table {
    ($($name:ident = $slot:literal: fn($($arg:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// Typed pointers into the host's SQLite.
        pub(crate) struct Api {
            /// Address of the table, which tells two SQLites apart.
            table: usize,
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            pub(super) mprintf: unsafe extern "C" fn(*const c_char, ...) -> *mut c_char,
            pub(super) log: unsafe extern "C" fn(c_int, *const c_char, ...),
        }

        impl Api {
            /// Reads the slots.
            ///
            /// # Safety
            /// `table` is the `sqlite3_api_routines` of a SQLite of at least
            /// [`MINIMUM_VERSION`].
            unsafe fn read(table: *const *const c_void) -> Option<Api> {
                // SAFETY: the caller's version check vouches that the table is
                // at least as long as the highest slot used here; the types
                // are those of sqlite3ext.h. A build of SQLite with omitted
                // features leaves a slot null, which is refused.
                unsafe {
                    Some(Api {
                        table: table as usize,
                        $($name: {
                            let slot = *table.add($slot);
                            if slot.is_null() {
                                return None;
                            }
                            std::mem::transmute(slot)
                        },)*
                        mprintf: std::mem::transmute(*table.add(MPRINTF)),
                        log: std::mem::transmute(*table.add(167)),
                    })
                }
            }
        }
    };
}

api_table! {
    free = 58: fn(*mut c_void);
    libversion = 66: fn() -> *const c_char;
    libversion_number = 67: fn() -> c_int;
    result_double = 79: fn(*mut sqlite3_context, f64);
    result_error = 80: fn(*mut sqlite3_context, *const c_char, c_int);
    result_int64 = 83: fn(*mut sqlite3_context, i64);
    result_null = 84: fn(*mut sqlite3_context);
    user_data = 101: fn(*mut sqlite3_context) -> *mut c_void;
    value_bytes = 103: fn(*mut sqlite3_value) -> c_int;
    value_text = 109: fn(*mut sqlite3_value) -> *const c_char;
    value_type = 113: fn(*mut sqlite3_value) -> c_int;
    file_control = 127: fn(*mut sqlite3, *const c_char, c_int, *mut c_void) -> c_int;
    open_v2 = 135: fn(*const c_char, *mut *mut sqlite3, c_int, *const c_char) -> c_int;
    vfs_find = 141: fn(*const c_char) -> *mut sqlite3_vfs;
    vfs_register = 142: fn(*mut sqlite3_vfs, c_int) -> c_int;
    threadsafe = 144: fn() -> c_int;
    close_v2 = 179: fn(*mut sqlite3) -> c_int;
    create_module_v2 = 119: fn(
        *mut sqlite3, *const c_char, *const sqlite3_module, *mut c_void, *const c_void,
    ) -> c_int;
    declare_vtab = 50: fn(*mut sqlite3, *const c_char) -> c_int;
    context_db_handle = 149: fn(*mut sqlite3_context) -> *mut sqlite3;
    create_function_v2 = 162: fn(
        *mut sqlite3, *const c_char, c_int, c_int, *mut c_void,
        Option<Function>, *const c_void, *const c_void, *const c_void,
    ) -> c_int;
    auto_extension = 192: fn(EntryPoint) -> c_int;
    result_text64 = 202: fn(*mut sqlite3_context, *const c_char, u64, isize, u8);
    uri_parameter = 189: fn(*const c_char, *const c_char) -> *const c_char;
    uri_key = 245: fn(*const c_char, c_int) -> *const c_char;
    filename_database = 246: fn(*const c_char) -> *const c_char;
    filename_journal = 247: fn(*const c_char) -> *const c_char;
    filename_wal = 248: fn(*const c_char) -> *const c_char;
    create_filename = 249: fn(
        *const c_char, *const c_char, *const c_char, c_int, *const *const c_char,
    ) -> *const c_char;
    free_filename = 250: fn(*const c_char);
}

static API: OnceLock<Api> = OnceLock::new();

/// Why the table could not be taken.
pub(crate) enum Refused {
    /// The host's SQLite is older than [`MINIMUM_VERSION`].
    TooOld(c_int),
    /// The host's SQLite was built without something the extension needs.
    Incomplete,
    /// This copy of the library serves another SQLite of the same process.
    OtherSqlite,
}

/// Takes the host's table; later calls only check that it is the same one.
///
/// # Safety
/// `table` is the `sqlite3_api_routines` that SQLite passed to an entry point.
pub(super) unsafe fn install(table: *const c_void) -> Result<&'static Api, Refused> {
    let table = table.cast::<*const c_void>();
    // SAFETY: every version of the table has this slot, of this type.
    let version = unsafe {
        let f: unsafe extern "C" fn() -> c_int = std::mem::transmute(*table.add(LIBVERSION_NUMBER));
        f()
    };
    if version < MINIMUM_VERSION {
        return Err(Refused::TooOld(version));
    }
    if API.get().is_none() {
        // SAFETY: the version was checked just above.
        let api = unsafe { Api::read(table) }.ok_or(Refused::Incomplete)?;
        let _ = API.set(api);
    }
    let api = API.get().ok_or(Refused::Incomplete)?;
    if api.table == table as usize { Ok(api) } else { Err(Refused::OtherSqlite) }
}

/// Copies `text` into memory of a SQLite whose table could not be taken.
///
/// # Safety
/// `table` is the `sqlite3_api_routines` of any version.
pub(super) unsafe fn foreign_text(table: *const c_void, text: &str) -> *mut c_char {
    let text = c_text(text);
    // SAFETY: every version of the table has this slot, of this type; "%s"
    // takes one string.
    unsafe {
        let f: unsafe extern "C" fn(*const c_char, ...) -> *mut c_char =
            std::mem::transmute(*table.cast::<*const c_void>().add(MPRINTF));
        f(c"%s".as_ptr(), text.as_ptr())
    }
}

/// The host's SQLite. Every caller runs in, or after, the entry point.
///
/// # Panics
/// Before the first successful [`install`].
pub(crate) fn api() -> &'static Api {
    API.get().expect("the entry point installed the table")
}

impl Api {
    /// The host's version, such as `3.40.1`.
    pub(crate) fn version_text(&self) -> String {
        // SAFETY: sqlite3_libversion returns a static string.
        unsafe { CStr::from_ptr((self.libversion)()) }.to_string_lossy().into_owned()
    }

    /// The host's version as a number: 3.40.1 is 3040001.
    pub(crate) fn version_number(&self) -> c_int {
        // SAFETY: takes no argument, returns a constant.
        unsafe { (self.libversion_number)() }
    }

    /// Whether SQLite may be called from several threads.
    pub(crate) fn is_threadsafe(&self) -> bool {
        // SAFETY: takes no argument, reads a constant.
        unsafe { (self.threadsafe)() != 0 }
    }

    /// Sends one line to the host's error log (`SQLITE_CONFIG_LOG`).
    pub(crate) fn write_log(&self, code: c_int, text: &str) {
        let text = c_text(text);
        // SAFETY: "%s" takes one string, which outlives the call.
        unsafe { (self.log)(code, c"%s".as_ptr(), text.as_ptr()) }
    }

    /// A copy of `text` in SQLite's memory, to be freed by SQLite; null when
    /// memory is out.
    pub(super) fn allocated_text(&self, text: &str) -> *mut c_char {
        let text = c_text(text);
        // SAFETY: "%s" takes one string, which outlives the call.
        unsafe { (self.mprintf)(c"%s".as_ptr(), text.as_ptr()) }
    }
}

/// `text` as a C string; NUL bytes become question marks.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}
