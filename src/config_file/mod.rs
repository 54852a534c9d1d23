//! Litestream's configuration file: which databases are replicated where.
//!
//! The text is expanded ([`Surroundings`]), read as YAML, and checked key by key:
//! an unknown key, a value that does not fit and everything that could be taken
//! for protection without being any (`age`) is an error that names file and line.
//! Keys that only Litestream's daemon acts upon become [`Note`]s.

use std::path::{Path, PathBuf};

use self::glob::Pattern;
use self::schema::{Fields, Reader};
use self::yaml::Problem;
use crate::error::{Error, ErrorKind, Result};
use crate::os;

mod expand;
mod glob;
mod replica;
mod scalar;
mod schema;
mod yaml;

pub use expand::Surroundings;
pub use replica::Replica;
pub use schema::Note;

/// Names the file to use.
pub const VARIABLE: &str = "LITESTREAM_CONFIG";
/// The file that the command line uses when none is named.
pub const DEFAULT_PATH: &str = "/etc/litestream.yml";
/// A longer file is refused.
pub const BYTES_MAX: usize = 4 << 20;

/// A file that was found to be right in every part.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// Where it is; named in messages.
    pub path: PathBuf,
    /// The entries of `dbs`, in their order.
    pub databases: Vec<Database>,
    /// What is in the file without effect, by line.
    pub notes: Vec<Note>,
}

/// One entry of `dbs`: a database, or the databases of a directory.
#[derive(Debug, Clone)]
pub struct Database {
    /// Where it begins, from 1.
    pub line: usize,
    /// Which databases it is about.
    pub place: Place,
    /// Their replica; each of a directory has a place of its own below it.
    pub replica: Replica,
}

/// Which databases an entry is about. All paths are absolute and cleaned.
#[derive(Debug, Clone)]
pub enum Place {
    /// One file, which need not exist.
    File {
        /// The database.
        path: PathBuf,
        /// Where our own files go, unless beside the database.
        meta_path: Option<PathBuf>,
    },
    /// The files of a directory whose names fit a pattern.
    Directory(Directory),
}

/// `dir` and what belongs to it.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The directory.
    pub path: PathBuf,
    /// Whether directories within it count.
    pub recursive: bool,
    pattern: Pattern,
    meta: Meta,
}

/// Where our own files of a database of a directory go.
#[derive(Debug, Clone)]
enum Meta {
    Beside,
    /// `base/dir/.name-litestream`
    Hidden(PathBuf),
    /// `base/dir/name-litestream`
    Plain(PathBuf),
}

/// What a file says about one database.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its replica.
    pub replica: Replica,
    /// Where our own files go, unless beside the database.
    pub meta_path: Option<PathBuf>,
    /// The file names this very database, not a directory that it is in.
    pub by_name: bool,
}

impl ConfigFile {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// `NotFound` when there is none, else as [`ConfigFile::parse`].
    pub fn load(path: &Path, around: &Surroundings) -> Result<ConfigFile> {
        let bytes = match os::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let text = format!("config file not found: {}", path.display());
                return Err(Error::new(ErrorKind::NotFound, text));
            }
            other => other?,
        };
        let text = String::from_utf8(bytes).map_err(|e| {
            let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            at(path, Problem::new(line, "the file is not UTF-8"))
        })?;
        ConfigFile::parse(path, &text, around)
    }

    /// Reads `text`, which is the content of the file `path`; touches no file.
    ///
    /// # Errors
    /// `InvalidInput` with the file, the line and what is wrong there. Values that
    /// may be secret are not repeated.
    pub fn parse(path: &Path, text: &str, around: &Surroundings) -> Result<ConfigFile> {
        if text.len() > BYTES_MAX {
            let text = format!("longer than {BYTES_MAX} bytes");
            return Err(at(path, Problem::new(1, text)));
        }
        let text = around.expand(text);
        let mut file =
            ConfigFile { path: path.to_owned(), databases: Vec::new(), notes: Vec::new() };
        file.read(&text, around).map_err(|problem| at(path, problem))?;
        file.notes.sort_by_key(|note| note.line);
        Ok(file)
    }

    fn read(&mut self, text: &str, around: &Surroundings) -> std::result::Result<(), Problem> {
        let Some(root) = yaml::read(text)? else { return Ok(()) };
        let mut reader = Reader::default();
        let top = reader.fields(&root, &[schema::TOP, schema::SHARED], "")?;
        self.notes = reader.notes;
        for (n, fields) in top.maps("dbs").iter().enumerate() {
            let database = Database::new(fields, &top, around, &mut self.notes)
                .map_err(|p| Problem::new(p.line, format!("dbs[{n}]: {}", p.text)))?;
            self.refuse_twice(n, &database)?;
            self.databases.push(database);
        }
        Ok(())
    }

    fn refuse_twice(&self, n: usize, new: &Database) -> std::result::Result<(), Problem> {
        let Place::File { path, .. } = &new.place else { return Ok(()) };
        let same = |d: &&Database| matches!(&d.place, Place::File { path: p, .. } if p == path);
        match self.databases.iter().find(same) {
            Some(first) => {
                let text = format!(
                    "dbs[{n}]: {} is listed in line {} already",
                    path.display(),
                    first.line
                );
                Err(Problem::new(new.line, text))
            }
            None => Ok(()),
        }
    }

    /// What the file says about the database `path`.
    ///
    /// `path` and the file's paths are compared after `canonical`, which resolves
    /// symbolic links. An entry for the file wins over one for its directory, and
    /// of those the first.
    pub fn find(&self, path: &Path, canonical: &dyn Fn(&Path) -> PathBuf) -> Option<Settings> {
        let path = canonical(path);
        let by_name = self.databases.iter().find_map(|database| match &database.place {
            Place::File { path: own, meta_path } if *own == path || canonical(own) == path => {
                Some(Settings {
                    replica: database.replica.clone(),
                    meta_path: meta_path.clone(),
                    by_name: true,
                })
            }
            _ => None,
        });
        by_name.or_else(|| {
            self.databases.iter().find_map(|database| match &database.place {
                Place::Directory(dir) => {
                    let within = path.strip_prefix(canonical(&dir.path)).ok()?;
                    dir.settings(within, &database.replica)
                }
                Place::File { .. } => None,
            })
        })
    }
}

