//! Which replica, if any, belongs to a database that the host opens: from the
//! environment, from `litestream_configure()`, and from the URI, weakest first.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use litestream::config::{DbConfig, KEYS, parse_bool};
use litestream::os::disk;

use crate::raw_name::Parameters;

/// URI parameters that belong to SQLite or to VFSes below ours.
const SQLITE_PARAMETERS: &[&str] =
    &["mode", "cache", "psow", "nolock", "immutable", "vfs", "modeof", "8_3_names"];

/// Options of replica URLs, in camel case and with hyphens. Which of them fit
/// the URL at hand is for the replica client to say.
const REPLICA_PARAMETERS: &[&str] = &[
    "endpoint",
    "region",
    "forcePathStyle",
    "force-path-style",
    "skipVerify",
    "skip-verify",
    "signPayload",
    "sign-payload",
    "requireContentMD5",
    "require-content-md5",
    "concurrency",
    "partSize",
    "part-size",
    "storageClass",
    "storage-class",
    "sseCustomerAlgorithm",
    "sse-customer-algorithm",
    "sseCustomerKey",
    "sse-customer-key",
    "sseCustomerKeyMD5",
    "sse-customer-key-md5",
    "sseKmsKeyId",
    "sse-kms-key-id",
];

/// Reads one environment variable; injected for tests.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment, without variables that are set to nothing.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// How an open reached the VFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The host asked for the VFS by name.
    Named,
    /// The VFS is the default one and the host did not name any.
    Default,
}

/// What was found for one database.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The settings, complete with a replica URL.
    pub config: DbConfig,
    /// The URL was given for this very database (in its URI or by
    /// `litestream_configure`), not by the environment for all of them.
    pub explicit: bool,
}

/// Settings given by `litestream_configure(database, key, value)`.
#[derive(Debug, Default)]
pub(crate) struct Configured {
    entries: Mutex<Vec<(PathBuf, String, String)>>,
}

impl Configured {
    /// An empty registry.
    pub(crate) const fn new() -> Self {
        Configured { entries: Mutex::new(Vec::new()) }
    }

    /// Keeps one setting for `database`, checking it at once.
    ///
    /// # Errors
    /// Text about an unknown key or a value that does not fit it.
    pub(crate) fn set(&self, database: &str, key: &str, value: &str) -> Result<(), String> {
        if database.is_empty() || database == ":memory:" {
            return Err("litestream_configure: the first argument is the path of a database file"
                .to_owned());
        }
        let known = DbConfig::new("").set(key, value).map_err(|e| e.to_string())?;
        if !known && !REPLICA_PARAMETERS.contains(&key) {
            return Err(format!("unknown config key: {key} (known: {})", KEYS.join(", ")));
        }
        let path = canonical(Path::new(database));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(p, k, _)| !(*p == path && k == key));
        entries.push((path, key.to_owned(), value.to_owned()));
        Ok(())
    }

    fn of(&self, path: &Path) -> Parameters {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = entries.iter().filter(|(p, _, _)| p == path);
        mine.map(|(_, k, v)| (k.clone(), v.clone())).collect()
    }
}

/// The path without symbolic links, also of a file that does not exist yet.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    if let Ok(found) = disk::canonical(path) {
        return found;
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (disk::canonical(parent), path.file_name()) {
        (Ok(dir), Some(name)) => dir.join(name),
        _ => path.to_owned(),
    }
}

/// Looks for the settings of the database `path`; none: it is not replicated.
///
/// # Errors
/// Text about what is wrong in the configuration; such an open must fail.
pub(crate) fn find(
    path: &Path,
    uri: &Parameters,
    configured: &Configured,
    mode: Mode,
    env: Env<'_>,
) -> Result<Option<Found>, String> {
    refuse_unknown(uri)?;
    let path = canonical(path);
    let mut config = DbConfig::new("");
    from_environment(&mut config, &path, mode, env)?;
    let mut explicit = false;
    let mut stray = None;
    for (key, value) in configured.of(&path).iter().chain(uri) {
        if KEYS.contains(&key.as_str()) {
            config.set(key, value).map_err(|e| e.to_string())?;
        } else if REPLICA_PARAMETERS.contains(&key.as_str()) {
            config.replica_parameters.retain(|(k, _)| k != key);
            config.replica_parameters.push((key.clone(), value.clone()));
        } else {
            continue;
        }
        explicit |= key == "replica_url";
        stray.get_or_insert(key.clone());
    }
    if config.replica_url.is_empty() {
        return match stray {
            Some(key) => Err(format!(
                "{key} is given, but no replica: add replica_url, or set LITESTREAM_REPLICA_URL"
            )),
            None => Ok(None),
        };
    }
    Ok(Some(Found { config, explicit }))
}

