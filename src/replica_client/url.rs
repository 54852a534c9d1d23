//! Replica URLs: which scheme opens which client.
//!
//! A URL is `SCHEME://AUTHORITY/PATH?QUERY`. The path is cleaned like a file
//! path and, except for `file`, percent-decoded; a parameter may stand in the query or in
//! [`ReplicaOptions::parameters`], which wins.

use std::sync::Arc;

use super::params::{Params, decode, invalid};
use super::s3::{PARAMETERS, S3Client, S3Config, SHORT_RETRIES};
use super::{FileClient, ReplicaClient, ReplicaOptions, RetryClient};
use crate::error::{Error, ErrorKind, Result};

/// Schemes of Litestream that this library does not serve.
const UNSERVED: [&str; 8] = ["gs", "abs", "oss", "sftp", "webdav", "webdavs", "nats", "gcs"];

/// A parameter, beside a `file` URL only, that gives its directory: an absolute
/// path that may hold what no URL can say.
pub const FILE_PATH: &str = "path";

/// Opens the replica at `url`. Nothing is read, written or connected yet.
///
/// # Errors
///
/// `InvalidInput` for a URL, a parameter or a setting that is wrong or unknown;
/// `Unsupported` for a scheme that is known but not served. The text never holds
/// a credential.
pub fn open(url: &str, options: &ReplicaOptions) -> Result<Arc<dyn ReplicaClient>> {
    let parts = UrlParts::split(url)?;
    match parts.scheme.as_str() {
        "file" => Ok(Arc::new(open_file(&parts, options)?)),
        #[cfg(feature = "simulation")]
        "sim" if let Some(world) = crate::tasks::simulated::current() => Ok(world.storage(url)),
        "s3" => open_s3(&parts, options),
        other if UNSERVED.contains(&other) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "replica URL scheme {other:?} is not supported by this version; use file:// or s3://"
            ),
        )),
        other => Err(invalid(format!("unsupported replica URL scheme: {other:?}"))),
    }
}

/// Whether `text` is a URL and not a path: it begins with `word://`.
pub fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// Whether `name`, in any case, begins replica URLs, be they served by this
/// version or not.
pub fn is_scheme(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["file", "s3"].contains(&&*name)
        || UNSERVED.contains(&&*name)
        || cfg!(feature = "simulation") && name == "sim"
}

/// Whether `name` is a parameter of some kind of replica, in either spelling.
pub fn is_parameter(name: &str) -> bool {
    PARAMETERS.iter().any(|p| p.0 == name || p.1 == name)
}

/// `url` without user information, query and fragment, for messages.
pub fn redact(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let slash = rest.find('/').unwrap_or(rest.len());
    let host = rest[..slash].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[slash..])
}

/// The pieces of a URL, still percent-encoded.
#[derive(Debug)]
pub(super) struct UrlParts {
    pub scheme: String,
    pub user_info: Option<String>,
    pub host: String,
    pub path: String,
    pub query: String,
}

