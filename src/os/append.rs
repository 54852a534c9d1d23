//! Files that only grow: logs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::PRIVATE_FILE_MODE;
use crate::error::{Error, Result};

/// A file opened for appending, made when it does not exist (mode 0600).
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    file: fs::File,
}

impl AppendFile {
    /// Opens or creates `path`.
    ///
    /// # Errors
    /// The operating system refused; the error names the path.
    pub fn open(path: &Path) -> Result<AppendFile> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(PRIVATE_FILE_MODE).open(path);
        let file = file.map_err(|e| Error::io("open", path, e))?;
        Ok(AppendFile { path: path.to_owned(), file })
    }

    /// Appends `bytes` in one write, so that lines of several processes do not mix.
    ///
    /// # Errors
    /// The write failed, for example on a full disk; the error names the path.
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        (&self.file).write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_and_keeps_to_itself() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        AppendFile::open(&path).unwrap().append(b"a\n").unwrap();
        AppendFile::open(&path).unwrap().append(b"b\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a\nb\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = AppendFile::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    }
}
