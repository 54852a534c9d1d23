//! Threads, tasks, waiting and telling time, for everything below the hosts'
//! callbacks: nothing else in the core starts a thread or a task, sleeps, waits
//! for a signal or asks what time it is.
//!
//! In a release build these are the standard library and tokio, with nothing in
//! between. With the feature `simulation`, and only on a thread that belongs to
//! a simulated world, the world does it ([`simulated::World`]): it decides who
//! runs next and how late it is, and can do so again.

#[cfg(feature = "simulation")]
pub mod simulated;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock::{Clock, Random, SeededRandom, SystemClock};
use crate::error::{Error, ErrorKind, Result};

/// Runs `$there` with the world that this thread belongs to, if it does.
macro_rules! in_world {
    ($world:ident => $there:expr) => {
        #[cfg(feature = "simulation")]
        if let Some($world) = simulated::current() {
            return $there;
        }
    };
}

/// A clock that never goes back.
#[inline]
pub fn now() -> Instant {
    in_world!(world => world.now());
    Instant::now()
}

/// The clocks of this thread's world.
pub(crate) fn clock() -> Arc<dyn Clock> {
    in_world!(world => Arc::new(simulated::WorldClock(world)));
    Arc::new(SystemClock)
}

/// Random numbers of this thread's world.
pub(crate) fn random() -> Arc<dyn Random> {
    in_world!(world => Arc::new(SeededRandom::new(world.random())));
    Arc::new(SeededRandom::from_system())
}

/// Number of this process.
pub fn process_id() -> u32 {
    in_world!(world => world.process_id());
    std::process::id()
}