impl UrlParts {
    /// Splits `url`; the scheme is lowercased, a fragment dropped.
    pub(super) fn split(url: &str) -> Result<UrlParts> {
        if !is_url(url) {
            return Err(invalid(format!("replica url scheme required: {}", redact(url))));
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let (user_info, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        Ok(UrlParts {
            scheme: scheme.to_ascii_lowercase(),
            user_info,
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    /// The path decoded, cleaned and without its leading slash.
    pub(super) fn relative_path(&self) -> Result<String> {
        Ok(clean_path(&decode(&self.path)?).trim_start_matches('/').to_owned())
    }
}

/// Removes empty and `.` segments and resolves `..`, which stops at the root.
///
/// The result begins with `/` when `path` does and never ends with one; it is
/// empty for an empty path.
pub(super) fn clean_path(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            segment => out.push(segment),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", out.join("/"))
}

fn open_s3(parts: &UrlParts, options: &ReplicaOptions) -> Result<Arc<dyn ReplicaClient>> {
    let client = Arc::new(S3Client::new(S3Config::from_url(parts, options)?));
    let (clock, random) = (options.clock.clone(), options.random.clone());
    Ok(Arc::new(RetryClient::new(client, SHORT_RETRIES, clock, random)))
}

fn open_file(parts: &UrlParts, options: &ReplicaOptions) -> Result<FileClient> {
    let (paths, others): (Vec<_>, Vec<_>) =
        options.parameters.iter().cloned().partition(|(name, _)| name == FILE_PATH);
    Params::new(&parts.query, &others)?.refuse_unknown("file", &[])?;
    let local = parts.host.is_empty() || parts.host.eq_ignore_ascii_case("localhost");
    if !local || parts.user_info.is_some() {
        return Err(invalid(format!(
            "file replica URL must hold an absolute path, as in file:///var/backups/app, not {}",
            redact(&format!("file://{}{}", parts.host, parts.path))
        )));
    }
    let path = match paths.last() {
        Some((_, path)) if path.starts_with('/') => clean_path(path),
        _ => clean_path(&file_path(&parts.path)?),
    };
    if path.is_empty() || path == "/" {
        return Err(invalid("file replica path required"));
    }
    Ok(FileClient::new(path, options.access))
}

/// The directory that a file URL's path names.
///
/// Litestream takes the path as the URL spells it, percent signs and all, and
/// percent-encodes what a URL cannot hold: `/a%20b` and `/a b` are both the
/// directory `a%20b`. One URL must be one place for both programs.
fn file_path(path: &str) -> Result<String> {
    let decoded = decode(path)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    if path.bytes().all(|b| plain(b) || b"!'()*[]%".contains(&b)) {
        return Ok(path.to_owned());
    }
    let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    Ok(decoded.bytes().map(encode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(url: &str) -> ErrorKind {
        open(url, &ReplicaOptions::default()).map(drop).unwrap_err().kind()
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, clean) in [
            ("", ""),
            ("/", "/"),
            ("/a//b/../c/", "/a/c"),
            ("/../x/./y", "/x/y"),
            ("a/../../b", "b"),
        ] {
            assert_eq!(clean_path(path), clean, "{path}");
        }
    }

    #[test]
    fn file_urls_name_absolute_paths() {
        for (url, directory) in [
            ("file:///var//b/../a/", "/var/a"),
            ("file:///var/a%20b(1)", "/var/a%20b(1)"),
            ("file:///var/a b(1)%25", "/var/a%20b%281%29%25"),
            ("file://localhost/\u{e9}", "/%C3%A9"),
        ] {
            let client = open(url, &ReplicaOptions::default()).unwrap();
            assert_eq!((client.kind(), client.url()), ("file", &*format!("file://{directory}")));
        }
        for url in ["file://", "file:///", "file://relative/dir", "file:///x?a=b", "file:///a%zz"] {
            assert_eq!(kind_of(url), ErrorKind::InvalidInput, "{url}");
        }
    }

    #[test]
    fn schemes_are_told_apart() {
        assert_eq!(kind_of("/plain/path"), ErrorKind::InvalidInput);
        assert_eq!(kind_of("ftp://host/x"), ErrorKind::InvalidInput);
        for scheme in UNSERVED {
            assert_eq!(kind_of(&format!("{scheme}://host/x")), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn messages_hold_no_user_information() {
        for url in ["sftp://user:secret@host/x", "nope://user:secret@host/x", "user:secret@h"] {
            let text = open(url, &ReplicaOptions::default()).map(drop).unwrap_err().to_string();
            assert!(url.starts_with("user") || !text.contains("secret"), "{text}");
        }
        assert_eq!(redact("s3://u:p@b/k?sseCustomerKey=x#f"), "s3://b/k");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(
            scheme in "(s3|file|S3|x)?",
            rest in "(://)?(arn:aws:s3:r:1:accesspoint)?[a-z.:@/?&=%#\u{e9}]{0,40}",
        ) {
            let _ = open(&format!("{scheme}{rest}"), &ReplicaOptions::default());
            let _ = open(&rest, &ReplicaOptions::default());
            let _ = redact(&rest);
        }

        #[test]
        fn file_urls_are_their_own_text(path in "(/[a-zA-Z0-9 _.%\u{e9}-]{1,8}){1,4}") {
            if let Ok(client) = open(&format!("file://{path}"), &ReplicaOptions::default()) {
                let again = open(client.url(), &ReplicaOptions::default()).unwrap();
                proptest::prop_assert_eq!(client.url(), again.url());
            }
        }
    }
}
