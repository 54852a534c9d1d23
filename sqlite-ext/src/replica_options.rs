//! The settings of one opened replica: from the environment, from the file
//! that `LITESTREAM_CONFIG` names, from `litestream_configure()`, and from the
//! URI, weakest first.

use std::path::{Path, PathBuf};

use litestream::clock::{Clock, SystemClock};
use litestream::config::{DbConfig, fill_placeholders, parse_bool, parse_bytes, parse_duration};
use litestream::moment::{self, Moment};
use litestream::plan::Target;
use litestream::view::{Hydrate, SourceOptions};

use crate::config_source;
use crate::options::{
    self, Configured, Env, Mode, REPLICA_PARAMETERS, SQLITE_PARAMETERS, canonical,
};
use crate::raw_name::Parameters;

/// The names of a replica's settings, beside the options of its URL.
pub(crate) const KEYS: &[&str] = &[
    "role",
    "replica_url",
    "poll_interval",
    "wait_timeout",
    "max_staleness",
    "cache_size",
    "cache_dir",
    "cache_dir_size",
    "offline",
    "time",
    "txid",
    "hydration_enabled",
    "hydration_path",
    "write_enabled",
    "sync_interval",
    "buffer_path",
];

/// Those that the environment can give, as `LITESTREAM_` and the name.
const IN_ENVIRONMENT: &[&str] = &[
    "poll_interval",
    "wait_timeout",
    "max_staleness",
    "cache_size",
    "cache_dir",
    "cache_dir_size",
    "offline",
    "hydration_enabled",
    "hydration_path",
    "write_enabled",
];

/// The answer to whoever wants to write.
pub(crate) const NO_WRITES: &str = "a replica cannot be written yet: this version only reads it; \
                                    open it without write_enabled, sync_interval and buffer_path";

/// What a connection opens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Which replica, and how it is read and followed.
    pub source: SourceOptions,
    /// Which state.
    pub target: Target,
    /// The moment that the state was asked for by, as it was given.
    pub moment: Option<String>,
    hydrates: bool,
    hydration_path: Option<PathBuf>,
}

impl Settings {
    fn new() -> Self {
        Settings {
            source: SourceOptions::new(""),
            target: Target::Latest,
            moment: None,
            hydrates: false,
            hydration_path: None,
        }
    }

    /// A path alone asks for nothing, as with Litestream.
    fn hydrate(&self) -> Hydrate {
        match &self.hydration_path {
            _ if !self.hydrates => Hydrate::Off,
            Some(path) => Hydrate::At(path.clone()),
            None => Hydrate::Temporary(std::env::temp_dir()),
        }
    }

    /// Sets one option by name. Returns false when it is not one of [`KEYS`].
    ///
    /// # Errors
    /// Text about a value that does not fit it.
    pub(crate) fn set(&mut self, key: &str, value: &str, now_ms: i64) -> Result<bool, String> {
        let source = &mut self.source;
        let duration = || parse_duration(key, value).map_err(|e| e.to_string());
        let bytes = || parse_bytes(key, value).map_err(|e| e.to_string());
        match key {
            "role" => drop(parse_role(value)?),
            "replica_url" => source.url = value.to_owned(),
            "poll_interval" => source.poll_interval = duration()?,
            "wait_timeout" => source.wait_timeout = duration()?,
            "max_staleness" => source.max_staleness = Some(duration()?),
            "cache_size" => source.cache_bytes_max = bytes()?,
            "cache_dir" => source.cache_dir = Some(PathBuf::from(value)),
            "cache_dir_size" => source.cache_dir_bytes_max = bytes()?,
            "offline" => source.offline = parse_offline(value)?,
            "time" => self.set_time(value, now_ms)?,
            "txid" => self.set_txid(value)?,
            "hydration_enabled" => self.hydrates = is_on(key, value)?,
            "hydration_path" => self.hydration_path = Some(canonical(Path::new(value))),
            "write_enabled" if is_on(key, value)? => return Err(NO_WRITES.to_owned()),
            "write_enabled" => {}
            "sync_interval" | "buffer_path" => return Err(NO_WRITES.to_owned()),
            _ => return Ok(false),
        }
        if self.source.poll_interval.is_zero() {
            return Err("poll_interval=0 is not valid: expected a duration such as 1s".to_owned());
        }
        Ok(true)
    }

    fn set_time(&mut self, value: &str, now_ms: i64) -> Result<(), String> {
        let moment = moment::parse(value, now_ms).map_err(|e| format!("time: {e}"))?;
        (self.target, self.moment) = target_of(moment);
        Ok(())
    }

    fn set_txid(&mut self, value: &str) -> Result<(), String> {
        let txid = value.parse().map_err(|e| format!("txid: {e}"))?;
        (self.target, self.moment) = (Target::Txid(txid), None);
        Ok(())
    }
}

/// Whether `key` is a replica's setting that `value` fits.
///
/// # Errors
/// Text about a value that does not.
pub(crate) fn check(key: &str, value: &str) -> Result<bool, String> {
    Settings::new().set(key, value, SystemClock.now_ms())
}

/// Where `moment` leads.
pub(crate) fn target_of(moment: Option<Moment>) -> (Target, Option<String>) {
    match moment {
        Some(moment) => (Target::Timestamp(moment.ms), Some(moment.text)),
        None => (Target::Latest, None),
    }
}

/// Whether a role is that of a replica.
///
/// # Errors
/// Text about another role.
pub(crate) fn parse_role(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "replica" => Ok(true),
        "primary" => Ok(false),
        _ => Err(format!("role='{value}' is not valid: expected replica or primary")),
    }
}

fn parse_offline(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "allow" => Ok(true),
        "refuse" => Ok(false),
        _ => Err(format!("offline='{value}' is not valid: expected allow or refuse")),
    }
}

