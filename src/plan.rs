//! Which files rebuild a database: one snapshot and the files that carry on
//! from it.
//!
//! The cover is the highest TXID that the files chosen so far reach. A file is
//! usable when it starts at or below cover + 1; files may overlap, repeat each
//! other and lie at any level.

use futures_util::future::try_join_all;

use crate::error::{Error, ErrorKind, Result};
use crate::ltx::Txid;
use crate::replica_client::retry::Retrier;
use crate::replica_client::{FileInfo, ReplicaClient, SNAPSHOT_LEVEL};

/// How far a restore goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest state of the replica.
    Latest,
    /// Exactly through this transaction, which must end a file.
    Txid(Txid),
    /// The newest state made of files older than this time, in milliseconds
    /// since the Unix epoch.
    Timestamp(i64),
}

/// The files to apply, oldest first; each starts at or below the TXID after
/// the previous one and reaches beyond it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// Never empty.
    pub files: Vec<FileInfo>,
}

impl RestorePlan {
    /// First transaction of the plan.
    pub fn min_txid(&self) -> Txid {
        self.files.first().map_or(Txid::NONE, |f| f.id.min)
    }

    /// The transaction that the plan restores.
    pub fn max_txid(&self) -> Txid {
        self.files.last().map_or(Txid::NONE, |f| f.id.max)
    }

    /// Stored bytes of all files, as listed.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// Lists every level, all at once; the index of the result is the level.
///
/// With `metadata` the creation times are the exact ones of the files, which
/// costs a request per file on some storage.
///
/// # Errors
/// The first failing listing.
pub async fn list_levels(client: &dyn ReplicaClient, metadata: bool) -> Result<Vec<Vec<FileInfo>>> {
    try_join_all((0..=SNAPSHOT_LEVEL).map(|level| client.list(level, Txid::NONE, metadata))).await
}

/// [`list_levels`], repeating each listing that fails for a moment.
///
/// # Errors
/// The first listing that keeps failing.
pub async fn list_levels_with(
    client: &dyn ReplicaClient,
    metadata: bool,
    retrier: &Retrier,
) -> Result<Vec<Vec<FileInfo>>> {
    let list = |level| retrier.repeat(move || client.list(level, Txid::NONE, metadata));
    try_join_all((0..=SNAPSHOT_LEVEL).map(list)).await
}

/// Chooses the files that restore `target` from what [`list_levels`] found.
///
/// # Errors
/// `NotFound` when the target cannot be reached exactly; `Corrupt` when the
/// newest state is asked for and lies behind a gap.
pub fn calc_restore_plan(levels: &[Vec<FileInfo>], target: Target) -> Result<RestorePlan> {
    let (merged, snapshots) = split_levels(levels);
    let mut files = Vec::new();
    let mut cover = Txid::NONE;
    if let Some(snapshot) = snapshots.iter().rfind(|f| eligible(f, target)) {
        cover = snapshot.id.max;
        files.push(*snapshot);
    }
    if target != Target::Txid(cover) {
        let candidates = candidates(merged, target);
        cover = extend(&mut files, &candidates, cover);
        if target == Target::Latest {
            check_gap(&candidates, cover)?;
        }
    }
    match target {
        Target::Txid(wanted) if cover != wanted => Err(not_available(target)),
        _ if files.is_empty() => Err(not_available(target)),
        _ => Ok(RestorePlan { files }),
    }
}

/// As [`calc_restore_plan`] for [`Target::Latest`], but up to the first gap, if
/// there is one: also returns the file behind it.
///
/// # Errors
/// `NotFound` when nothing can be restored.
pub fn calc_reachable_plan(levels: &[Vec<FileInfo>]) -> Result<(RestorePlan, Option<FileInfo>)> {
    let (merged, snapshots) = split_levels(levels);
    let mut files: Vec<FileInfo> = snapshots.last().copied().into_iter().collect();
    let cover = files.last().map_or(Txid::NONE, |f| f.id.max);
    let candidates = candidates(merged, Target::Latest);
    let cover = extend(&mut files, &candidates, cover);
    if files.is_empty() {
        return Err(not_available(Target::Latest));
    }
    Ok((RestorePlan { files }, behind_gap(&candidates, cover).copied()))
}

/// The files that carry on from the state after `cover`, in the order to apply
/// them, and the file behind the first gap, if there is one. Snapshots are not
/// among them.
pub fn calc_extension(levels: &[Vec<FileInfo>], cover: Txid) -> (Vec<FileInfo>, Option<FileInfo>) {
    let candidates = candidates(split_levels(levels).0, Target::Latest);
    let mut files = Vec::new();
    let cover = extend(&mut files, &candidates, cover);
    (files, behind_gap(&candidates, cover).copied())
}

fn candidates(merged: &[Vec<FileInfo>], target: Target) -> Vec<&FileInfo> {
    let mut candidates: Vec<&FileInfo> =
        merged.iter().flat_map(|level| level.iter()).filter(|f| eligible(f, target)).collect();
    candidates.sort_by_key(|f| f.id.min);
    candidates
}

fn behind_gap<'a>(candidates: &[&'a FileInfo], cover: Txid) -> Option<&'a FileInfo> {
    candidates.iter().copied().find(|f| f.id.min.0 > cover.0.saturating_add(1))
}

fn split_levels(levels: &[Vec<FileInfo>]) -> (&[Vec<FileInfo>], &[FileInfo]) {
    let merged = levels.len().min(usize::from(SNAPSHOT_LEVEL));
    (&levels[..merged], levels.get(usize::from(SNAPSHOT_LEVEL)).map_or(&[], Vec::as_slice))
}

fn eligible(file: &FileInfo, target: Target) -> bool {
    match target {
        Target::Latest => true,
        Target::Txid(wanted) => file.id.max <= wanted,
        Target::Timestamp(bound_ms) => file.created_at_ms < bound_ms,
    }
}

/// Appends files while one reaches beyond the cover; `candidates` ascend by
/// their first TXID, so each is looked at once.
fn extend(files: &mut Vec<FileInfo>, candidates: &[&FileInfo], mut cover: Txid) -> Txid {
    let mut rest = candidates.iter().peekable();
    let mut best: Option<&FileInfo> = None;
    loop {
        while let Some(file) = rest.next_if(|f| f.id.min.0 <= cover.0.saturating_add(1)) {
            if best.is_none_or(|b| rank(file) > rank(b)) {
                best = Some(file);
            }
        }
        match best {
            Some(file) if file.id.max > cover => {
                cover = file.id.max;
                files.push(*file);
            }
            _ => return cover,
        }
    }
}

/// Greater is better: furthest reach, then widest, then higher level, then
/// earlier creation.
fn rank(file: &FileInfo) -> impl Ord {
    use std::cmp::Reverse;
    (file.id.max, Reverse(file.id.min), file.id.level, Reverse(file.created_at_ms))
}

fn check_gap(candidates: &[&FileInfo], cover: Txid) -> Result<()> {
    match behind_gap(candidates, cover) {
        None => Ok(()),
        Some(next) => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "non-contiguous ltx files: have up to {cover} but next file starts at {}; \
                 restore what precedes the gap with -txid or -timestamp",
                next.id.min
            ),
        )),
    }
}

fn not_available(target: Target) -> Error {
    let text = match target {
        Target::Txid(txid) => {
            format!("transaction not available: no chain of files ends at {txid}")
        }
        _ => "transaction not available".to_owned(),
    };
    Error::new(ErrorKind::NotFound, text)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
