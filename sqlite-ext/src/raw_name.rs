//! Names of the form `file:...?...` from hosts that do not let SQLite parse
//! URIs. Without this the host VFS would create a file of that very name.
//!
//! SQLite calls `xFullPathname` and then, on the same thread, `xOpen` with the
//! path that came out. The parameters wait in between in a thread-local slot.

use std::cell::RefCell;

use crate::ffi::abi::{
    SQLITE_CANTOPEN, SQLITE_OPEN_CREATE, SQLITE_OPEN_READONLY, SQLITE_OPEN_READWRITE,
};
use crate::last_error;

/// Name and value of each parameter of a URI, in order.
pub(crate) type Parameters = Vec<(String, String)>;

thread_local! {
    static PENDING: RefCell<Option<(Vec<u8>, RawName)>> = const { RefCell::new(None) };
}

/// A parsed name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawName {
    /// The path, decoded.
    pub path: String,
    /// Its parameters.
    pub parameters: Parameters,
}

/// Parses a name that begins with `file:`; `None` for every other name.
///
/// # Errors
/// `SQLITE_CANTOPEN`, with the reason in the thread's last error.
pub(crate) fn parse(name: &[u8]) -> Result<Option<RawName>, i32> {
    let Some(rest) = name.strip_prefix(b"file:") else { return Ok(None) };
    split(rest).map(Some).map_err(|why| {
        // A query may hold credentials of a replica.
        let name = name.split(|b| *b == b'?').next().unwrap_or_default();
        last_error::set(format!("cannot open {}: {why}", String::from_utf8_lossy(name)));
        SQLITE_CANTOPEN
    })
}

fn split(rest: &[u8]) -> Result<RawName, String> {
    let rest = rest.split(|b| *b == b'#').next().unwrap_or_default();
    let (path, query) = match rest.iter().position(|b| *b == b'?') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &[][..]),
    };
    let path = decode(without_authority(path)?)?;
    if path.is_empty() {
        return Err("the URI names no file".to_owned());
    }
    let mut parameters = Parameters::new();
    for pair in query.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        let (key, value) = match pair.iter().position(|b| *b == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        };
        parameters.push((decode(key)?, decode(value)?));
    }
    Ok(RawName { path, parameters })
}

/// Drops `//` and `//localhost` before an absolute path.
fn without_authority(path: &[u8]) -> Result<&[u8], String> {
    let Some(rest) = path.strip_prefix(b"//") else { return Ok(path) };
    let at = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    match &rest[..at] {
        b"" | b"localhost" => Ok(&rest[at..]),
        other => Err(format!("invalid uri authority: {}", String::from_utf8_lossy(other))),
    }
}

/// Percent-decodes as SQLite does: what is no escape stays as it is.
///
/// # Errors
/// Text about a NUL or what is not UTF-8.
pub(crate) fn decode(text: &[u8]) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.get(..2).filter(|p| p.iter().all(u8::is_ascii_hexdigit));
        let pair = digits.and_then(|p| std::str::from_utf8(p).ok());
        let byte = pair.and_then(|p| u8::from_str_radix(p, 16).ok());
        match (first, byte) {
            (b'%', Some(0)) => return Err("%00 has no place in a name".to_owned()),
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => out.push(first),
        }
    }
    String::from_utf8(out).map_err(|_| "it is not UTF-8".to_owned())
}

impl RawName {
    /// Keeps the name for the open of `full_path` on this thread.
    pub(crate) fn remember(self, full_path: &[u8]) {
        let pending = (full_path.to_vec(), self);
        let _ = PENDING.try_with(|p| *p.borrow_mut() = Some(pending));
    }
}

/// The name remembered for `full_path`, if it was the last one parsed.
pub(crate) fn take(full_path: &[u8]) -> Option<RawName> {
    let pending = PENDING.try_with(|p| p.borrow_mut().take()).ok()??;
    (pending.0 == full_path).then_some(pending.1)
}

/// What SQLite's own parameters ask of an open that SQLite did not parse.
///
/// # Errors
/// Text about a parameter that only SQLite itself could honour.
pub(crate) fn apply_mode(parameters: &Parameters, flags: i32) -> Result<i32, String> {
    let mut flags = flags;
    for (key, value) in parameters {
        match (key.as_str(), value.as_str()) {
            ("mode", "ro") => {
                flags &= !(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
                flags |= SQLITE_OPEN_READONLY;
            }
            ("mode", "rw") => flags &= !SQLITE_OPEN_CREATE,
            ("mode", "rwc") => {}
            ("mode", "memory" | _) => {
                return Err(format!("mode={value} works only when SQLite parses the URI"));
            }
            ("nolock" | "immutable", "0" | "no" | "off" | "false") => {}
            ("nolock" | "immutable", _) => {
                return Err(format!("{key} works only when SQLite parses the URI"));
            }
            ("cache", "shared") => {
                return Err("cache=shared works only when SQLite parses the URI".to_owned());
            }
            _ => {}
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> RawName {
        parse(name.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn other_names_are_left_alone() {
        assert_eq!(parse(b"/tmp/x.db"), Ok(None));
        assert_eq!(parse(b"x.db?file:"), Ok(None));
    }

    #[test]
    fn decodes_as_sqlite_does() {
        let raw = parsed("file:///tmp/a%20b.db?x=1&replica_url=s3%3A%2F%2Fb%2Fp%3Fendpoint%3Dh#f");
        assert_eq!(raw.path, "/tmp/a b.db");
        let pairs: Vec<_> = raw.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(pairs, [("x", "1"), ("replica_url", "s3://b/p?endpoint=h")]);
        assert_eq!(parsed("file://localhost/x").path, "/x");
        assert_eq!(parsed("file:x.db").path, "x.db");
        assert_eq!(parsed("file:a%zz.db").path, "a%zz.db");
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        for bad in ["file:", "file://host/x", "file:a%00b", "file:%ff"] {
            assert_eq!(parse(bad.as_bytes()), Err(SQLITE_CANTOPEN), "{bad}");
            assert!(last_error::get().contains("cannot open"), "{bad}");
        }
        assert!(parse(b"file:s3://b/x?sseCustomerKey=geheim&y=%ff").is_err());
        assert!(!last_error::get().contains("geheim"), "{}", last_error::get());
    }

    #[test]
    fn parameters_wait_for_their_open_only() {
        parsed("file:x?a=1").remember(b"/x");
        assert!(take(b"/y").is_none());
        parsed("file:x?a=1").remember(b"/x");
        assert_eq!(take(b"/x").unwrap().parameters.len(), 1);
        assert!(take(b"/x").is_none());
    }

    #[test]
    fn modes_narrow_the_flags() {
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
        let with = |k: &str, v: &str| apply_mode(&vec![(k.into(), v.into())], flags);
        assert_eq!(with("mode", "ro"), Ok(SQLITE_OPEN_READONLY));
        assert_eq!(with("mode", "rw"), Ok(SQLITE_OPEN_READWRITE));
        assert_eq!(with("psow", "0"), Ok(flags));
        assert!(with("immutable", "1").is_err());
    }
}
