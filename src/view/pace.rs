//! How fast storage answers: what is slow, and how much a fault may bring.
//!
//! Bytes around a page cost time only where the line is slow. So faults begin small
//! and bring more as long as that takes hardly longer than a small one.

use std::time::Duration;

/// Answers whose duration is remembered.
const SAMPLES: usize = 32;
/// Answers that are enough to tell what is slow.
const SAMPLES_MIN: usize = 8;
/// A request is slow when it takes so many times the median,
const SLOW_FACTOR: u32 = 4;
/// but not before this,
const SLOW_MIN: Duration = Duration::from_millis(100);
/// and this while the median is not known.
const SLOW_UNKNOWN: Duration = Duration::from_secs(2);
/// So many bytes more may take as long again.
const SLOW_BYTES: u64 = 512 << 10;

/// What a fault brings at first, in bytes; doubled with each level.
const REACH_MIN: u64 = 64 << 10;
const LEVEL_MAX: u32 = 3;
/// Answers at one level that tell whether it is too much.
const TRIALS: u32 = 3;
/// One fault in so many is a small one, to compare with.
const PROBE_EVERY: u32 = 24;
/// A level is left for the next one up to the first, for the one below beyond the second
/// multiple of what a small fault takes.
const BOUNDS: (f64, f64) = (1.35, 1.8);
/// Weight of a new sample in an average.
const WEIGHT: f64 = 0.25;

/// How long answers took lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    samples: Vec<Duration>,
    next: usize,
    level: u32,
    /// Seconds that a small answer takes, and one of the present level.
    small: Option<f64>,
    present: Option<f64>,
    trials: u32,
    faults: u32,
}

fn average(of: &mut Option<f64>, sample: f64) {
    *of = Some(of.map_or(sample, |of| of + (sample - of) * WEIGHT));
}

impl Pace {
    /// An answer of `len` bytes to a fault took so long.
    pub(super) fn add(&mut self, len: u64, took: Duration) {
        if self.samples.len() < SAMPLES {
            self.samples.push(took);
        } else {
            self.samples[self.next] = took;
        }
        self.next = (self.next + 1) % SAMPLES;
        let reach = REACH_MIN << self.level;
        if len <= REACH_MIN {
            average(&mut self.small, took.as_secs_f64());
        }
        if len <= reach && len > reach / 2 {
            average(&mut self.present, took.as_secs_f64());
            self.trials += 1;
        }
        self.judge();
    }

    fn judge(&mut self) {
        let (Some(small), Some(present)) = (self.small, self.present) else { return };
        if self.trials < TRIALS {
            return;
        }
        let level = if present <= small * BOUNDS.0 {
            (self.level + 1).min(LEVEL_MAX)
        } else if present > small * BOUNDS.1 {
            self.level.saturating_sub(1)
        } else {
            self.level
        };
        if level != self.level {
            (self.level, self.trials, self.present) = (level, 0, None);
        }
    }

    /// How many bytes the next fault may bring.
    pub(super) fn reach(&mut self) -> u64 {
        self.faults = self.faults.wrapping_add(1);
        if self.faults.is_multiple_of(PROBE_EVERY) {
            return REACH_MIN;
        }
        REACH_MIN << self.level
    }

    /// How long an answer of `len` bytes may take before it is slow.
    pub(super) fn patience(&self, len: u64) -> Duration {
        if self.samples.len() < SAMPLES_MIN {
            return SLOW_UNKNOWN;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let patience = (sorted[sorted.len() / 2] * SLOW_FACTOR).max(SLOW_MIN);
        patience.mul_f64(1.0 + len as f64 / SLOW_BYTES as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_median() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(0), SLOW_UNKNOWN);
        for n in 0..SAMPLES_MIN as u64 {
            pace.add(1, Duration::from_millis(40 + n));
        }
        assert_eq!(pace.patience(0), Duration::from_millis(44) * SLOW_FACTOR);
        assert_eq!(pace.patience(SLOW_BYTES), Duration::from_millis(88) * SLOW_FACTOR);
        for _ in 0..SAMPLES {
            pace.add(1, Duration::from_millis(1));
        }
        assert_eq!(pace.patience(0), SLOW_MIN);
    }

    /// What faults bring on a line with this round trip and speed.
    fn settled(round_trip_ms: u64, bytes_per_ms: u64) -> u64 {
        let mut pace = Pace::default();
        for _ in 0..200 {
            let len = pace.reach();
            pace.add(len, Duration::from_millis(round_trip_ms + len / bytes_per_ms));
        }
        pace.reach().max(pace.reach())
    }

    #[test]
    fn faults_bring_what_costs_no_time() {
        assert_eq!(settled(30, 100_000), REACH_MIN << LEVEL_MAX);
        assert_eq!(settled(1, 1_000_000), REACH_MIN << LEVEL_MAX);
        assert!(settled(30, 12_000) <= 256 << 10);
        assert!(settled(30, 1_000) <= 128 << 10);
        assert!(settled(5, 1_000) <= 128 << 10);
    }
}
