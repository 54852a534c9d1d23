//! From the keys of a replica to what opens it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::expand::Surroundings;
use super::scalar;
use super::schema::{Fields, Note};
use super::yaml::Problem;
use crate::config::DbConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::os;
use crate::replica_client::{AccessKeys, url};

/// Kinds of storage, the keys that say where in it a replica is, and all other
/// keys that it takes.
struct Storage {
    name: &'static str,
    schemes: &'static [&'static str],
    location: &'static [&'static str],
    keys: &'static [&'static str],
}

/// Keys that every kind takes.
const COMMON: &[&str] = &[
    "type",
    "path",
    "url",
    "name",
    "sync-interval",
    "validation-interval",
    "max-sync-ltx-files",
    "auto-recover",
];

const STORAGES: &[Storage] = &[
    Storage { name: "file", schemes: &["file"], location: &[], keys: &[] },
    Storage {
        name: "s3",
        schemes: &["s3"],
        location: &["bucket"],
        keys: &[
            "access-key-id",
            "secret-access-key",
            "region",
            "endpoint",
            "force-path-style",
            "sign-payload",
            "sign-accept-encoding",
            "require-content-md5",
            "skip-verify",
            "storage-class",
            "part-size",
            "concurrency",
            "sse-customer-algorithm",
            "sse-customer-key",
            "sse-customer-key-path",
            "sse-kms-key-id",
        ],
    },
    Storage { name: "gs", schemes: &["gs"], location: &["bucket"], keys: &[] },
    Storage {
        name: "abs",
        schemes: &["abs"],
        location: &["bucket"],
        keys: &["account-name", "account-key", "sas-token", "endpoint"],
    },
    Storage {
        name: "oss",
        schemes: &["oss"],
        location: &["bucket"],
        keys: &[
            "access-key-id",
            "secret-access-key",
            "region",
            "endpoint",
            "part-size",
            "concurrency",
        ],
    },
    Storage {
        name: "sftp",
        schemes: &["sftp"],
        location: &["host"],
        keys: &["user", "password", "key-path", "host-key", "concurrent-writes"],
    },
    Storage {
        name: "webdav",
        schemes: &["webdav", "webdavs"],
        location: &["webdav-url"],
        keys: &["webdav-username", "webdav-password"],
    },
    Storage {
        name: "nats",
        schemes: &["nats"],
        // The bucket may stand beside a URL, which names the server.
        location: &[],
        keys: &[
            "bucket",
            "jwt",
            "seed",
            "creds",
            "nkey",
            "username",
            "password",
            "token",
            "tls",
            "root-cas",
            "client-cert",
            "client-key",
            "max-reconnects",
            "reconnect-wait",
            "timeout",
        ],
    },
];

/// Keys of s3 replicas and the parameters of replica URLs that they are.
const S3_TEXTS: &[(&str, &str)] = &[
    ("region", "region"),
    ("storage-class", "storageClass"),
    ("sse-customer-algorithm", "sseCustomerAlgorithm"),
    ("sse-customer-key", "sseCustomerKey"),
    ("sse-kms-key-id", "sseKmsKeyId"),
];
const S3_FLAGS: &[(&str, &str)] = &[
    ("force-path-style", "forcePathStyle"),
    ("sign-payload", "signPayload"),
    ("require-content-md5", "requireContentMD5"),
    ("skip-verify", "skipVerify"),
];