fn refuse_unknown(uri: &Parameters) -> Result<(), String> {
    let unknown = uri.iter().map(|(k, _)| k.as_str()).find(|k| {
        !(k.starts_with('_')
            || SQLITE_PARAMETERS.contains(k)
            || KEYS.contains(k)
            || REPLICA_PARAMETERS.contains(k))
    });
    let Some(key) = unknown else { return Ok(()) };
    let in_url = uri.iter().any(|(k, v)| k == "replica_url" && v.contains('?'));
    let hint = if in_url {
        "; replica_url has a '?' in it: when this parameter belongs to the replica URL, encode \
         that URL's '?' as %3F and '&' as %26"
    } else {
        ""
    };
    Err(format!("unknown URI parameter '{key}' (known: {}){hint}", KEYS.join(", ")))
}

fn from_environment(
    config: &mut DbConfig,
    path: &Path,
    mode: Mode,
    env: Env<'_>,
) -> Result<(), String> {
    let Some(url) = environment_url(path, mode, env)? else { return Ok(()) };
    config.replica_url = url;
    for key in KEYS.iter().filter(|k| !matches!(**k, "replica_url" | "adopt")) {
        let name = format!("LITESTREAM_{}", key.to_ascii_uppercase());
        if let Some(value) = env(&name) {
            config.set(key, &value).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

/// The environment's URL, if it is meant for `path`.
fn environment_url(path: &Path, mode: Mode, env: Env<'_>) -> Result<Option<String>, String> {
    let Some(url) = env("LITESTREAM_REPLICA_URL") else { return Ok(None) };
    if let Some(only) = env("LITESTREAM_DATABASE") {
        if canonical(Path::new(&only)) != path {
            return Ok(None);
        }
    } else if mode == Mode::Default {
        check_default_mode(env)?;
    }
    fill_placeholders(&url, path).map(Some)
}

/// Whether the environment's URL can serve as the default VFS's.
///
/// # Errors
/// Text that says what is missing.
pub(crate) fn check_default_mode(env: Env<'_>) -> Result<(), String> {
    match env("LITESTREAM_REPLICA_URL") {
        Some(url)
            if !url.contains("{name}")
                && !url.contains("{path}")
                && env("LITESTREAM_DATABASE").is_none() =>
        {
            Err("LITESTREAM_REPLICA_URL is one URL for every database that this process opens: \
                 put {name} or {path} into it, or set LITESTREAM_DATABASE to the path of the one \
                 database it is for"
                .to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether the environment asks for the default-VFS mode.
///
/// # Errors
/// Text about a value that is neither yes nor no.
pub(crate) fn default_vfs_wanted(env: Env<'_>) -> Result<bool, String> {
    match env("LITESTREAM_DEFAULT_VFS") {
        None => Ok(false),
        Some(value) => parse_bool("LITESTREAM_DEFAULT_VFS", &value).map_err(|e| e.to_string()),
    }
}

/// Puts the file name for `{name}` and the whole path for `{path}`.
fn fill_placeholders(url: &str, path: &Path) -> Result<String, String> {
    let mut filled = url.to_owned();
    for (mark, value) in [("{name}", path.file_name().map(Path::new)), ("{path}", Some(path))] {
        if !filled.contains(mark) {
            continue;
        }
        let text = value.and_then(Path::to_str).ok_or_else(|| {
            format!(
                "{} is not UTF-8, so {mark} in LITESTREAM_REPLICA_URL cannot stand for it",
                path.display()
            )
        })?;
        let encoded = encode(text);
        // One slash between the URL and an absolute path.
        let slashed = format!("/{mark}");
        filled = filled
            .replace(&slashed, &format!("/{}", encoded.trim_start_matches('/')))
            .replace(mark, &encoded);
    }
    Ok(filled)
}

/// Percent-encodes what would end the path of a URL.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' | '?' | '#' | '{' | '}' | ' ' => out.push_str(&format!("%{:02X}", c as u32)),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
