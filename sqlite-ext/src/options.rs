//! Which replica, if any, belongs to a database that the host opens: from the
//! environment, from the file that `LITESTREAM_CONFIG` names, from
//! `litestream_configure()`, and from the URI, weakest first.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use litestream::config::{DbConfig, KEYS, fill_placeholders, parse_bool};
use litestream::config_file::Settings;
use litestream::os::disk;

use crate::raw_name::Parameters;
use crate::{config_source, replica_name, replica_options};

/// URI parameters that belong to SQLite or to VFSes below ours.
pub(crate) const SQLITE_PARAMETERS: &[&str] =
    &["mode", "cache", "psow", "nolock", "immutable", "vfs", "modeof", "8_3_names"];

/// Options of replica URLs, in camel case and with hyphens. Which of them fit
/// the URL at hand is for the replica client to say.
pub(crate) const REPLICA_PARAMETERS: &[&str] = &[
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
    /// The URL was given for this very database (in its URI, by
    /// `litestream_configure`, or in the configuration file), not for many.
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
        let known = DbConfig::new("").set(key, value).map_err(|e| e.to_string())?
            || REPLICA_PARAMETERS.contains(&key)
            || replica_options::check(key, value)?;
        if !known {
            let mut keys = KEYS.to_vec();
            keys.extend(replica_options::KEYS.iter().filter(|k| !KEYS.contains(k)));
            return Err(format!("unknown config key: {key} (known: {})", keys.join(", ")));
        }
        let path = canonical(Path::new(database));
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(p, k, _)| !(*p == path && k == key));
        entries.push((path, key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// What was given for the database `path`, which [`canonical`] made.
    pub(crate) fn of(&self, path: &Path) -> Parameters {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = entries.iter().filter(|(p, _, _)| p == path);
        mine.map(|(_, k, v)| (k.clone(), v.clone())).collect()
    }
}

/// The path without symbolic links, also of a file that does not exist yet; a
/// replica's URL with both its slashes.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    if let Some(url) = path.to_str().and_then(replica_name::as_url) {
        return PathBuf::from(url);
    }
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
    let configured = configured.of(&path);
    let given: Vec<&(String, String)> = configured.iter().chain(uri).collect();
    let url_of = |pair: &&&(String, String)| pair.0 == "replica_url";
    let given_url = given.iter().rev().find(url_of).map(|(_, url)| url.as_str());
    let filed = config_source::file(env)?.and_then(|file| file.find(&path, &canonical));
    let mut config = DbConfig::new("");
    let is_named = given_url.is_some() || filed.is_some();
    from_environment(&mut config, &path, mode, env, is_named)?;
    let mut explicit = given_url.is_some();
    if let Some(filed) = &filed {
        from_file(&mut config, filed, given_url)?;
        // Nobody writes to an immutable database, so it may pass.
        explicit |= filed.by_name && !uri.iter().any(|(key, _)| key == "immutable");
    }
    for (key, value) in &given {
        if KEYS.contains(&key.as_str()) {
            config.set(key, value).map_err(|e| e.to_string())?;
        } else if REPLICA_PARAMETERS.contains(&key.as_str()) {
            put_parameter(&mut config.replica_parameters, key, value);
        } else if key != "role" && replica_options::KEYS.contains(&key.as_str()) {
            return Err(for_replicas(key));
        }
    }
    if !config.replica_url.is_empty() {
        return Ok(Some(Found { config, explicit }));
    }
    let ours = |key: &str| KEYS.contains(&key) || REPLICA_PARAMETERS.contains(&key);
    match given.iter().find(|(key, _)| ours(key)) {
        Some((key, _)) => Err(format!(
            "{key} is given, but no replica: add replica_url, set LITESTREAM_REPLICA_URL, or name \
             the database in the file of LITESTREAM_CONFIG"
        )),
        None => Ok(None),
    }
}

/// Adds an option of a replica's URL in place of an earlier one of that name.
pub(crate) fn put_parameter(parameters: &mut Parameters, key: &str, value: &str) {
    parameters.retain(|(k, _)| !is_same_parameter(k, key));
    parameters.push((key.to_owned(), value.to_owned()));
}

/// Whether `key` is an option of databases that are written.
pub(crate) fn is_primarys(key: &str) -> bool {
    KEYS.contains(&key)
}

fn for_replicas(key: &str) -> String {
    format!(
        "{key} is an option of replicas, and this opens a local database: open the replica's URL \
         itself, or pass role=replica"
    )
}

/// Whether two names are the two spellings of one parameter, or one of them.
fn is_same_parameter(a: &str, b: &str) -> bool {
    let plain = |name: &str| name.replace('-', "").to_ascii_lowercase();
    plain(a) == plain(b)
}

/// Takes what the configuration file says about the database. Its credentials
/// and parameters belong to its URL, and do not go to another.
fn from_file(
    config: &mut DbConfig,
    filed: &Settings,
    given_url: Option<&str>,
) -> Result<(), String> {
    if given_url.is_none_or(|url| url == filed.replica.url) {
        filed.replica.apply(config).map_err(|e| e.to_string())?;
    } else if let Some(interval) = filed.replica.sync_interval {
        config.sync_interval = interval;
    }
    if let Some(path) = &filed.meta_path {
        config.meta_path = Some(path.clone());
    }
    Ok(())
}

fn refuse_unknown(uri: &Parameters) -> Result<(), String> {
    let unknown = uri.iter().map(|(k, _)| k.as_str()).find(|k| {
        !(k.starts_with('_')
            || SQLITE_PARAMETERS.contains(k)
            || KEYS.contains(k)
            || REPLICA_PARAMETERS.contains(k)
            || replica_options::KEYS.contains(k))
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

/// Takes the environment's settings, if they are meant for `path`, and its URL
/// unless a stronger source names a replica.
fn from_environment(
    config: &mut DbConfig,
    path: &Path,
    mode: Mode,
    env: Env<'_>,
    is_named: bool,
) -> Result<(), String> {
    if is_elsewhere(path, env) {
        return Ok(());
    }
    if !is_named {
        let Some(url) = environment_url(path, mode, env)? else { return Ok(()) };
        config.replica_url = fill_placeholders(&url, path).map_err(|e| e.to_string())?;
    }
    for key in KEYS.iter().filter(|k| !matches!(**k, "replica_url" | "adopt")) {
        let name = format!("LITESTREAM_{}", key.to_ascii_uppercase());
        if let Some(value) = env(&name) {
            config.set(key, &value).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

/// Whether the environment's settings are for one database, and not for `path`.
pub(crate) fn is_elsewhere(path: &Path, env: Env<'_>) -> bool {
    env("LITESTREAM_DATABASE").is_some_and(|only| canonical(Path::new(&only)) != canonical(path))
}

/// The environment's URL as far as it is meant for `path`.
///
/// # Errors
/// Text about a URL that would serve every database.
pub(crate) fn environment_url(
    path: &Path,
    mode: Mode,
    env: Env<'_>,
) -> Result<Option<String>, String> {
    if is_elsewhere(path, env) {
        return Ok(None);
    }
    let url = env("LITESTREAM_REPLICA_URL");
    if url.is_some() && mode == Mode::Default {
        check_default_mode(env)?;
    }
    Ok(url)
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

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
