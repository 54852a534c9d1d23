//! The configuration file of the process, read once.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use litestream::config_file::{ConfigFile, Note, Surroundings, VARIABLE};
use litestream::log::Level;

use crate::options::Env;

/// The file's name as the environment gave it, and its content.
static LOADED: Mutex<Option<(String, Arc<ConfigFile>)>> = Mutex::new(None);
/// What has no effect was said.
static NOTED: AtomicBool = AtomicBool::new(false);

/// The file that the environment names, as it was when it was first asked for;
/// none without a name. A file that is missing or wrong is read again each time.
///
/// # Errors
/// Text about a file that cannot be used.
pub(crate) fn file(env: Env<'_>) -> Result<Option<Arc<ConfigFile>>, String> {
    let Some(name) = env(VARIABLE) else { return Ok(None) };
    // The lock may be held for ever by a thread that did not survive a fork.
    let mut slot = match LOADED.try_lock() {
        Ok(slot) => slot,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return load(&name).map(Some),
    };
    if let Some((known, file)) = &*slot
        && *known == name
    {
        return Ok(Some(Arc::clone(file)));
    }
    let file = load(&name)?;
    *slot = Some((name, Arc::clone(&file)));
    Ok(Some(file))
}

fn load(name: &str) -> Result<Arc<ConfigFile>, String> {
    let around = Surroundings::of_process().map_err(|e| e.to_string())?;
    let path = around.path(name);
    let file = ConfigFile::load(&path, &around).map_err(|e| format!("{VARIABLE}: {e}"))?;
    if !file.notes.is_empty() && !NOTED.swap(true, Ordering::Relaxed) {
        crate::log::say(Level::Info, &notes_text(&path, &file.notes));
    }
    Ok(Arc::new(file))
}

/// One message about all of them.
fn notes_text(path: &Path, notes: &[Note]) -> String {
    let all: Vec<String> =
        notes.iter().map(|note| format!("line {}: {}", note.line, note.text)).collect();
    format!("{}: {}", path.display(), all.join("; "))
}
