//! Putting a complete database file in the place of an absent or older one.
//!
//! The new file grows under a name of its own, `NAME.tmp-PID-N`, in the same
//! directory, and holds a file lock while its writer lives: an unlocked one is
//! the rest of a process that was killed, and is removed by the next writer.
//!
//! SQLite would apply the old database's -wal or -journal to the new file. So
//! these are first moved aside to `NAME.tmp-PID-N-wal` and so on, then the new
//! file is renamed over the old one, then they are removed. After a crash in
//! between, the presence of `NAME.tmp-PID-N` tells that the rename did not
//! happen, and the next writer puts them back.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;

use super::{create_private_dir, fsync_dir, parent_of, remove_if_exists};
use crate::error::{Error, ErrorKind, Result};

/// What SQLite keeps beside a database, by the suffix of its name.
pub const SIDECAR_SUFFIXES: [&str; 3] = ["-wal", "-journal", "-shm"];

const TMP_INFIX: &str = ".tmp-";
/// Names tried before giving up on finding a free one.
const NAMES_MAX: u32 = 1_000;

/// A database file under construction; removed when dropped unpublished.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    tmp: PathBuf,
    file: File,
    force: bool,
    published: bool,
}

impl Replacement {
    /// Begins a file that will become `target`; creates missing directories and
    /// removes what killed predecessors left.
    ///
    /// # Errors
    /// `AlreadyExists` when `target` has content or a sidecar and `force` is not
    /// set; `InvalidInput` when it is no regular file.
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        // A symbolic link stays; the file it leads to is replaced.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        check_target_kind(&target)?;
        create_private_dir(parent_of(&target))?;
        remove_leftovers(&target)?;
        check_free(&target, force)?;
        let (tmp, file) = create_locked(&target)?;
        inherit_access(&target, &file);
        Ok(Replacement { target, tmp, file, force, published: false })
    }

    /// Where the file is now.
    pub fn tmp_path(&self) -> &Path {
        &self.tmp
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Empties the file and gives it `len` bytes of zeros.
    pub fn reset(&self, len: u64) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.set_len(len))
            .map_err(|e| Error::io(&format!("set the size to {len} bytes of"), &self.tmp, e))
    }

    /// Writes all of `data` at `offset`.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(|e| Error::io("write", &self.tmp, e))
    }

    /// Makes the content durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("fsync", &self.tmp, e))
    }

    /// Puts the synced file in the target's place and removes the sidecars of
    /// what was there.
    ///
    /// # Errors
    /// As [`Replacement::create`], when another process created the target in
    /// the meantime. After any error the old database and its sidecars stand.
    pub fn publish(mut self) -> Result<()> {
        check_target_kind(&self.target)?;
        check_free(&self.target, self.force)?;
        let dir = parent_of(&self.target).to_owned();
        let moved = self.move_sidecars_aside()?;
        if !moved.is_empty() {
            fsync_dir(&dir)?;
        }
        if let Err(e) = fs::rename(&self.tmp, &self.target) {
            put_back(&moved);
            return Err(Error::io("replace", &self.target, e));
        }
        self.published = true;
        fsync_dir(&dir)?;
        moved.iter().try_for_each(|(_, aside)| remove_if_exists(aside))
    }

    /// The (place, place aside) of each sidecar that was there.
    fn move_sidecars_aside(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut moved = Vec::new();
        for suffix in SIDECAR_SUFFIXES {
            let pair = (with_suffix(&self.target, suffix), with_suffix(&self.tmp, suffix));
            match fs::rename(&pair.0, &pair.1) {
                Ok(()) => moved.push(pair),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    put_back(&moved);
                    return Err(Error::io("move aside", &pair.0, e));
                }
            }
        }
        Ok(moved)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.tmp);
        }
    }
}

/// The path with `suffix` appended to its last component.
pub fn with_suffix(path: &Path, suffix: impl AsRef<OsStr>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn put_back(moved: &[(PathBuf, PathBuf)]) {
    for (place, aside) in moved {
        // Nothing better can be done: the caller reports the first failure.
        let _ = fs::rename(aside, place);
    }
}

fn check_target_kind(target: &Path) -> Result<()> {
    match fs::metadata(target) {
        Ok(m) if m.is_dir() => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("cannot restore, output path is a directory: {}", target.display()),
        )),
        Ok(m) if !m.is_file() => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("cannot restore, output path is not a regular file: {}", target.display()),
        )),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("inspect", target, e)),
        _ => Ok(()),
    }
}

/// An absent or empty target without sidecars is free.
fn check_free(target: &Path, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    if fs::metadata(target).is_ok_and(|m| m.len() > 0) {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "cannot restore, output path already exists: {}; use -force to replace it",
                target.display()
            ),
        ));
    }
    let sidecars = SIDECAR_SUFFIXES.map(|suffix| with_suffix(target, suffix));
    match sidecars.iter().find(|p| p.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(sidecar) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "cannot restore, a file of another database is beside the output path: {}; \
                 use -force to remove it",
                sidecar.display()
            ),
        )),
    }
}

