//! Threads and tasks of a simulated world: each is a thread of which the world
//! lets exactly one run at a time.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, Either, select};

use super::Died;
use crate::clock::Clock;
use crate::log::Level;
use crate::os::disk::simulated::Disk;
use crate::replica_client::ReplicaClient;

/// How long a thread that found a mutex locked stays away from it.
const LOCK_PAUSE: Duration = Duration::from_micros(20);

/// What a simulation provides. Every call comes from a thread that [`enter`]ed
/// the world, and only one of them runs at a time.
///
/// When the caller's process was killed, every method that may let others run
/// panics with [`Killed`], unless the thread is unwinding already.
pub trait World: Send + Sync {
    /// A clock that never goes back.
    fn now(&self) -> Instant;
    /// Wall clock, milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// 64 random bits.
    fn random(&self) -> u64;
    /// Number of the caller's process; no two processes of a world share one.
    fn process_id(&self) -> u32;
    /// Whether a process of this number lives.
    fn is_alive(&self, process: u32) -> bool;
    /// Tells one boot of the simulated machine from another.
    fn boot_id(&self) -> [u8; 16];
    /// Puts the caller to sleep until `key` is woken or `timeout` passed.
    fn wait(&self, key: usize, timeout: Option<Duration>);
    /// Wakes everybody who waits for `key`.
    fn wake(&self, key: usize);
    /// Wakes `waker` at `at`.
    fn wake_at(&self, at: Instant, waker: Waker);
    /// Starts a thread in the caller's process.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>);
    /// The file system that the caller sees.
    fn disk(&self) -> Arc<dyn Disk>;
    /// The storage behind a URL of the scheme `sim`.
    fn storage(&self, url: &str) -> Arc<dyn ReplicaClient>;
    /// Takes a message of the library.
    fn log(&self, level: Level, message: &str);
}

/// The payload of the panics that end the threads of a killed process.
#[derive(Debug, Clone, Copy)]
pub struct Killed;

thread_local! {
    static WORLD: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// Makes the calling thread part of `world` (`None`: of the real one).
pub fn enter(world: Option<Arc<dyn World>>) {
    WORLD.with(|w| *w.borrow_mut() = world);
}

/// The world of the calling thread.
pub fn current() -> Option<Arc<dyn World>> {
    WORLD.try_with(|w| w.borrow().clone()).ok().flatten()
}

pub(super) fn lock<'a, T>(world: &dyn World, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => world.wait(0, Some(LOCK_PAUSE)),
        }
    }
}

pub(super) fn wait<'a, T>(
    world: &dyn World,
    key: usize,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    timeout: Option<Duration>,
) -> MutexGuard<'a, T> {
    drop(guard);
    world.wait(key, timeout);
    lock(world, mutex)
}

/// The clocks of a world.
pub(super) struct WorldClock(pub Arc<dyn World>);

impl fmt::Debug for WorldClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorldClock")
    }
}

impl Clock for WorldClock {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn monotonic(&self) -> Instant {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(Sleep::new(Arc::clone(&self.0), duration))
    }

    fn sleep_blocking(&self, duration: Duration) {
        self.0.wait(0, Some(duration));
    }
}

/// Completes at a time of its world.
pub(super) struct Sleep {
    world: Arc<dyn World>,
    at: Instant,
}

impl Sleep {
    pub(super) fn new(world: Arc<dyn World>, duration: Duration) -> Sleep {
        let at = world.now() + duration;
        Sleep { world, at }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.at {
            return Poll::Ready(());
        }
        self.world.wake_at(self.at, cx.waker().clone());
        Poll::Pending
    }
}

pub(super) async fn timeout<T>(
    world: Arc<dyn World>,
    duration: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    match select(pin!(work), Sleep::new(world, duration)).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// Wakes the thread that polls a future.
struct Bell {
    world: Arc<dyn World>,
    rung: AtomicBool,
}

impl Bell {
    fn key(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.world.wake(self.key());
    }
}

/// Runs a future to its end on the calling thread, which belongs to a world.
///
/// # Panics
/// Outside a world.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let Some(world) = current() else { panic!("a simulated future outside its world") };
    let bell = Arc::new(Bell { world: Arc::clone(&world), rung: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&bell));
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(value) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        while !bell.rung.swap(false, Ordering::SeqCst) {
            world.wait(bell.key(), None);
        }
    }
}

