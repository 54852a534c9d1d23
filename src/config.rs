//! Settings of one replicated database: names, defaults and bounds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::ltx::PageForm;
use crate::replica_client::{AccessKeys, url};

/// How often pending commits become an LTX file, unless someone waits.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How long the close of the last connection may wait for storage.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that may wait locally for storage; beyond, capture stops and a
/// snapshot repairs the chain later.
pub const SPOOL_BYTES_MAX: u64 = 1 << 30;

/// The settings of one replicated database. `Debug` shows no credential.
#[derive(Clone, PartialEq, Eq)]
pub struct DbConfig {
    /// Replica URL, such as `s3://bucket/app`.
    pub replica_url: String,
    /// Options of the replica URL given beside it (`endpoint`, `region`, ...).
    pub replica_parameters: Vec<(String, String)>,
    /// Keys that sign requests, instead of those that the environment gives.
    pub replica_keys: Option<AccessKeys>,
    /// Least time between two LTX files; zero: as soon as the previous one is
    /// acknowledged.
    pub sync_interval: Duration,
    /// Directory for our files instead of `.NAME-litestream` beside the database.
    pub meta_path: Option<PathBuf>,
    /// Form of compressed pages in the LTX files.
    pub page_form: PageForm,
    /// How long the last close may wait for storage.
    pub close_timeout: Duration,
    /// Bytes that may wait locally for storage.
    pub spool_bytes_max: u64,
    /// Make the local database the next state of a chain that differs from it.
    pub adopt: bool,
}

/// The names that [`DbConfig::set`] knows.
pub const KEYS: &[&str] = &[
    "replica_url",
    "sync_interval",
    "meta_path",
    "page_format",
    "close_timeout",
    "spool_bytes_max",
    "adopt",
];

impl fmt::Debug for DbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters: Vec<&str> =
            self.replica_parameters.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("DbConfig")
            .field("replica_url", &url::redact(&self.replica_url))
            .field("replica_parameters", &parameters)
            .field("sync_interval", &self.sync_interval)
            .field("meta_path", &self.meta_path)
            .field("page_form", &self.page_form)
            .field("close_timeout", &self.close_timeout)
            .field("spool_bytes_max", &self.spool_bytes_max)
            .field("adopt", &self.adopt)
            .finish_non_exhaustive()
    }
}

impl DbConfig {
    /// Defaults for a replica URL.
    pub fn new(replica_url: impl Into<String>) -> Self {
        DbConfig {
            replica_url: replica_url.into(),
            replica_parameters: Vec::new(),
            replica_keys: None,
            sync_interval: SYNC_INTERVAL,
            meta_path: None,
            page_form: PageForm::default(),
            close_timeout: CLOSE_TIMEOUT,
            spool_bytes_max: SPOOL_BYTES_MAX,
            adopt: false,
        }
    }

    /// Sets one option by name. Returns false when the name is not one of [`KEYS`].
    ///
    /// # Errors
    /// `InvalidInput` when the value does not fit the option.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "replica_url" => self.replica_url = value.to_owned(),
            "sync_interval" => self.sync_interval = parse_duration(key, value)?,
            "meta_path" => self.meta_path = Some(PathBuf::from(value)),
            "page_format" => self.page_form = parse_page_form(value)?,
            "close_timeout" => self.close_timeout = parse_duration(key, value)?,
            "spool_bytes_max" => self.spool_bytes_max = parse_bytes(key, value)?,
            "adopt" => self.adopt = parse_bool(key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn invalid(key: &str, value: &str, expected: &str) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("{key}='{value}' is not valid: expected {expected}"),
    )
}

/// Parses `1s`, `250ms`, `1.5h`, `1h30m` or a number of seconds.
///
/// # Errors
/// `InvalidInput` naming `key` for anything else.
pub fn parse_duration(key: &str, value: &str) -> Result<Duration> {
    let bad = || invalid(key, value, "a duration such as 250ms, 1s or 5m");
    let text = value.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(bad()),
        };
        rest = &rest[end..];
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// Parses a number of bytes, with an optional decimal (`MB`) or binary (`MiB`) unit.
///
/// # Errors
/// `InvalidInput` naming `key` for anything else.
pub fn parse_bytes(key: &str, value: &str) -> Result<u64> {
    let bad = || invalid(key, value, "a number of bytes such as 1073741824, 1GiB or 500MB");
    let text = value.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "ki" | "kib" => 1024.0,
        "mi" | "mib" => 1024.0 * 1024.0,
        "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "ti" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    let bytes = number * unit;
    if bytes.is_finite() && bytes >= 1.0 && bytes <= i64::MAX as f64 {
        // The largest number that a float can be asked for is 2^63.
        Ok((bytes as u64).min(i64::MAX.cast_unsigned()))
    } else {
        Err(bad())
    }
}

/// Parses `1`, `true`, `yes`, `on` and their opposites, in any case.
///
/// # Errors
/// `InvalidInput` naming `key` for anything else.
pub fn parse_bool(key: &str, value: &str) -> Result<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "no" | "off" => Ok(false),
        _ => Err(invalid(key, value, "1 or 0")),
    }
}

/// Puts the file name of the database `path` for `{name}` in a URL, and the whole
/// path for `{path}`, percent-encoded where they would end the URL's path.
///
/// # Errors
/// `InvalidInput` when the path is needed and is not UTF-8.
pub fn fill_placeholders(url: &str, path: &Path) -> Result<String> {
    let mut filled = url.to_owned();
    for (mark, value) in [("{name}", path.file_name().map(Path::new)), ("{path}", Some(path))] {
        if !filled.contains(mark) {
            continue;
        }
        let text = value.and_then(Path::to_str).ok_or_else(|| {
            let text = format!(
                "{} is not UTF-8, so {mark} in LITESTREAM_REPLICA_URL cannot stand for it",
                path.display()
            );
            Error::new(ErrorKind::InvalidInput, text)
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

fn parse_page_form(value: &str) -> Result<PageForm> {
    match value.trim().to_ascii_lowercase().as_str() {
        "block" => Ok(PageForm::Block),
        "frame" => Ok(PageForm::Frame),
        _ => Err(invalid("page_format", value, "block or frame")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ok = |s| parse_duration("k", s).unwrap();
        assert_eq!(ok("0"), Duration::ZERO);
        assert_eq!(ok("2"), Duration::from_secs(2));
        assert_eq!(ok("250ms"), Duration::from_millis(250));
        assert_eq!(ok("1h30m"), Duration::from_secs(5400));
        for bad in ["", "x", "1x", "-1", "1s2", "nan", "1e300s"] {
            assert!(parse_duration("k", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_and_bools() {
        assert_eq!(parse_bytes("k", "1GiB").unwrap(), 1 << 30);
        assert_eq!(parse_bytes("k", "5MB").unwrap(), 5_000_000);
        assert!(parse_bytes("k", "0").is_err());
        assert!(parse_bytes("k", "many").is_err());
        assert!(parse_bool("k", "maybe").is_err());
    }

    #[test]
    fn unknown_names_are_told_apart() {
        let mut c = DbConfig::new("file:///x");
        assert!(!c.set("nonsense", "1").unwrap());
        assert!(c.set("page_format", "frame").unwrap());
        assert!(c.set("page_format", "zip").is_err());
        for key in KEYS {
            assert!(!matches!(c.set(key, "?"), Ok(false)), "{key}");
        }
    }
}
