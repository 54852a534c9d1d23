//! Chains beside a chain. Every file of a chain has the same page size, so a
//! database that got another one (`PRAGMA page_size` and `VACUUM`) ends its
//! chain. Opened once with `adopt=1` it goes on at `URL-pageSIZE`, and
//! `page-size.json` in the spool directory remembers that.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::db::{Client, Db, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::os::disk::{self, Owner};
use crate::probe::Found;
use crate::replica::conflict;
use crate::replica_client::url::redact;
use crate::store::OpenRequest;

const FILE: &str = "page-size.json";

/// What is known about chains beside the one at a URL; a page size of 0: none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sibling {
    /// The configured URL, without credentials and parameters.
    replica: String,
    /// Page size of the chain beside it that is in use.
    used: u32,
    /// Page size of the database, for which there is no chain until one is adopted.
    waiting: u32,
}

/// `url` with its last path segment made that of a chain of `page_size` bytes a page.
pub(crate) fn sibling_url(url: &str, page_size: u32) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (path, rest) = url.split_at(end);
    format!("{}-page{page_size}{rest}", path.trim_end_matches('/'))
}

impl Sibling {
    /// What `dir`, a spool directory, knows about chains beside `url`.
    fn load(dir: &Path, url: &str) -> Result<Sibling> {
        let none = Sibling { replica: redact(url), used: 0, waiting: 0 };
        let Some(bytes) = disk::read(&dir.join(FILE))? else { return Ok(none) };
        let Ok(found) = serde_json::from_slice::<Sibling>(&bytes) else { return Ok(none) };
        Ok(if found.replica == none.replica { found } else { none })
    }

    fn save(&self, dir: &Path, owner: Option<Owner>) -> Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        disk::create_private_dir(dir, owner)?;
        disk::write_private(&dir.join(FILE), &json, owner)
    }

    /// Where the database that is configured for `url` went on, if not there.
    pub(crate) fn url(dir: &Path, url: &str) -> Result<Option<String>> {
        let used = Self::load(dir, url)?.used;
        Ok((used != 0).then(|| sibling_url(url, used)))
    }

    /// The page size that waits to be adopted.
    pub(crate) fn waiting(dir: &Path, url: &str) -> Result<Option<u32>> {
        let waiting = Self::load(dir, url)?.waiting;
        Ok((waiting != 0).then_some(waiting))
    }

    /// Records that a chain of `page_size` beside `url` is to be used.
    pub(crate) fn adopt(dir: &Path, url: &str, page_size: u32, owner: Option<Owner>) -> Result<()> {
        let known = Self::load(dir, url)?;
        Sibling { used: page_size, waiting: 0, ..known }.save(dir, owner)
    }

    /// Records that the database fits its chain (again).
    pub(crate) fn settle(dir: &Path, url: &str, owner: Option<Owner>) -> Result<()> {
        let known = Self::load(dir, url)?;
        if known.waiting == 0 { Ok(()) } else { Sibling { waiting: 0, ..known }.save(dir, owner) }
    }

    /// Records that the database has pages of `page_size` and no chain for them.
    fn wait(dir: &Path, url: &str, page_size: u32, owner: Option<Owner>) -> Result<()> {
        let known = Self::load(dir, url)?;
        Sibling { waiting: page_size, ..known }.save(dir, owner)
    }
}

/// Refuses to ship pages of another size than the chain's: nothing is shipped
/// any more.
pub(crate) fn refuse_other(db: &Db, page_size: u32) -> Result<()> {
    let chain = lock(&db.ship).page_size;
    if chain == 0 || chain == page_size {
        return Ok(());
    }
    let url = &db.config.replica_url;
    Sibling::wait(&db.vfs_dir(), url, page_size, db.owner)?;
    Err(conflict(
        db,
        format!(
            "{} has pages of {page_size} bytes now, and the chain at {} has pages of {chain}: a \
             chain keeps its page size, so nothing more is shipped there. Close the database and \
             open it once with adopt=1 to start a new chain at {}, or give it a URL of its own, \
             or bring its page size back by VACUUM",
            db.path.display(),
            db.client.url(),
            redact(&sibling_url(url, page_size)),
        ),
    ))
}

/// Why an open without local state fails.
pub(crate) fn other_page_size(
    request: &OpenRequest,
    client: &Client,
    mine: u32,
    found: Found,
) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{} has pages of {mine} bytes, but the page size of the chain at {} (TXID {}) is {}: \
             give this database a URL of its own, or open it once with adopt=1 to start a new \
             chain at {}",
            request.path.display(),
            client.url(),
            found.txid,
            found.page_size,
            redact(&sibling_url(&request.config.replica_url, mine)),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_goes_to_the_last_segment() {
        for (url, expected) in [
            ("file:///b/app", "file:///b/app-page512"),
            ("file:///b/app/", "file:///b/app-page512"),
            ("s3://b/app?endpoint=http://x/", "s3://b/app-page512?endpoint=http://x/"),
        ] {
            assert_eq!(sibling_url(url, 512), expected);
        }
    }

    #[test]
    fn a_record_counts_for_its_url_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (url, other) = ("s3://k:s@b/app?region=x", "s3://b/other");
        let dir = dir.path();
        assert_eq!(Sibling::url(dir, url).unwrap(), None);
        Sibling::wait(dir, url, 8192, None).unwrap();
        assert_eq!(Sibling::url(dir, url).unwrap(), None);
        assert_eq!(Sibling::waiting(dir, url).unwrap(), Some(8192));
        Sibling::adopt(dir, url, 8192, None).unwrap();
        let found = Sibling::url(dir, url).unwrap().unwrap();
        assert_eq!(found, "s3://k:s@b/app-page8192?region=x");
        assert_eq!(Sibling::waiting(dir, url).unwrap(), None);
        Sibling::wait(dir, url, 512, None).unwrap();
        assert_eq!(Sibling::url(dir, url).unwrap().unwrap(), found);
        assert_eq!(Sibling::url(dir, other).unwrap(), None);
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap();
        assert!(!text.contains("k:s"), "{text}");
    }
}
