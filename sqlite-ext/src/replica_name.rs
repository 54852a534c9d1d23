//! Names of databases that are replica URLs.
//!
//! | what the host opens | what the VFS is asked for |
//! |---|---|
//! | `file:s3://bucket/app?vfs=litestream&region=x`, parsed by SQLite | `s3://bucket/app` and parameters |
//! | `file:s3://bucket/app%3Fregion=x?vfs=litestream`, parsed by SQLite | `s3://bucket/app?region=x` |
//! | `s3://bucket/app?region=x`, handed on as it is | the same |
//! | `file:s3://bucket/app?region=x`, handed on as it is | the same; `raw_name` takes it apart |
//! | any of them after a path library | the same with one slash instead of two |
//!
//! `file:///dir` is a replica's URL and, to SQLite, a local file's URI. When a
//! URI names a directory, which no database can be, it is taken for a replica; of
//! what does not exist yet only `file:file:///dir`, parsed by SQLite, is known to be meant so:
//! `xOpen` has the flag `SQLITE_OPEN_URI` then.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use litestream::os::disk;
use litestream::replica_client::url;

use crate::raw_name::{self, Parameters, RawName, decode};

/// What `xFullPathname` is asked about.
pub(crate) enum Name {
    /// A path, as it is or taken apart: the host VFS makes it full.
    Path(Option<RawName>),
    /// The name of a replica, to stay as it is, taken apart if it was raw.
    Replica(String, Option<RawName>),
}

/// Tells what `given` is to the VFS that opens replicas `only`, or to the other.
///
/// # Errors
/// `SQLITE_CANTOPEN`, with the reason in the thread's last error.
pub(crate) fn name_of(given: &[u8], only: bool) -> Result<Name, i32> {
    let raw = raw_name::parse(given)?;
    let url = match &raw {
        Some(raw) => as_url(&raw.path).or_else(|| as_directory_url(&raw.path)),
        None => std::str::from_utf8(given).ok().and_then(as_url),
    };
    if let Some(url) = url {
        return Ok(Name::Replica(url, raw));
    }
    if !only {
        return Ok(Name::Path(raw));
    }
    let label = raw.as_ref().map_or_else(|| text(given), |raw| raw.path.clone());
    Ok(Name::Replica(label, raw))
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// The replica URL that `name` is, with both slashes behind its scheme; for
/// `file` it needs both of its own and an absolute path.
pub(crate) fn as_url(name: &str) -> Option<String> {
    let (scheme, rest) = name.split_once(":/")?;
    if !url::is_scheme(scheme) {
        return None;
    }
    match (rest.strip_prefix('/'), scheme.eq_ignore_ascii_case("file")) {
        (Some(rest), _) => Some(format!("{scheme}://{rest}")),
        (None, true) => None,
        (None, false) => Some(format!("{scheme}://{rest}")),
    }
}

/// Whether `name` is a replica URL.
pub(crate) fn is_url(name: &[u8]) -> bool {
    // Nearly all names begin with a slash.
    !name.starts_with(b"/") && std::str::from_utf8(name).is_ok_and(|name| as_url(name).is_some())
}

/// The URL of the folder replica `path` when it is a directory.
pub(crate) fn as_directory_url(path: &str) -> Option<String> {
    let stat = disk::stat(Path::new(path)).ok()??;
    (path.starts_with('/') && stat.is_dir).then(|| format!("file://{path}"))
}

/// `path` when it is a directory and no URL spells it.
pub(crate) fn odd_directory(path: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$+,/:;=@".contains(&b);
    as_directory_url(path)?;
    (!path.bytes().all(plain)).then(|| path.to_owned())
}

/// Splits the query off a URL: the URL with the parameters that belong to its
/// storage, and the others, decoded.
///
/// # Errors
/// Text about what cannot be decoded.
pub(crate) fn split(
    url: &str,
    is_ours: impl Fn(&str) -> bool,
) -> Result<(String, Parameters), String> {
    let url = url.split('#').next().unwrap_or_default();
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), Parameters::new()));
    };
    let (mut ours, mut theirs) = (Parameters::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key.as_bytes())?;
        if is_ours(&key) {
            ours.push((key, decode(value.as_bytes())?));
        } else {
            theirs.push(pair);
        }
    }
    let mark = if theirs.is_empty() { "" } else { "?" };
    Ok((format!("{base}{mark}{}", theirs.join("&")), ours))
}