/// What a task and those who wait for it share.
struct Shared<T> {
    result: Option<std::result::Result<T, Died>>,
    waiter: Option<Waker>,
}

/// A task on a thread of its own.
pub(super) struct Task<T> {
    shared: Arc<Mutex<Shared<T>>>,
    control: Arc<Control>,
}

/// What cuts a task off, and tells that it ended.
#[derive(Default)]
struct Control {
    aborted: AtomicBool,
    ended: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Control {
    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

impl<T> Task<T> {
    pub(super) fn abort(&self) {
        self.control.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = std::result::Result<T, Died>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                shared.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Starts `work` on a thread; `runtime` is what its own tasks belong to.
fn start<T: Send + 'static>(
    world: &Arc<dyn World>,
    name: &str,
    runtime: Option<Runtime>,
    control: Arc<Control>,
    work: impl FnOnce() -> std::result::Result<T, Died> + Send + 'static,
) -> Task<T> {
    let shared = Arc::new(Mutex::new(Shared { result: None, waiter: None }));
    let (for_thread, ends) = (Arc::clone(&shared), Arc::clone(&control));
    let run = move || {
        RUNTIME.with(|r| *r.borrow_mut() = runtime);
        let done = catch_unwind(AssertUnwindSafe(work));
        RUNTIME.with(|r| r.borrow_mut().take());
        let killed = done.as_ref().is_err_and(|payload| payload.is::<Killed>());
        let result = done.unwrap_or(Err(Died { panicked: !killed }));
        ends.ended.store(true, Ordering::SeqCst);
        let waiter = {
            let mut shared = for_thread.lock().unwrap_or_else(PoisonError::into_inner);
            shared.result = Some(result);
            shared.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        if killed {
            resume_unwind(Box::new(Killed));
        }
    };
    world.spawn(name, Box::new(run));
    Task { shared, control }
}

pub(super) fn spawn<T: Send + 'static>(
    world: &Arc<dyn World>,
    work: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    Runtime::current(Arc::clone(world)).spawn(work)
}

pub(super) fn spawn_blocking<T: Send + 'static>(
    world: &Arc<dyn World>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Task<T> {
    Runtime::current(Arc::clone(world)).spawn_blocking(name, work)
}

/// The tasks that are cut off together.
#[derive(Clone)]
pub(super) struct Runtime {
    world: Arc<dyn World>,
    tasks: Arc<Mutex<Vec<Arc<Control>>>>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

impl Runtime {
    pub(super) fn new(world: Arc<dyn World>) -> Runtime {
        Runtime { world, tasks: Arc::default() }
    }

    /// That of the calling task; a new one elsewhere.
    pub(super) fn current(world: Arc<dyn World>) -> Runtime {
        RUNTIME.with(|r| r.borrow().clone()).unwrap_or_else(|| Runtime::new(world))
    }

    fn register(&self) -> Arc<Control> {
        let control = Arc::new(Control::default());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|c| !c.ended.load(Ordering::SeqCst));
        tasks.push(Arc::clone(&control));
        control
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let control = self.register();
        let watched = Arc::clone(&control);
        let run = move || {
            let mut work = Box::pin(work);
            block_on(std::future::poll_fn(move |cx| {
                if watched.aborted.load(Ordering::SeqCst) {
                    return Poll::Ready(Err(Died { panicked: false }));
                }
                let waker = cx.waker().clone();
                *watched.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
                work.as_mut().poll(cx).map(Ok)
            }))
        };
        start(&self.world, "task", Some(self.clone()), control, run)
    }

    pub(super) fn spawn_blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        let control = self.register();
        start(&self.world, name, Some(self.clone()), control, move || Ok(work()))
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        let before = RUNTIME.with(|r| r.borrow_mut().replace(self.clone()));
        let value = block_on(work);
        RUNTIME.with(|r| *r.borrow_mut() = before);
        value
    }

    pub(super) fn shutdown(self, timeout: Duration) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(|task| task.abort());
        let deadline = self.world.now() + timeout;
        let busy = || tasks.iter().any(|task| !task.ended.load(Ordering::SeqCst));
        while busy() && self.world.now() < deadline {
            self.world.wait(0, Some(Duration::from_millis(1)));
        }
    }
}