fn at(path: &Path, problem: Problem) -> Error {
    let text = format!("{}:{}: {}", path.display(), problem.line, problem.text);
    Error::new(ErrorKind::InvalidInput, text)
}

impl Database {
    fn new(
        fields: &Fields,
        top: &Fields,
        around: &Surroundings,
        notes: &mut Vec<Note>,
    ) -> std::result::Result<Database, Problem> {
        let place = place(fields, around)?;
        let fail = |key: &str, text: &str| Err(Problem::new(fields.line_of(key), text));
        let own = match (fields.map("replica"), fields.maps("replicas")) {
            (None, []) => return fail("path", "must specify replica for database"),
            (None, [one]) => one,
            (Some(one), []) => one,
            (Some(_), _) => return fail("replicas", "cannot specify 'replica' and 'replicas'"),
            _ => return fail("replicas", "only one replica per database is supported"),
        };
        let mut all = own.clone();
        all.inherit(top);
        let replica = Replica::new(own, &all, around, notes)?;
        Ok(Database { line: fields.line, place, replica })
    }
}

fn place(fields: &Fields, around: &Surroundings) -> std::result::Result<Place, Problem> {
    let fail = |key: &str, text: &str| Err(Problem::new(fields.line_of(key), text));
    let path_of = |key| fields.text(key).map(|text| around.path(text));
    let (path, dir) = match (path_of("path"), path_of("dir")) {
        (Some(_), Some(_)) => return fail("dir", "cannot specify both 'path' and 'dir'"),
        (None, None) => return fail("path", "must specify either 'path' or 'dir'"),
        pair => pair,
    };
    let meta_path = path_of("meta-path");
    let Some(dir) = dir else {
        for key in ["watch", "meta-dir", "pattern", "recursive"] {
            if fields.text(key).is_some() || fields.bool(key) == Some(true) {
                return fail(key, &format!("'{key}' is only for directories ('dir')"));
            }
        }
        return Ok(Place::File { path: path.unwrap_or_default(), meta_path });
    };
    let Some(pattern) = fields.text("pattern") else {
        return fail("dir", "'pattern' is required with 'dir'");
    };
    let Some(pattern) = Pattern::parse(pattern) else {
        return fail("pattern", "not a pattern: a bracket or an escape is not ended");
    };
    let meta = match (meta_path, path_of("meta-dir")) {
        (Some(_), Some(_)) => {
            return fail("meta-dir", "cannot use both 'meta-dir' and 'meta-path'");
        }
        (Some(base), None) => Meta::Hidden(base),
        (None, Some(base)) => Meta::Plain(base),
        (None, None) => Meta::Beside,
    };
    let recursive = fields.bool("recursive").unwrap_or(false);
    Ok(Place::Directory(Directory { path: dir, recursive, pattern, meta }))
}

impl Directory {
    /// Whether the entry is about a database at `relative` to the directory.
    pub fn covers(&self, relative: &Path) -> bool {
        let name = relative.file_name().and_then(|name| name.to_str());
        let depth = relative.components().count();
        (depth == 1 || self.recursive && depth > 1)
            && name.is_some_and(|name| self.pattern.fits(name))
    }

    fn settings(&self, relative: &Path, replica: &Replica) -> Option<Settings> {
        if !self.covers(relative) {
            return None;
        }
        let text = relative.to_str()?;
        let name = relative.file_name()?.to_str()?;
        let meta_path = match &self.meta {
            Meta::Beside => None,
            Meta::Hidden(base) => {
                Some(base.join(relative).with_file_name(format!(".{name}-litestream")))
            }
            Meta::Plain(base) => {
                Some(base.join(relative).with_file_name(format!("{name}-litestream")))
            }
        };
        Some(Settings { replica: replica.below(text), meta_path, by_name: false })
    }
}

#[cfg(test)]
#[path = "config_file_tests.rs"]
mod tests;