fn tmp_prefix(target: &Path) -> OsString {
    let mut prefix = target.file_name().unwrap_or_default().to_owned();
    prefix.push(TMP_INFIX);
    prefix
}

fn create_locked(target: &Path) -> Result<(PathBuf, File)> {
    for n in 0..NAMES_MAX {
        let tmp = with_suffix(target, format!("{TMP_INFIX}{}-{n}", process::id()));
        let file = match OpenOptions::new().read(true).write(true).create_new(true).open(&tmp) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(Error::io("create", &tmp, e)),
        };
        // Where locks are not supported nobody can take it for a leftover either.
        let _ = file.try_lock();
        // Between its creation and its lock another writer may have removed it.
        if is_at(&file, &tmp) {
            return Ok((tmp, file));
        }
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        format!("no free temporary name beside {}", target.display()),
    ))
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// A database that is replaced keeps its mode and, where allowed, its owner.
fn inherit_access(target: &Path, file: &File) {
    if let Ok(old) = fs::metadata(target) {
        let _ = std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()));
        let _ = file.set_permissions(old.permissions());
    }
}

/// Removes what killed writers of `target` left, and puts back sidecars that
/// they had moved aside without finishing.
fn remove_leftovers(target: &Path) -> Result<()> {
    let dir = parent_of(target);
    let prefix = tmp_prefix(target);
    let entries = fs::read_dir(dir).map_err(|e| Error::io("list directory", dir, e))?;
    let names: Vec<OsString> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.as_bytes().starts_with(prefix.as_bytes()))
        .collect();
    for name in &names {
        match sidecar_suffix(name) {
            None => remove_if_abandoned(target, &dir.join(name))?,
            Some(suffix) => {
                let base = OsStr::from_bytes(&name.as_bytes()[..name.len() - suffix.len()]);
                if !names.iter().any(|n| n == base) {
                    remove_if_exists(&dir.join(name))?;
                }
            }
        }
    }
    Ok(())
}

fn sidecar_suffix(name: &OsStr) -> Option<&'static str> {
    SIDECAR_SUFFIXES.into_iter().find(|suffix| name.as_bytes().ends_with(suffix.as_bytes()))
}

fn remove_if_abandoned(target: &Path, tmp: &Path) -> Result<()> {
    let Ok(file) = File::open(tmp) else { return Ok(()) };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return Ok(()),
    }
    for suffix in SIDECAR_SUFFIXES {
        let (place, aside) = (with_suffix(target, suffix), with_suffix(tmp, suffix));
        if aside.exists() && !place.exists() {
            fs::rename(&aside, &place).map_err(|e| Error::io("put back", &place, e))?;
        }
    }
    remove_if_exists(tmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write_new(target: &Path, force: bool) -> Result<()> {
        let new = Replacement::create(target, force)?;
        new.reset(3)?;
        new.write_at(b"new", 0)?;
        new.sync()?;
        new.publish()
    }

    #[test]
    fn r_45_existing_files_and_sidecars_block_without_force() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("app.db");
        for blocking in ["app.db", "app.db-wal", "app.db-shm", "app.db-journal"] {
            fs::write(root.path().join(blocking), b"old").unwrap();
            let refused = write_new(&target, false).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
            assert!(refused.to_string().contains(blocking), "{refused}");
            assert_eq!(names(root.path()), [blocking]);
            fs::remove_file(root.path().join(blocking)).unwrap();
        }
        fs::write(&target, b"").unwrap();
        write_new(&target, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(write_new(root.path(), true).is_err());
    }

    #[test]
    fn r_45_force_replaces_the_database_and_its_sidecars() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("app.db");
        for name in ["app.db", "app.db-wal", "app.db-shm", "app.db-journal"] {
            fs::write(root.path().join(name), b"old").unwrap();
        }
        write_new(&target, true).unwrap();
        assert_eq!(names(root.path()), ["app.db"]);
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn r_44_leftovers_of_a_killed_writer_are_removed_and_undone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("app.db");
        let at = |name: &str| root.path().join(name);
        fs::write(at("app.db.tmp-1-0"), b"half").unwrap();
        fs::write(at("app.db.tmp-1-0-wal"), b"moved").unwrap();
        fs::write(at("app.db.tmp-2-0-wal"), b"of a finished one").unwrap();
        fs::write(&target, b"old").unwrap();
        assert!(write_new(&target, false).is_err());
        assert_eq!(names(root.path()), ["app.db", "app.db-wal"]);
        assert_eq!(fs::read(at("app.db-wal")).unwrap(), b"moved");
    }

    #[test]
    fn r_44_a_live_writer_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("app.db");
        let first = Replacement::create(&target, false).unwrap();
        write_new(&target, false).unwrap();
        assert!(first.tmp_path().exists());
        assert_eq!(first.publish().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(names(root.path()), ["app.db"]);
    }

    #[test]
    fn r_46_missing_directories_are_created() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b/app.db");
        write_new(&target, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn a_replaced_database_keeps_its_mode_and_a_link_stays_one() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let (target, link) = (root.path().join("app.db"), root.path().join("link.db"));
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_new(&link, true).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
