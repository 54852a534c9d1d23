//! The configuration file, as commands use it.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};

use super::failure::Failure;
use super::{Context, source};
use crate::config_file::{ConfigFile, DEFAULT_PATH, Database, Directory, Place, VARIABLE};
use crate::error::Result;
use crate::os;
use crate::replica_client::Env;

/// How a file that holds a database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How deep directories are searched.
const DEPTH_MAX: usize = 64;

/// The flags of commands that read the file.
#[derive(Debug, Default, Args)]
pub(super) struct ConfigFlags {
    #[arg(long)]
    config: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    no_expand_env: bool,
}

/// The file that commands use unless a flag names one.
pub(super) fn default_path(env: &dyn Env) -> String {
    env.filled(VARIABLE).unwrap_or_else(|| DEFAULT_PATH.to_owned())
}

impl ConfigFlags {
    /// Whether `-config` names a file.
    pub(super) fn is_given(&self) -> bool {
        self.config.as_deref().is_some_and(|path| !path.is_empty())
    }

    /// The file that is named by the flag, the environment, or nobody.
    ///
    /// # Errors
    /// When it is missing or wrong.
    pub(super) fn load(&self, context: &Context) -> std::result::Result<ConfigFile, Failure> {
        let given = self.config.clone().filter(|path| !path.is_empty());
        let name = given.unwrap_or_else(|| default_path(context.env.as_ref()));
        let mut around = context.around.clone();
        around.expand_env = !self.no_expand_env;
        Ok(ConfigFile::load(&around.path(&name), &around)?)
    }

    /// [`ConfigFlags::load`]; none when nobody names a file and there is none in
    /// the usual place.
    ///
    /// # Errors
    /// When a file that is there, or named, is missing or wrong.
    pub(super) fn load_if_any(
        &self,
        context: &Context,
    ) -> std::result::Result<Option<ConfigFile>, Failure> {
        let named = self.is_given() || context.env.filled(VARIABLE).is_some();
        match named || Path::new(DEFAULT_PATH).exists() {
            true => self.load(context).map(Some),
            false => Ok(None),
        }
    }
}

/// The databases of a file, in its order: those that it names, and those that
/// its directories hold now, by name.
///
/// # Errors
/// When a directory cannot be read.
pub(super) fn databases(file: &ConfigFile) -> Result<Vec<(PathBuf, &Database)>> {
    let mut found = Vec::new();
    for database in &file.databases {
        match &database.place {
            Place::File { path, .. } => found.push((path.clone(), database)),
            Place::Directory(dir) => {
                let mut paths = Vec::new();
                search(dir, Path::new(""), 0, &mut paths)?;
                paths.sort();
                found.extend(paths.into_iter().map(|path| (path, database)));
            }
        }
    }
    Ok(found)
}

/// Adds the databases below `relative` of the directory; links to directories
/// are not followed.
fn search(dir: &Directory, relative: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Ok(());
    }
    for entry in os::list_dir(&dir.path.join(relative))? {
        let relative = relative.join(&entry.name);
        let path = dir.path.join(&relative);
        if entry.is_dir {
            if dir.recursive && !path.is_symlink() {
                search(dir, &relative, depth + 1, found)?;
            }
        } else if dir.covers(&relative) && is_database(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_database(path: &Path) -> bool {
    let Ok(file) = os::open_read(path) else { return false };
    let mut start = [0; MAGIC.len()];
    os::read_at(&file, &mut start, 0).is_ok_and(|n| n == MAGIC.len()) && start == *MAGIC
}

/// Where our own files of the database `path` are.
pub(super) fn meta_dir(file: Option<&ConfigFile>, path: &Path) -> PathBuf {
    let configured = file.and_then(|file| file.find(path, &source::canonical));
    configured.and_then(|settings| settings.meta_path).unwrap_or_else(|| {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push("-litestream");
        path.with_file_name(name)
    })
}
