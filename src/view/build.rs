//! From what storage lists to a view.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::file::RemoteFile;
use super::index::Index;
use super::load::{Files, Loaded, SUFFIX_MIN};
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Header, Txid};
use crate::plan::{Target, calc_reachable_plan, calc_restore_plan};
use crate::replica_client::{FileId, FileInfo, Listed, ReplicaClient, SNAPSHOT_LEVEL, Tag};

/// A view is planned anew this often when files of the plan are gone.
const PLANS_MAX: u32 = 5;

/// What storage lists, by level, each level by name.
pub(crate) struct Listing {
    levels: Vec<Vec<Listed>>,
}

impl Listing {
    /// Lists every level, all at once. With `times` the files have the times of
    /// their headers, which costs a request per file on some storage.
    ///
    /// # Errors
    /// The first listing that keeps failing.
    pub(crate) async fn fetch(files: &Files, times: bool) -> Result<Listing> {
        let (client, retrier) = (files.client(), files.retrier());
        let tagged = |level| retrier.repeat(move || client.list_tagged(level, Txid::NONE));
        let mut levels = try_join_all((0..=SNAPSHOT_LEVEL).map(tagged)).await?;
        if times {
            let timed = |level| retrier.repeat(move || client.list(level, Txid::NONE, true));
            let infos = try_join_all((0..=SNAPSHOT_LEVEL).map(timed)).await?;
            levels.iter_mut().zip(infos).for_each(|(level, infos)| set_times(level, infos));
        }
        Ok(Listing { levels })
    }

    /// What was listed some other way.
    pub(crate) fn of(files: Vec<Listed>) -> Listing {
        let mut levels = vec![Vec::new(); usize::from(SNAPSHOT_LEVEL) + 1];
        for file in files {
            if let Some(level) = levels.get_mut(usize::from(file.info.id.level)) {
                level.push(file);
            }
        }
        for level in &mut levels {
            level.sort_unstable_by_key(|file| file.info.id);
            level.dedup_by_key(|file| file.info.id);
        }
        Listing { levels }
    }

    /// Whether nothing is stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.levels.iter().all(Vec::is_empty)
    }

    /// The last transaction of any file.
    pub(crate) fn newest(&self) -> Txid {
        self.all().map(|f| f.info.id.max).max().unwrap_or(Txid::NONE)
    }

    /// Whether exactly the file `file` is listed; none when the listing does not tell
    /// versions.
    pub(crate) fn has(&self, file: &RemoteFile) -> Option<bool> {
        match self.get(&file.id) {
            None => Some(false),
            Some(found) => found.tag.as_ref().map(|tag| *tag == file.tag),
        }
    }

    /// The version of the file `id`, if it is listed and listings tell.
    pub(crate) fn tag(&self, id: &FileId) -> Option<&Tag> {
        self.get(id)?.tag.as_ref()
    }

    /// The files as plans take them.
    pub(crate) fn infos(&self) -> Vec<Vec<FileInfo>> {
        self.levels.iter().map(|level| level.iter().map(|f| f.info).collect()).collect()
    }

    /// The listed files behind `infos`, which are among them.
    pub(crate) fn listed(&self, infos: &[FileInfo]) -> Vec<Listed> {
        let find = |info: &FileInfo| {
            self.get(&info.id).cloned().unwrap_or(Listed { info: *info, tag: None })
        };
        infos.iter().map(find).collect()
    }

    /// All files.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Listed> {
        self.levels.iter().flatten()
    }

    fn get(&self, id: &FileId) -> Option<&Listed> {
        let level = self.levels.get(usize::from(id.level))?;
        let at = level.binary_search_by_key(id, |f| f.info.id).ok()?;
        level.get(at)
    }
}

/// Gives each of `level` the time that `infos` have for it; what they do not have
/// is gone.
fn set_times(level: &mut Vec<Listed>, infos: Vec<FileInfo>) {
    let times: HashMap<_, _> =
        infos.into_iter().map(|f| ((f.id, f.size), f.created_at_ms)).collect();
    level.retain_mut(|listed| {
        let time = times.get(&(listed.info.id, listed.info.size));
        listed.info.created_at_ms = *time.unwrap_or(&0);
        time.is_some()
    });
}

