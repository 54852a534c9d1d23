//! The poller of one source: a task that looks for new files while a session
//! follows, and when it is told to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::build::build;
use super::follow::Follow;
use super::source::Source;
use super::state::View;
use crate::error::{Error, ErrorKind};
use crate::plan::Target;
use crate::tasks;

/// While polls fail the pauses between them double up to this, or to the
/// interval if that is longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);

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

/// Follows until the source is dropped.
pub(crate) async fn run(source: Arc<Source>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut follow = Follow::default();
    let (mut followers, mut failures) = (0_i32, 0);
    loop {
        let first = if followers > 0 {
            match tasks::timeout(pause(source.poll_interval, failures), commands.recv()).await {
                Some(None) => return,
                Some(command) => command,
                None => None,
            }
        } else {
            match commands.recv().await {
                None => return,
                command => command,
            }
        };
        let (mut waiting, mut told, due) = (Vec::new(), first, followers > 0);
        let ticked = told.is_none();
        while let Some(command) = told {
            match command {
                Command::Poll(reply) => waiting.push(reply),
                Command::List(reply) => {
                    follow.distrust();
                    waiting.push(reply);
                }
                Command::Followers(change) => followers += change,
            }
            told = commands.try_recv().ok();
        }
        if waiting.is_empty() && !(due && ticked) {
            continue;
        }
        let outcome = poll(&source, &mut follow).await;
        failures = outcome.as_ref().err().map_or(0, |failed| failed.0);
        let outcome = outcome.map_err(|failed| failed.1);
        for reply in waiting {
            // Who asked may have gone.
            let _ = reply.send(outcome.clone());
        }
    }
}

/// One poll; a failure comes with the number of failures in a row.
async fn poll(
    source: &Source,
    follow: &mut Follow,
) -> std::result::Result<Option<Arc<View>>, (u32, Problem)> {
    let result = match source.newest() {
        None => first(source, follow).await,
        Some(view) => next(source, follow, view).await.map(Some),
    };
    result.map_err(|e| (source.failed(&e), Problem::of(&e)))
}

async fn first(source: &Source, follow: &mut Follow) -> crate::Result<Option<Arc<View>>> {
    let Some(built) = build(&source.files, Target::Latest).await? else { return Ok(None) };
    let view = source.publish(built.view, &built.loaded);
    source.succeeded(built.gap.as_deref(), None);
    *follow = Follow::begin(&built.loaded, built.gap);
    Ok(Some(view))
}

async fn next(source: &Source, follow: &mut Follow, view: Arc<View>) -> crate::Result<Arc<View>> {
    let found = follow.poll(&source.files, &view, tasks::now()).await?;
    let view = match found.view {
        Some(newer) => source.publish(newer, &found.loaded),
        None => view,
    };
    source.succeeded(found.gap.as_deref(), found.restarted.as_deref());
    Ok(view)
}

fn pause(interval: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    interval.saturating_mul(factor).min(PAUSE_MAX.max(interval))
}
