//! Real time: a seed whose world goes round without an end never ends by itself,
//! because nothing in it knows what time it is outside.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::world::{World, locked};

/// Lines of the story of a seed that does not end: it may have told millions.
const STORY_LINES: usize = 5_000;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);

struct Begun {
    seed: u64,
    at: Instant,
    world: Arc<World>,
}

static BEGUN: Mutex<Option<Begun>> = Mutex::new(None);

/// From here on this is the seed that may take no longer than the limit.
pub(crate) fn begin(seed: u64, world: &Arc<World>) {
    let world = Arc::clone(world);
    *locked(&BEGUN) = Some(Begun { seed, at: Instant::now(), world });
}

/// It came to its end.
pub(crate) fn end() {
    locked(&BEGUN).take();
}

/// Starts a thread that calls `late` with the seed that has been running for
/// longer than `limit` of real time, and the end of its story. Nothing else can
/// end that seed: `late` has to end the process.
///
/// # Errors
/// The thread could not be started.
pub fn watch(
    limit: Duration,
    late: impl Fn(u64, Vec<String>) + Send + 'static,
) -> std::io::Result<()> {
    let look = move || {
        loop {
            std::thread::sleep(LOOK);
            let found = locked(&BEGUN).as_ref().and_then(|begun| {
                let is_late = begun.at.elapsed() > limit;
                is_late.then(|| (begun.seed, Arc::clone(&begun.world)))
            });
            if let Some((seed, world)) = found {
                late(seed, world.story(STORY_LINES));
            }
        }
    };
    std::thread::Builder::new().name("watch".to_owned()).spawn(look).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Oracle;
    use crate::storage::Storage;
    use crate::world::Pace;

    #[test]
    fn a_seed_that_does_not_end_is_named() {
        let pace = Pace { switch_one_in: 2, step_ns_max: 500, fsync_us_max: 50 };
        let world = World::new(7, pace, Storage::new(7, 200), Oracle::new("/sim/a.db"));
        let (sender, receiver) = std::sync::mpsc::channel();
        watch(Duration::ZERO, move |seed, story| drop(sender.send((seed, story)))).unwrap();
        assert!(receiver.recv_timeout(LOOK * 3).is_err());
        begin(7, &world);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok((7, Vec::new())));
        end();
    }
}