/// A replica that a file describes. `Debug` shows no credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Replica {
    /// `file`, `s3`, `gs`, `abs`, `oss`, `sftp`, `webdav` or `nats`.
    pub kind: &'static str,
    /// Where it is. May hold credentials.
    pub url: String,
    /// Parameters of the URL. May hold credentials.
    pub parameters: Vec<(String, String)>,
    /// Keys that sign requests, if the file gives any.
    pub keys: Option<AccessKeys>,
    /// Least time between two files.
    pub sync_interval: Option<Duration>,
    /// A file whose content is the parameter `sseCustomerKey`.
    customer_key_file: Option<PathBuf>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("kind", &self.kind)
            .field("url", &url::redact(&self.url))
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Reads the keys of a replica that already inherited what it lacks.
    pub(super) fn new(
        own: &Fields,
        all: &Fields,
        around: &Surroundings,
        notes: &mut Vec<Note>,
    ) -> std::result::Result<Replica, Problem> {
        let storage = storage_of(all)?;
        refuse_foreign_keys(own, storage)?;
        check_location(all, storage)?;
        note_unused(own, all, storage, notes);
        let mut parameters = Vec::new();
        let mut keys = None;
        if storage.name == "s3" {
            parameters = s3_parameters(all);
            keys = access_keys(all)?;
        }
        let url = match all.text("url") {
            Some(url) => url.to_owned(),
            None => assembled(storage, all, around, &mut parameters),
        };
        let key_file = all.text("sse-customer-key-path").filter(|_| storage.name == "s3");
        Ok(Replica {
            kind: storage.name,
            url,
            parameters,
            keys,
            sync_interval: all.nanos("sync-interval").map(scalar::to_duration),
            customer_key_file: key_file.map(|text| around.path(text)),
        })
    }

    /// The replica of one database of a directory: this one's place with
    /// `relative` behind it.
    pub(super) fn below(&self, relative: &str) -> Replica {
        let mut replica = self.clone();
        if let Some((_, path)) = replica.parameters.iter_mut().find(|(k, _)| k == url::FILE_PATH) {
            *path = format!("{}/{relative}", path.trim_end_matches('/'));
        }
        let end = self.url.find(['?', '#']).unwrap_or(self.url.len());
        let (place, query) = self.url.split_at(end);
        replica.url = format!("{}/{}{query}", place.trim_end_matches('/'), encode(relative));
        replica
    }

    /// Makes this the replica of `config`.
    ///
    /// # Errors
    /// When a file that holds a key cannot be read.
    pub fn apply(&self, config: &mut DbConfig) -> Result<()> {
        config.replica_url = self.url.clone();
        config.replica_parameters = self.all_parameters()?;
        config.replica_keys = self.keys.clone();
        if let Some(interval) = self.sync_interval {
            config.sync_interval = interval;
        }
        Ok(())
    }

    /// The parameters, and what is in files that they name.
    ///
    /// # Errors
    /// When such a file cannot be read.
    pub fn all_parameters(&self) -> Result<Vec<(String, String)>> {
        let mut parameters = self.parameters.clone();
        if let Some(path) = &self.customer_key_file {
            let key = String::from_utf8(os::read(path)?).map_err(|_| {
                let text = format!("{} does not hold a base64 key", path.display());
                Error::new(ErrorKind::InvalidInput, text)
            })?;
            parameters.retain(|(name, _)| name != "sseCustomerKey");
            parameters.push(("sseCustomerKey".to_owned(), key.trim().to_owned()));
        }
        Ok(parameters)
    }
}

fn storage_of(all: &Fields) -> std::result::Result<&'static Storage, Problem> {
    let known = || {
        let names: Vec<&str> = STORAGES.iter().map(|s| s.name).collect();
        names.join(", ")
    };
    let by_type = match all.text("type") {
        None => None,
        Some(name) => Some(STORAGES.iter().find(|s| s.name == name).ok_or_else(|| {
            let text = format!("unknown replica type {name:?} (known: {})", known());
            Problem::new(all.line_of("type"), text)
        })?),
    };
    let Some(url) = all.text("url") else { return Ok(by_type.unwrap_or(&STORAGES[0])) };
    let line = all.line_of("url");
    if !url::is_url(url) {
        let text = format!("replica url scheme required: {}", url::redact(url));
        return Err(Problem::new(line, text));
    }
    let scheme = url.split("://").next().unwrap_or_default().to_ascii_lowercase();
    let by_url = STORAGES.iter().find(|s| s.schemes.contains(&scheme.as_str()));
    let Some(by_url) = by_url else {
        let text = format!("unknown replica type in url: {scheme:?} (known: {})", known());
        return Err(Problem::new(line, text));
    };
    match by_type {
        Some(by_type) if by_type.name != by_url.name => {
            let text =
                format!("type {} does not fit the url's {}: remove one", by_type.name, by_url.name);
            Err(Problem::new(all.line_of("type"), text))
        }
        _ => Ok(by_url),
    }
}

impl Storage {
    fn takes(&self, name: &str) -> bool {
        COMMON.contains(&name) || self.location.contains(&name) || self.keys.contains(&name)
    }
}

