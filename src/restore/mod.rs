//! Rebuilding a database from its replica.
//!
//! [`replay`] delivers the pages of a state to any [`PageSink`]; [`restore`]
//! plans, replays into a temporary file, has it checked and puts it in place.
//! What was at the output path stays until then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};
use crate::ltx::Pgno;
use crate::os::replace::Replacement;
use crate::plan::{RestorePlan, Target, calc_restore_plan, list_levels_with};
use crate::replica_client::retry::{Retrier, RetryPolicy};
use crate::replica_client::{FileInfo, ReplicaClient};
use crate::tasks;

mod fetch;
mod pages;
mod replay;
mod writer;

pub use fetch::PARALLELISM_MAX;
pub(crate) use pages::PageSet;
pub(crate) use replay::replay_changes;
pub use replay::{ReplaySummary, replay};

/// Downloads under way at once, unless told otherwise.
pub const PARALLELISM_DEFAULT: usize = 8;
/// A restore plans anew this often when files of its plan were deleted by
/// retention or compaction while it read them.
const PLANS_MAX: u32 = 5;

/// Some ten seconds of one request failing before its error counts.
const RETRIES: RetryPolicy =
    RetryPolicy { attempts: 8, base: Duration::from_millis(100), cap: Duration::from_secs(8) };

/// Receives the pages of a state.
pub trait PageSink {
    /// Called once, before the first page: bytes per page and size in pages.
    ///
    /// # Errors
    /// Any; ends the replay.
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()>;

    /// One page, `1 <= pgno <= commit`, never the lock page and none twice.
    ///
    /// # Errors
    /// Any; ends the replay.
    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()>;
}

/// Follows a replay; called from threads of the runtime and of the caller.
pub trait Progress: Send + Sync {
    /// A replay of `bytes` stored bytes in `files` files begins, perhaps anew.
    fn begin(&self, bytes: u64, files: usize) {
        let _ = (bytes, files);
    }

    /// That many more stored bytes were read.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Everything was read; the file is made durable and checked.
    fn finishing(&self) {}
}

/// Progress that nobody follows.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}

/// How [`replay`] works.
#[derive(Clone)]
pub struct ReplayOptions {
    /// Requests under way at once, 1 to 64.
    pub parallelism: usize,
    /// Who is told.
    pub progress: Arc<dyn Progress>,
    /// How listings and downloads that fail for a moment are repeated.
    pub retrier: Retrier,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        ReplayOptions {
            parallelism: PARALLELISM_DEFAULT,
            progress: Arc::new(NoProgress),
            retrier: Retrier { policy: RETRIES, clock: tasks::clock(), random: tasks::random() },
        }
    }
}

/// Examines a complete database file before it is put in place.
pub type Check<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// What [`restore`] does.
pub struct RestoreOptions<'a> {
    /// Where the database goes.
    pub output: PathBuf,
    /// Which state.
    pub target: Target,
    /// Refuse a timestamp before the oldest or after the newest file instead
    /// of taking the nearest earlier state.
    pub within_bounds: bool,
    /// Replace what is at `output`, sidecars included.
    pub force: bool,
    /// How files are read.
    pub replay: ReplayOptions,
    /// Runs on the finished temporary file; its error ends the restore.
    pub check: Option<Check<'a>>,
}

/// Restores a database to `options.output`.
///
/// The output is written under a temporary name, made durable and checked
/// before it takes its place; on any error the output path and its sidecars are
/// as before. Blocks like [`replay`].
///
/// # Errors
/// `AlreadyExists` when the output exists and `force` is not set; `NotFound`
/// when the replica has nothing for the target; those of [`replay`] and of the
/// check.
pub fn restore(
    client: &Arc<dyn ReplicaClient>,
    rt: &Handle,
    options: &RestoreOptions<'_>,
) -> Result<ReplaySummary> {
    let out = Replacement::create(&options.output, options.force)?;
    let summary = replay_planned(client, rt, options, &out)?;
    if let Some(check) = options.check {
        check(out.tmp_path())?;
    }
    out.publish()?;
    Ok(summary)
}

/// Plans and replays, again when a planned file was deleted in the meantime.
fn replay_planned(
    client: &Arc<dyn ReplicaClient>,
    rt: &Handle,
    options: &RestoreOptions<'_>,
    out: &Replacement,
) -> Result<ReplaySummary> {
    let mut attempt = 1;
    loop {
        let plan = plan(
            client.as_ref(),
            rt,
            options.target,
            options.within_bounds,
            &options.replay.retrier,
        )?;
        let mut writer = writer::DatabaseWriter::new(out);
        match replay(client.clone(), rt, &plan, &options.replay, &mut writer) {
            Ok(summary) => {
                options.replay.progress.finishing();
                writer.finish()?;
                return Ok(summary);
            }
            Err(e) if e.kind() == ErrorKind::NotFound && attempt < PLANS_MAX => attempt += 1,
            // `NotFound` would say that there is nothing to restore.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(e.with_kind(ErrorKind::Transient).context(format_args!(
                    "files of the replica keep disappearing while they are read; \
                     gave up after {PLANS_MAX} plans"
                )));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Lists the replica and chooses the files for `target`.
///
/// # Errors
/// `NotFound`, and only then, when the replica has nothing for the target;
/// `InvalidInput` for a timestamp out of bounds when `within_bounds`; `Corrupt`
/// for a gap.
pub fn plan(
    client: &dyn ReplicaClient,
    rt: &Handle,
    target: Target,
    within_bounds: bool,
    retrier: &Retrier,
) -> Result<RestorePlan> {
    let metadata = matches!(target, Target::Timestamp(_));
    let levels = rt.block_on(list_levels_with(client, metadata, retrier)).map_err(|e| {
        if e.kind() == ErrorKind::NotFound { e.with_kind(ErrorKind::Denied) } else { e }
    })?;
    let url = client.url();
    if levels.iter().all(Vec::is_empty) {
        return Err(Error::new(ErrorKind::NotFound, format!("no backups found at {url}")));
    }
    if within_bounds && let Target::Timestamp(ms) = target {
        check_bounds(levels.iter().flatten(), ms)?;
    }
    calc_restore_plan(&levels, target).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            e.context(format_args!("no matching backup files available at {url}"))
        }
        _ => e.context(format_args!("cannot calc restore plan for {url}")),
    })
}

fn check_bounds<'a>(files: impl Iterator<Item = &'a FileInfo> + Clone, ms: i64) -> Result<()> {
    let times = files.map(|f| f.created_at_ms);
    let (oldest, newest) = (times.clone().min(), times.max());
    if oldest.is_some_and(|t| ms < t) || newest.is_some_and(|t| ms > t) {
        let text = |t: Option<i64>| crate::ltx::format_timestamp(t.unwrap_or_default());
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "timestamp does not exist: the replica's files are of {} to {}",
                text(oldest),
                text(newest)
            ),
        ));
    }
    Ok(())
}
