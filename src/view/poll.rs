//! The poller of one source: a task that looks for new files while a session
//! follows, and when it is told to.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

use super::build::{build, build_kept};
use super::follow::Follow;
use super::source::Source;
use super::state::View;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Target;
use crate::tasks;

/// While polls fail the pauses between them double up to this, or to the
/// interval if that is longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A poll that finds more files than it takes at once goes on so often.
const BURSTS_MAX: u32 = 64;

/// What a poller is told.
pub(crate) enum Command {
    /// Poll now, and say what the newest view is.
    Poll(oneshot::Sender<Outcome>),
    /// The same by listing all levels.
    List(oneshot::Sender<Outcome>),
    /// So many more sessions follow.
    Followers(i32),
}

/// The newest view, none of an empty replica; or why the poll failed.
pub(crate) type Outcome = std::result::Result<Option<Arc<View>>, Problem>;

/// An error that several can be told.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    kind: ErrorKind,
    text: String,
}

impl Problem {
    fn of(error: &Error) -> Problem {
        Problem { kind: error.kind(), text: error.to_string() }
    }

    /// The error.
    pub(crate) fn into_error(self) -> Error {
        Error::new(self.kind, self.text)
    }
}

/// What the poller has to do.
struct Poller {
    source: Arc<Source>,
    follow: Follow,
    followers: i32,
    /// When to poll next; none while nobody follows.
    due: Option<Instant>,
    /// Who waits for the next poll.
    waiting: Vec<oneshot::Sender<Outcome>>,
}

/// Follows until the source is dropped.
pub(crate) async fn run(source: Arc<Source>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let (follow, waiting) = (Follow::default(), Vec::new());
    let mut poller = Poller { source, follow, followers: 0, due: None, waiting };
    while poller.hear(&mut commands).await {
        if poller.waiting.is_empty() && poller.due.is_none_or(|due| due > tasks::now()) {
            continue;
        }
        let (outcome, failures) = poller.poll().await;
        for reply in poller.waiting.drain(..) {
            // Who asked may have gone.
            let _ = reply.send(outcome.clone());
        }
        poller.set_due(failures);
    }
}

impl Poller {
    /// Waits for commands, or for the next poll; false when there will be none.
    async fn hear(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> bool {
        let mut told = match self.due {
            None => match commands.recv().await {
                None => return false,
                command => command,
            },
            Some(due) => {
                let left = due.saturating_duration_since(tasks::now());
                match tasks::timeout(left, commands.recv()).await {
                    Some(None) => return false,
                    command => command.flatten(),
                }
            }
        };
        while let Some(command) = told {
            self.take(command);
            told = commands.try_recv().ok();
        }
        true
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Poll(reply) => self.waiting.push(reply),
            Command::List(reply) => {
                self.follow.distrust();
                self.waiting.push(reply);
            }
            Command::Followers(change) => {
                let before = self.followers;
                self.followers += change;
                if before <= 0 || self.followers <= 0 {
                    self.set_due(0);
                }
            }
        }
    }

    fn set_due(&mut self, failures: u32) {
        let pause = pause(self.source.poll_interval, failures);
        self.due = (self.followers > 0).then(|| tasks::now() + pause);
    }

    /// One poll, and how many failed in a row.
    async fn poll(&mut self) -> (Outcome, u32) {
        let polled = AssertUnwindSafe(poll(&self.source, &mut self.follow)).catch_unwind().await;
        let result = polled.unwrap_or_else(|_| {
            // What it left behind is not trusted.
            self.follow = Follow::default();
            self.follow.distrust();
            Err(Error::new(ErrorKind::Internal, "the poller panicked"))
        });
        match result {
            Ok(view) => (Ok(view), 0),
            Err(e) => (Err(Problem::of(&e)), self.source.failed(&e)),
        }
    }
}

async fn poll(source: &Source, follow: &mut Follow) -> Result<Option<Arc<View>>> {
    match source.newest() {
        None => first(source, follow).await,
        Some(view) => next(source, follow, view).await.map(Some),
    }
}

async fn first(source: &Source, follow: &mut Follow) -> Result<Option<Arc<View>>> {
    let built = match build(&source.files, Target::Latest).await {
        Err(e) if source.offline && e.kind() == ErrorKind::Transient => {
            return without_storage(source, follow, e).await;
        }
        other => other?,
    };
    let Some(built) = built else { return Ok(None) };
    source.files.keep_chain(&built.loaded, true);
    let view = source.publish(built.view, &built.loaded);
    source.succeeded(built.gap.as_deref(), None);
    *follow = Follow::begin(&built.loaded, built.gap);
    Ok(Some(view))
}

/// The last view that the cache directory knows, because of `error`. It was not found to be
/// the newest, and following begins with a listing.
async fn without_storage(
    source: &Source,
    follow: &mut Follow,
    error: Error,
) -> Result<Option<Arc<View>>> {
    let built = match build_kept(&source.files).await {
        Ok(Some(built)) => built,
        Ok(None) => return Err(error.context("nothing was kept to open it offline")),
        Err(e) => return Err(e.context("what was kept does not open it offline")),
    };
    source.failed(&error);
    let view = source.publish(built.view, &built.loaded);
    *follow = Follow::begin(&built.loaded, built.gap);
    follow.distrust();
    Ok(Some(view))
}

async fn next(source: &Source, follow: &mut Follow, mut view: Arc<View>) -> Result<Arc<View>> {
    for _ in 0..BURSTS_MAX {
        let found = follow.poll(&source.files, &view, tasks::now()).await?;
        if let Some(newer) = found.view {
            source.files.keep_chain(&found.loaded, found.restarted.is_some());
            view = source.publish(newer, &found.loaded);
        }
        source.succeeded(found.gap.as_deref(), found.restarted.as_deref());
        if !found.more {
            break;
        }
    }
    Ok(view)
}

fn pause(interval: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    interval.saturating_mul(factor).min(PAUSE_MAX.max(interval))
}
