//! SQLite's own check of a restored file.

use std::path::Path;
use std::str::FromStr;

use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::os::disk::{self as os, File};

/// Problems that an error quotes.
const PROBLEMS_NAMED: usize = 3;

/// How thorough the check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    None,
    /// `PRAGMA quick_check`: structure, not the agreement of indexes.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Mode::None => "none",
            Mode::Quick => "quick",
            Mode::Full => "full",
        }
    }

    fn pragma(self) -> Option<&'static str> {
        match self {
            Mode::None => None,
            Mode::Quick => Some("quick_check"),
            Mode::Full => Some("integrity_check"),
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        [Mode::None, Mode::Quick, Mode::Full].into_iter().find(|m| m.word() == word).ok_or_else(
            || {
                let text = format!(
                    "invalid -integrity-check value: {word} (expected none, quick or full)"
                );
                Error::new(ErrorKind::InvalidInput, text)
            },
        )
    }
}

/// Checks the database file `path`, which nobody else has open; leaves nothing
/// beside it.
///
/// A table that needs functions or collations of its application cannot be
/// checked here; such tables are returned, each with the reason.
///
/// # Errors
/// `Corrupt` with the first problems found.
pub(super) fn check(path: &Path, mode: Mode) -> Result<Vec<String>> {
    let Some(pragma) = mode.pragma() else { return Ok(Vec::new()) };
    if is_encrypted(path)? {
        return Ok(vec!["the whole database (it cannot be read without its key)".to_owned()]);
    }
    let outcome = open(path).and_then(|db| {
        let mut unchecked = Vec::new();
        let problems = match problems(&db, &format!("PRAGMA {pragma}({PROBLEMS_NAMED})")) {
            Err(e) if is_beyond_us(&e) => table_by_table(&db, pragma, &mut unchecked)?,
            result => result?,
        };
        Ok((problems, unchecked))
    });
    match outcome {
        Ok((problems, unchecked)) if problems.is_empty() => Ok(unchecked),
        Ok((problems, _)) => Err(failed(problems.join("; "))),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Whether the file is made of pages but does not begin as a database does. The
/// checksums of the files that it was restored from hold in any case.
fn is_encrypted(path: &Path) -> Result<bool> {
    let file = File::open(path)?;
    let mut head = [0u8; 16];
    let got = file.read_at(&mut head, 0)?;
    let pages = os::stat(path)?.is_some_and(|s| s.size >= 512 && s.size % 512 == 0);
    Ok(got == head.len() && pages && head != *b"SQLite format 3\0" && head != [0; 16])
}

fn failed(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("post-restore integrity check: {what}"))
}

/// An immutable database is opened without -wal and -shm whatever its header
/// says.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let uri = format!("file:{}?immutable=1", encode(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

/// What a check pragma reports; empty when it reports `ok`.
fn problems(db: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut rows: Vec<String> =
        db.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    rows.retain(|row| row != "ok");
    Ok(rows)
}

/// The generic error: SQL that does not compile, here for want of what the
/// application defines. Damage has codes of its own.
fn is_beyond_us(e: &rusqlite::Error) -> bool {
    e.sqlite_error().is_some_and(|e| e.extended_code & 0xff == rusqlite::ffi::SQLITE_ERROR)
}

fn table_by_table(
    db: &Connection,
    pragma: &str,
    unchecked: &mut Vec<String>,
) -> rusqlite::Result<Vec<String>> {
    const TABLES: &str =
        "SELECT 'sqlite_schema' UNION ALL SELECT name FROM sqlite_schema WHERE type='table'";
    let tables: Vec<String> =
        db.prepare(TABLES)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut found = Vec::new();
    for table in tables {
        let quoted = table.replace('"', "\"\"");
        match problems(db, &format!("PRAGMA {pragma}(\"{quoted}\")")) {
            Ok(rows) => found.extend(rows),
            Err(e) if is_beyond_us(&e) => unchecked.push(format!("table {table} ({e})")),
            Err(e) => return Err(e),
        }
    }
    found.truncate(PROBLEMS_NAMED);
    Ok(found)
}

fn encode(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    percent_encoding::percent_encode(path.as_os_str().as_bytes(), PATH_ESCAPES).to_string()
}

/// What ends or changes the path of an SQLite URI.
const PATH_ESCAPES: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b'?').add(b'#').add(b'%').add(b' ');

#[cfg(test)]
mod tests {
    use super::*;

    fn wal_database(path: &Path) {
        let c = Connection::open(path).unwrap();
        c.pragma_update(None, "journal_mode", "wal").unwrap();
        c.execute_batch("CREATE TABLE t(a); CREATE INDEX i ON t(a);").unwrap();
        for n in 0..500 {
            c.execute("INSERT INTO t VALUES (printf('%0200d', ?1))", [n]).unwrap();
        }
    }

    #[test]
    fn r_48_a_sound_wal_database_passes_and_leaves_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd ?#%41 name.db");
        wal_database(&path);
        for mode in [Mode::None, Mode::Quick, Mode::Full] {
            assert_eq!(check(&path, mode).unwrap(), [""; 0]);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn r_48_damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        wal_database(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        for mode in [Mode::Quick, Mode::Full] {
            let e = check(&path, mode).unwrap_err();
            assert!(e.to_string().starts_with("post-restore integrity check: "), "{e}");
        }
        std::fs::write(&path, b"no database at all, but long enough to have a header").unwrap();
        assert!(check(&path, Mode::Quick).is_err());
    }

    #[test]
    fn what_the_application_defines_is_left_unchecked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        wal_database(&path);
        let c = Connection::open(&path).unwrap();
        c.execute_batch(
            "PRAGMA writable_schema=1;
             CREATE TABLE \"q\"\"u\"(a COLLATE nocase PRIMARY KEY);
             UPDATE sqlite_schema SET sql = replace(sql, 'nocase', 'mine');",
        )
        .unwrap();
        drop(c);
        let unchecked = check(&path, Mode::Quick).unwrap();
        assert_eq!(unchecked, ["table q\"u (no such collation sequence: mine)"]);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2 / 4096 * 4096;
        bytes[at..at + 4096].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        assert!(check(&path, Mode::Quick).is_err());
    }

    #[test]
    fn modes_are_three_words() {
        assert_eq!("quick".parse::<Mode>().unwrap(), Mode::Quick);
        let e = "fast".parse::<Mode>().unwrap_err().to_string();
        assert!(e.contains("invalid -integrity-check value: fast"), "{e}");
    }
}