/// Where SQLite keeps the names of the journal and the WAL of each open replica
/// whose name is a path: a local database may have the same.
static LABELLED: Mutex<Vec<[usize; 2]>> = Mutex::new(Vec::new());
/// How many there are; asked for each file that is looked for.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The companions of an open replica, which are never there.
#[derive(Debug)]
pub(crate) struct Companions([usize; 2]);

impl Companions {
    /// Those whose names lie at `addresses`.
    pub(crate) fn of(addresses: [usize; 2]) -> Companions {
        let mut all = LABELLED.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(addresses);
        COUNT.store(all.len(), Ordering::Relaxed);
        Companions(addresses)
    }
}

impl Drop for Companions {
    fn drop(&mut self) {
        let mut all = LABELLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.iter().position(|addresses| *addresses == self.0) {
            all.swap_remove(at);
        }
        COUNT.store(all.len(), Ordering::Relaxed);
    }
}

/// Whether the name at `address` is that of an open replica's companion.
pub(crate) fn is_labelled(address: usize) -> bool {
    COUNT.load(Ordering::Relaxed) > 0
        && LABELLED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|addresses| addresses.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for (name, full) in [
            ("s3://bucket/app", "s3://bucket/app"),
            ("s3:/bucket/app", "s3://bucket/app"),
            ("S3:/bucket/app", "S3://bucket/app"),
            ("gs://bucket", "gs://bucket"),
            ("webdavs:/host/x", "webdavs://host/x"),
            ("file:///dir/app", "file:///dir/app"),
            ("s3://b/a?region=x", "s3://b/a?region=x"),
        ] {
            assert_eq!(as_url(name).as_deref(), Some(full), "{name}");
        }
        for name in
            ["", "app.db", "/s3://b/a", "./s3:/b", "s3:b", "file:/dir", "c:/x", "http://h/x"]
        {
            assert_eq!(as_url(name), None, "{name}");
            assert!(!is_url(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn companions_are_known_while_their_replica_is_open() {
        let (first, second) = (Companions::of([1001, 1002]), Companions::of([1003, 1004]));
        assert!(is_labelled(1002) && is_labelled(1003) && !is_labelled(1000));
        drop(first);
        assert!(!is_labelled(1001) && is_labelled(1004));
        drop(second);
        assert!(!is_labelled(1003));
    }

    #[test]
    fn a_query_is_divided() {
        let ours = |key: &str| key == "txid" || key == "mode";
        let (url, mine) =
            split("s3://b/a%20b?endpoint=http%3A%2F%2Fh&mode=ro&txid=%31#f", ours).unwrap();
        assert_eq!(url, "s3://b/a%20b?endpoint=http%3A%2F%2Fh");
        assert_eq!(mine, [("mode".into(), "ro".into()), ("txid".into(), "1".into())]);
        assert_eq!(split("s3://b/a?mode=ro", ours).unwrap().0, "s3://b/a");
        assert_eq!(split("s3://b/a", ours).unwrap(), ("s3://b/a".into(), Parameters::new()));
        assert!(split("s3://b/a?mode=%00", ours).is_err());
    }

    #[test]
    fn a_directory_is_no_database() {
        let dir = std::env::temp_dir();
        let dir = dir.to_str().unwrap();
        assert_eq!(as_directory_url(dir), Some(format!("file://{dir}")));
        assert_eq!(as_directory_url("/nonexistent/x"), None);
        assert_eq!(as_directory_url("tmp"), None);
        assert_eq!(odd_directory(dir), None);
        let odd = format!("{dir}/litestream odd%{}", std::process::id());
        disk::create_private_dir(Path::new(&odd), None).unwrap();
        assert_eq!(odd_directory(&odd), Some(odd.clone()));
        std::fs::remove_dir(&odd).unwrap();
    }
}