/// A view with what came along.
pub(crate) struct Built {
    pub(crate) view: View,
    /// Its files, with bytes that were fetched with them.
    pub(crate) loaded: Vec<Loaded>,
    /// What lies behind the view and cannot be reached, for people.
    pub(crate) gap: Option<String>,
}

/// Builds the view of `target`; none when the replica is empty.
///
/// # Errors
/// `NotFound` when the target is not there; `Corrupt` when no chain of files
/// begins at the first transaction, or a file is damaged; errors of storage.
pub(crate) async fn build(files: &Files, target: Target) -> Result<Option<Built>> {
    let mut plans = 1;
    loop {
        let listing = Listing::fetch(files, matches!(target, Target::Timestamp(_))).await?;
        if listing.is_empty() {
            return Ok(None);
        }
        match build_from(files, &listing, target).await {
            // A file was deleted or replaced since the listing.
            Err(Fault::Gone(_)) if plans < PLANS_MAX => {
                files.pause(plans).await;
                plans += 1;
            }
            Err(Fault::Gone(e) | Fault::Other(e)) => return Err(e),
            Ok(built) => return Ok(Some(built)),
        }
    }
}

/// Builds the last view whose chain is in the cache directory, without storage;
/// none when there is none.
///
/// # Errors
/// When the directory does not have all that it takes, and storage does not
/// answer.
pub(crate) async fn build_kept(files: &Files) -> Result<Option<Built>> {
    let listing = Listing::of(files.kept_chain());
    if listing.is_empty() {
        return Ok(None);
    }
    Ok(Some(build_from(files, &listing, Target::Latest).await?))
}

/// Why a view could not be built.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A file is not, or no longer, what was listed.
    Gone(Error),
    Other(Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match fault {
            Fault::Gone(e) | Fault::Other(e) => e,
        }
    }
}

/// Builds the view of `target` out of the files of `listing`.
///
/// # Errors
/// As [`build`].
pub(crate) async fn build_from(
    files: &Files,
    listing: &Listing,
    target: Target,
) -> std::result::Result<Built, Fault> {
    let (plan, behind) = plan(files, listing, target).map_err(Fault::Other)?;
    let loaded =
        files.load(&listing.listed(&plan), SUFFIX_MIN).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => Fault::Gone(e),
            _ => Fault::Other(e),
        })?;
    let mut index = Index::default();
    let Some((newest, header)) = newest(&loaded) else {
        return Err(Fault::Other(Error::new(ErrorKind::Internal, "a plan without files")));
    };
    for Loaded { file, .. } in &loaded {
        index.apply(file, header.commit);
    }
    let view = View::new(newest, header, index);
    let gap = behind.map(|file| gap_text(view.txid(), file.id.min));
    Ok(Built { view, loaded, gap })
}

/// The last of several files, with its header.
pub(crate) fn newest(loaded: &[Loaded]) -> Option<(Arc<RemoteFile>, Header)> {
    let last = loaded.last()?;
    Some((Arc::clone(&last.file), last.header?))
}

fn plan(
    files: &Files,
    listing: &Listing,
    target: Target,
) -> Result<(Vec<FileInfo>, Option<FileInfo>)> {
    let levels = listing.infos();
    let url = files.client().url();
    let planned = match target {
        Target::Latest => calc_reachable_plan(&levels).map(|(plan, behind)| (plan.files, behind)),
        _ => calc_restore_plan(&levels, target).map(|plan| (plan.files, None)),
    };
    planned.map_err(|e| match (target, listing.all().map(|f| f.info.id.min).min()) {
        (Target::Latest, Some(first)) => Error::new(
            ErrorKind::Corrupt,
            format!(
                "replica {url} cannot be read: its files begin at transaction {first} and there \
                 is no snapshot to begin from"
            ),
        ),
        _ => e.context(format!("replica {url}: cannot calc restore plan")),
    })
}

/// How a gap behind `cover` is told to people.
pub(crate) fn gap_text(cover: Txid, next: Txid) -> String {
    format!("files are missing: it goes on to {cover}, and the next file begins at {next}")
}
