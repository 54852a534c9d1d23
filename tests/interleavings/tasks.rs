//! What the library's `tasks` offers, in shuttle's world.

use std::io;
use std::time::{Duration, Instant};

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

#[derive(Default)]
pub(crate) struct Signal(Condvar);

impl Signal {
    pub(crate) fn wait<'a, T>(
        &self,
        _: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap()
    }

    /// Time stands still: only a notification ends this.
    pub(crate) fn wait_for<'a, T>(
        &self,
        _: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

pub(crate) struct Thread(shuttle::thread::JoinHandle<()>);

impl Thread {
    pub(crate) fn spawn(_: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        Ok(Thread(shuttle::thread::spawn(work)))
    }

    pub(crate) fn join(self) {
        self.0.join().unwrap();
    }
}