fn refuse_foreign_keys(own: &Fields, storage: &Storage) -> std::result::Result<(), Problem> {
    match own.names().find(|(name, _)| !storage.takes(name)) {
        Some((name, line)) => {
            let text = format!("{name} means nothing to a replica of type {}", storage.name);
            Err(Problem::new(line, text))
        }
        None => Ok(()),
    }
}

/// Says which encryption that was asked for at the top does not reach a replica.
fn note_unused(own: &Fields, all: &Fields, storage: &Storage, notes: &mut Vec<Note>) {
    let inherited = all.names().filter(|(name, _)| !own.names().any(|(own, _)| own == *name));
    for (name, _) in inherited.filter(|(name, _)| name.starts_with("sse-")) {
        if !storage.takes(name) {
            let text = format!("{name} does not reach this replica of type {}", storage.name);
            notes.push(Note { line: own.line, text });
        }
    }
}

fn check_location(all: &Fields, storage: &Storage) -> std::result::Result<(), Problem> {
    let kind = storage.name;
    let fail = |key: &str, text: String| Err(Problem::new(all.line_of(key), text));
    if let Some(path) = all.text("path")
        && url::is_url(path)
    {
        let text = format!(
            "replica path cannot be a url, please use the 'url' field instead: {}",
            url::redact(path)
        );
        return fail("path", text);
    }
    if all.text("url").is_some() {
        let beside = ["path"].iter().chain(storage.location).find(|key| all.text(key).is_some());
        if let Some(key) = beside {
            return fail(key, format!("cannot specify url & {key} for {kind} replica"));
        }
    } else {
        let needed: &[&str] = match kind {
            "file" => &["path"],
            "sftp" => &["host", "user"],
            "nats" => &["bucket"],
            _ => storage.location,
        };
        if let Some(key) = needed.iter().find(|key| all.text(key).is_none()) {
            return fail("type", format!("{key} required for {kind} replica"));
        }
    }
    if kind == "nats" && all.text("client-cert").is_some() != all.text("client-key").is_some() {
        return fail("client-cert", "client-cert and client-key come together".to_owned());
    }
    Ok(())
}

fn access_keys(all: &Fields) -> std::result::Result<Option<AccessKeys>, Problem> {
    match (all.text("access-key-id"), all.text("secret-access-key")) {
        (Some(id), Some(secret)) => {
            Ok(Some(AccessKeys { id: id.to_owned(), secret: secret.to_owned() }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(Problem::new(
            all.line_of("access-key-id"),
            "access-key-id is given without secret-access-key",
        )),
        (None, Some(_)) => Err(Problem::new(
            all.line_of("secret-access-key"),
            "secret-access-key is given without access-key-id",
        )),
    }
}

fn s3_parameters(all: &Fields) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut set = |name: &str, value: String| parameters.push((name.to_owned(), value));
    if let Some(endpoint) = all.text("endpoint") {
        let secure = if endpoint.contains("://") { "" } else { "https://" };
        set("endpoint", format!("{secure}{endpoint}"));
    }
    for (key, name) in S3_TEXTS {
        if let Some(text) = all.text(key) {
            set(name, text.to_owned());
        }
    }
    for (key, name) in S3_FLAGS {
        if let Some(flag) = all.bool(key) {
            set(name, flag.to_string());
        }
    }
    if let Some(size) = all.bytes("part-size") {
        set("partSize", size.to_string());
    }
    if let Some(count) = all.int("concurrency") {
        set("concurrency", count.to_string());
    }
    parameters
}

/// The URL of a replica that is described by its parts.
fn assembled(
    storage: &Storage,
    all: &Fields,
    around: &Surroundings,
    parameters: &mut Vec<(String, String)>,
) -> String {
    let path = all.text("path").unwrap_or_default();
    let text = |key| all.text(key).unwrap_or_default();
    let place = match storage.name {
        "file" => {
            // A path may hold what no URL can say.
            let path = around.path(path).to_string_lossy().into_owned();
            parameters.push((url::FILE_PATH.to_owned(), path.clone()));
            return format!("file://{}", encode(&path));
        }
        "sftp" => text("host"),
        "webdav" => return text("webdav-url").replacen("http", "webdav", 1),
        _ => text("bucket"),
    };
    format!("{}://{place}/{}", storage.name, encode(path.trim_start_matches('/')))
}

/// Percent-encodes what a path in a URL cannot hold.
fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        match plain(b) {
            true => out.push(char::from(b)),
            false => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