/// Whether a process of this number exists. Another one may have it by now.
pub(crate) fn is_alive(process: u32) -> bool {
    in_world!(world => world.is_alive(process));
    let Some(pid) = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Blocks the calling thread.
pub fn sleep_blocking(duration: Duration) {
    in_world!(world => world.wait(0, Some(duration)));
    std::thread::sleep(duration);
}

/// Locks; what a panic left behind is checked by the users of the state, and
/// faults are reported elsewhere.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    in_world!(world => simulated::lock(&*world, mutex));
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A condition variable.
#[derive(Debug, Default)]
pub(crate) struct Signal(Condvar);

impl Signal {
    /// Gives `guard` (of `mutex`) up until a notification.
    pub(crate) fn wait<'a, T>(
        &self,
        mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        in_world!(world => simulated::wait(&*world, self.key(), mutex, guard, None));
        let _ = mutex;
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Signal::wait`], for at most `timeout`.
    pub(crate) fn wait_for<'a, T>(
        &self,
        mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        in_world!(world => simulated::wait(&*world, self.key(), mutex, guard, Some(timeout)));
        let _ = mutex;
        match self.0.wait_timeout(guard, timeout) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    /// Wakes all who wait.
    pub(crate) fn notify_all(&self) {
        in_world!(world => world.wake(self.key()));
        self.0.notify_all();
    }

    #[cfg(feature = "simulation")]
    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// A thread of ours.
#[derive(Debug)]
pub(crate) struct Thread(ThreadKind);

#[derive(Debug)]
enum ThreadKind {
    Real(std::thread::JoinHandle<()>),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Task<()>),
}

impl Thread {
    /// Starts a thread with a small stack.
    pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        in_world!(world => {
            Ok(Thread(ThreadKind::Simulated(simulated::spawn_blocking(&world, name, work))))
        });
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(512 << 10)
            .spawn(work)
            .map(|thread| Thread(ThreadKind::Real(thread)))
    }

    /// Waits for its end. A panic of the thread was reported where it happened.
    pub(crate) fn join(self) {
        match self.0 {
            ThreadKind::Real(thread) => drop(thread.join()),
            #[cfg(feature = "simulation")]
            ThreadKind::Simulated(task) => drop(simulated::block_on(task)),
        }
    }
}

/// A task that ended without its result: it panicked, or was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Died {
    /// It panicked.
    pub panicked: bool,
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.panicked { "the task panicked" } else { "the task was cut off" })
    }
}

impl std::error::Error for Died {}

/// A task or a piece of blocking work, to be awaited.
#[derive(Debug)]
pub(crate) struct Task<T>(TaskKind<T>);

#[derive(Debug)]
enum TaskKind<T> {
    Real(tokio::task::JoinHandle<T>),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Task<T>),
}

impl<T> Task<T> {
    /// Cuts it off at its next await.
    pub(crate) fn abort(&self) {
        match &self.0 {
            TaskKind::Real(task) => task.abort(),
            #[cfg(feature = "simulation")]
            TaskKind::Simulated(task) => task.abort(),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = std::result::Result<T, Died>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            TaskKind::Real(task) => {
                Pin::new(task).poll(cx).map_err(|e| Died { panicked: e.is_panic() })
            }
            #[cfg(feature = "simulation")]
            TaskKind::Simulated(task) => Pin::new(task).poll(cx),
        }
    }
}

/// Starts a task beside the calling one.
pub(crate) fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
    in_world!(world => Task(TaskKind::Simulated(simulated::spawn(&world, work))));
    Task(TaskKind::Real(tokio::spawn(work)))
}

/// Runs work that blocks, beside the calling task.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Task<T> {
    in_world!(world => {
        Task(TaskKind::Simulated(simulated::spawn_blocking(&world, "blocking", work)))
    });
    Task(TaskKind::Real(tokio::task::spawn_blocking(work)))
}

/// Completes after `duration`.
pub(crate) async fn sleep(duration: Duration) {
    in_world!(world => simulated::Sleep::new(world, duration).await);
    tokio::time::sleep(duration).await;
}

/// The result of `work`, or `None` when `duration` passes first.
pub(crate) async fn timeout<T>(duration: Duration, work: impl Future<Output = T>) -> Option<T> {
    in_world!(world => simulated::timeout(world, duration, work).await);
    tokio::time::timeout(duration, work).await.ok()
}

/// Sends from a thread that may block; false when the receiver is gone.
pub(crate) fn send<T>(sender: &mpsc::Sender<T>, value: T) -> bool {
    in_world!(_world => simulated::block_on(sender.send(value)).is_ok());
    sender.blocking_send(value).is_ok()
}

/// Receives on a thread that may block; `None` when every sender is gone.
pub(crate) fn receive<T>(receiver: &mut mpsc::Receiver<T>) -> Option<T> {
    in_world!(_world => simulated::block_on(receiver.recv()));
    receiver.blocking_recv()
}

/// Whoever can start tasks.
pub trait Spawn {
    /// Starts a task whose result nobody wants; it is cut off when the returned
    /// guard is dropped.
    fn spawn_guarded(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> Guard;
}

/// Cuts a task off when dropped.
#[derive(Debug)]
pub struct Guard(Task<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Spawn for tokio::runtime::Handle {
    fn spawn_guarded(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> Guard {
        Guard(Task(TaskKind::Real(self.spawn(work))))
    }
}

/// The upload threads.
#[derive(Debug)]
pub(crate) struct Runtime(RuntimeKind);

#[derive(Debug)]
enum RuntimeKind {
    Real(tokio::runtime::Runtime),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Runtime),
}

impl Runtime {
    /// Starts them.
    pub(crate) fn start() -> Result<Runtime> {
        in_world!(world => Ok(Runtime(RuntimeKind::Simulated(simulated::Runtime::new(world)))));
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8)
            .thread_keep_alive(Duration::from_secs(1))
            .thread_name("litestream-io")
            .thread_stack_size(1 << 20)
            .enable_io()
            .enable_time()
            .build()
            .map(|runtime| Runtime(RuntimeKind::Real(runtime)))
            .map_err(|e| {
                Error::new(ErrorKind::Internal, "cannot start the upload threads").with_source(e)
            })
    }

    /// A way to start tasks on them.
    pub(crate) fn handle(&self) -> Handle {
        Handle(match &self.0 {
            RuntimeKind::Real(runtime) => HandleKind::Real(runtime.handle().clone()),
            #[cfg(feature = "simulation")]
            RuntimeKind::Simulated(runtime) => HandleKind::Simulated(runtime.clone()),
        })
    }

    /// Cuts every task off and waits at most `timeout` for blocking work.
    pub(crate) fn shutdown_timeout(self, timeout: Duration) {
        match self.0 {
            RuntimeKind::Real(runtime) => runtime.shutdown_timeout(timeout),
            #[cfg(feature = "simulation")]
            RuntimeKind::Simulated(runtime) => runtime.shutdown(timeout),
        }
    }
}

/// Starts tasks on the upload threads.
#[derive(Debug, Clone)]
pub(crate) struct Handle(HandleKind);

#[derive(Debug, Clone)]
enum HandleKind {
    Real(tokio::runtime::Handle),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Runtime),
}

impl Handle {
    /// That of the calling task.
    pub(crate) fn current() -> Handle {
        in_world!(world => Handle(HandleKind::Simulated(simulated::Runtime::current(world))));
        Handle(HandleKind::Real(tokio::runtime::Handle::current()))
    }

    /// Starts a task.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        Task(match &self.0 {
            HandleKind::Real(handle) => TaskKind::Real(handle.spawn(work)),
            #[cfg(feature = "simulation")]
            HandleKind::Simulated(runtime) => TaskKind::Simulated(runtime.spawn(work)),
        })
    }

    /// Runs work that blocks.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        Task(match &self.0 {
            HandleKind::Real(handle) => TaskKind::Real(handle.spawn_blocking(work)),
            #[cfg(feature = "simulation")]
            HandleKind::Simulated(runtime) => {
                TaskKind::Simulated(runtime.spawn_blocking("blocking", work))
            }
        })
    }

    /// Runs a future to its end, from a thread that is none of them.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.0 {
            HandleKind::Real(handle) => handle.block_on(work),
            #[cfg(feature = "simulation")]
            HandleKind::Simulated(runtime) => runtime.block_on(work),
        }
    }
}

impl Spawn for Handle {
    fn spawn_guarded(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> Guard {
        Guard(self.spawn(work))
    }
}
