//! How often gaps may cost a full snapshot: a database that another program
//! keeps disturbing must not be copied whole every second.

use std::time::{Duration, Instant};

/// Pause after the first repair, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Without a repair for this long the pause begins small again.
const QUIET: Duration = Duration::from_secs(300);

/// Pauses between repairs that double while they keep coming.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
    pause: Duration,
}

impl Pace {
    /// How long a repair has to wait still, for a pause of at most `longest`.
    pub(crate) fn wait(&self, now: Instant, longest: Duration) -> Duration {
        match self.last {
            Some(last) => {
                self.pause.min(longest).saturating_sub(now.saturating_duration_since(last))
            }
            None => Duration::ZERO,
        }
    }

    /// A repair was done.
    pub(crate) fn done(&mut self, now: Instant) {
        let quiet = self.last.is_none_or(|last| now.saturating_duration_since(last) > QUIET);
        self.pause = if quiet { PAUSES.0 } else { (self.pause * 2).min(PAUSES.1) };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full copy of the database was once made at every checkpoint.
    #[test]
    fn r_07_repairs_slow_down_while_they_keep_coming() {
        let start = Instant::now();
        let (mut pace, mut now, mut repairs) = (Pace::default(), start, 0);
        while now < start + Duration::from_secs(1800) {
            now += pace.wait(now, Duration::MAX);
            pace.done(now);
            repairs += 1;
            now += Duration::from_millis(10);
        }
        assert!(repairs < 40, "{repairs} full copies in half an hour");
        now += QUIET * 2;
        pace.done(now);
        assert_eq!(pace.wait(now, Duration::MAX), PAUSES.0);
    }

    /// A gap that came again after each repair kept a processor busy at a close.
    #[test]
    fn repairs_wait_at_a_close_too() {
        let (mut pace, now, longest) =
            (Pace::default(), Instant::now(), Duration::from_millis(250));
        assert_eq!(pace.wait(now, longest), Duration::ZERO);
        for _ in 0..5 {
            pace.done(now);
            assert_eq!(pace.wait(now, longest), longest);
        }
        assert_eq!(pace.wait(now + longest, longest), Duration::ZERO);
    }
}