fn is_on(key: &str, value: &str) -> Result<bool, String> {
    parse_bool(key, value).map_err(|e| e.to_string())
}

/// Whether a parameter is one of a replica's settings or SQLite's, and not an
/// option of its URL.
pub(crate) fn is_own(key: &str) -> bool {
    KEYS.contains(&key) || SQLITE_PARAMETERS.contains(&key) || key.starts_with('_')
}

/// What an open says about the replica that it wants.
pub(crate) struct Wanted<'a> {
    /// The name: a label unless it is the URL.
    pub label: &'a Path,
    /// The URL that the name is.
    pub url: Option<String>,
    /// Parameters of the name.
    pub parameters: &'a Parameters,
    /// How the open reached the VFS.
    pub mode: Mode,
}

/// Whether the open of a name that is no URL asks for a replica.
///
/// # Errors
/// Text about a role that is none.
pub(crate) fn is_replica(
    label: &Path,
    parameters: &Parameters,
    configured: &Configured,
    env: Env<'_>,
) -> Result<bool, String> {
    let configured = configured.of(&canonical(label));
    let given = configured.iter().chain(parameters).rev().find(|(key, _)| key == "role");
    match given {
        Some((_, role)) => parse_role(role),
        None if options::is_elsewhere(label, env) => Ok(false),
        None => match env("LITESTREAM_ROLE") {
            Some(role) => parse_role(&role).map_err(|e| format!("LITESTREAM_ROLE: {e}")),
            None => Ok(false),
        },
    }
}

/// Looks for the settings of a replica.
///
/// # Errors
/// Text about what is wrong in them or missing.
pub(crate) fn find(
    wanted: &Wanted<'_>,
    configured: &Configured,
    env: Env<'_>,
    now_ms: i64,
) -> Result<Settings, String> {
    refuse_unknown(wanted.parameters)?;
    let path = canonical(wanted.label);
    let configured = configured.of(&path);
    let given: Vec<&(String, String)> = configured.iter().chain(wanted.parameters).collect();
    refuse_both(wanted)?;
    let mut settings = Settings::new();
    from_environment(&mut settings, env, now_ms)?;
    settings.source.url = wanted.url.clone().unwrap_or_default();
    for (key, value) in &given {
        let known = settings.set(key, value, now_ms)?;
        if !known && REPLICA_PARAMETERS.contains(&key.as_str()) {
            options::put_parameter(&mut settings.source.parameters, key, value);
        }
    }
    complete(&mut settings, wanted, &path, env)?;
    settings.source.hydrate = settings.hydrate();
    let source = &settings.source;
    if source.offline && source.cache_dir.is_none() {
        return Err("offline=allow needs cache_dir, where the last known state is kept".to_owned());
    }
    Ok(settings)
}

/// Takes the URL from the file or the environment when nothing stronger names
/// it, and from the file what belongs to the URL.
fn complete(
    settings: &mut Settings,
    wanted: &Wanted<'_>,
    path: &Path,
    env: Env<'_>,
) -> Result<(), String> {
    let file = config_source::file(env)?;
    let url = &settings.source.url;
    let filed = file.as_ref().and_then(|file| match url.as_str() {
        "" => file.find(path, &canonical).map(|found| found.replica),
        url => file.databases.iter().map(|d| &d.replica).find(|r| r.url == *url).cloned(),
    });
    if let Some(replica) = filed {
        let mut config = DbConfig::new("");
        replica.apply(&mut config).map_err(|e| e.to_string())?;
        let given = std::mem::take(&mut settings.source.parameters);
        settings.source.url = config.replica_url;
        settings.source.parameters = config.replica_parameters;
        settings.source.keys = config.replica_keys;
        for (key, value) in &given {
            options::put_parameter(&mut settings.source.parameters, key, value);
        }
    } else if url.is_empty() {
        let only = options::environment_url(wanted.label, wanted.mode, env)?;
        let Some(url) = only else { return Err(NO_URL.to_owned()) };
        settings.source.url = fill_placeholders(&url, path).map_err(|e| e.to_string())?;
    }
    Ok(())
}

const NO_URL: &str = "no replica is named: pass replica_url in the database's URI or to \
                      litestream_configure, set LITESTREAM_REPLICA_URL, or open the replica's \
                      URL itself, as in file:s3://bucket/app?vfs=litestream";

fn from_environment(settings: &mut Settings, env: Env<'_>, now_ms: i64) -> Result<(), String> {
    for key in IN_ENVIRONMENT {
        let name = format!("LITESTREAM_{}", key.to_ascii_uppercase());
        if let Some(value) = env(&name) {
            settings.set(key, &value, now_ms).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

fn refuse_unknown(parameters: &Parameters) -> Result<(), String> {
    let known = |key: &str| is_own(key) || REPLICA_PARAMETERS.contains(&key);
    let Some((key, _)) = parameters.iter().find(|(key, _)| !known(key)) else { return Ok(()) };
    if options::is_primarys(key) {
        return Err(format!("{key} is an option of databases that are written; this is a replica"));
    }
    Err(format!("unknown URI parameter '{key}' (known: {})", KEYS.join(", ")))
}

fn refuse_both(wanted: &Wanted<'_>) -> Result<(), String> {
    let has = |name: &str| wanted.parameters.iter().any(|(key, _)| key == name);
    if has("replica_url") && wanted.url.is_some() {
        return Err("replica_url is given, and the name is a replica's URL itself: open a label \
                    through the VFS 'litestream-replica', or leave replica_url out"
            .to_owned());
    }
    if has("time") && has("txid") {
        return Err("time and txid name a state each: give one of them".to_owned());
    }
    Ok(())
}

#[cfg(test)]
#[path = "replica_options_tests.rs"]
mod tests;
