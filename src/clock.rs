//! Time, sleeping and randomness, injected so that a simulation can own them.

use std::collections::hash_map::RandomState;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;

/// A source of time and of sleeps.
pub trait Clock: Send + Sync + Debug {
    /// Wall clock, milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// A clock that never goes back; compare only with itself.
    fn monotonic(&self) -> Instant;

    /// Completes after `duration`; needs a tokio runtime with timers.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Blocks the calling thread for `duration`.
    fn sleep_blocking(&self, duration: Duration);
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(d) => i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            Err(e) => -i64::try_from(e.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn sleep_blocking(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A clock that moves only when told to, or when something sleeps on it.
#[derive(Debug)]
pub struct ManualClock {
    origin: Instant,
    start_ms: i64,
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// A clock that shows `start_ms` (Unix milliseconds).
    pub fn new(start_ms: i64) -> Self {
        ManualClock { origin: Instant::now(), start_ms, elapsed: Mutex::new(Duration::ZERO) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.start_ms + i64::try_from(self.lock().as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Instant {
        self.origin + *self.lock()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.advance(duration);
        Box::pin(std::future::ready(()))
    }

    fn sleep_blocking(&self, duration: Duration) {
        self.advance(duration);
    }
}

/// A source of random numbers for jitter and for injected faults; not for secrets.
pub trait Random: Send + Sync + Debug {
    /// 64 uniformly distributed bits.
    fn next_u64(&self) -> u64;

    /// A number in `[0, 1)`.
    fn unit(&self) -> f64 {
        // 53 bits fill the mantissa exactly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// SplitMix64: small, fast, and the same sequence for the same seed.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        SeededRandom(AtomicU64::new(seed))
    }

    /// A sequence that differs between processes and calls.
    pub fn from_system() -> Self {
        SeededRandom::new(RandomState::new().build_hasher().finish())
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_by_sleeping() {
        let clock = ManualClock::new(1_000);
        let before = clock.monotonic();
        clock.sleep_blocking(Duration::from_millis(250));
        assert_eq!(clock.now_ms(), 1_250);
        assert_eq!(clock.monotonic() - before, Duration::from_millis(250));
    }

    #[test]
    fn seeded_random_repeats_and_stays_in_range() {
        let (a, b) = (SeededRandom::new(7), SeededRandom::new(7));
        for _ in 0..1_000 {
            let x = a.unit();
            assert_eq!(x, b.unit());
            assert!((0.0..1.0).contains(&x));
        }
    }
}
