//! The world: who runs, what time it is, who is alive.
//!
//! Every simulated thread is a thread with a stack of its own, but exactly one
//! runs at any moment: it passes the baton on where it waits or pauses, and the
//! seed draws who gets it. Time moves only here, so a seed replays exactly.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::{Thread, panicking, park};
use std::time::{Duration, Instant};

use litestream::log::Level;
use litestream::os::disk::simulated::Disk as DiskTrait;
use litestream::replica_client::ReplicaClient;
use litestream::tasks::simulated::{Killed, World as Seams, enter};

use crate::disk::{Disk, DiskView};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::storage::{Storage, StorageClient};

/// Wall clock at the start of every seed.
const EPOCH_MS: i64 = 1_800_000_000_000;
/// The process of the observer: it never dies, and no fault meets it.
pub const OBSERVER: u32 = 1;

/// How a seed schedules.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// One pause in this many lets another thread run.
    pub switch_one_in: u64,
    /// Longest duration of a step, nanoseconds.
    pub step_ns_max: u64,
    /// Longest duration of an fsync, microseconds.
    pub fsync_us_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Running,
    Waiting { key: usize, until: Option<u64> },
    Done,
}

#[derive(Default)]
struct Baton {
    mine: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Baton {
    fn pass(&self) {
        self.mine.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn wait(&self) {
        while !self.mine.swap(false, Ordering::Acquire) {
            park();
        }
    }
}

struct Actor {
    name: String,
    process: u32,
    doing: Doing,
    baton: Arc<Baton>,
}

struct State {
    now_ns: u64,
    rng: Rng,
    threads: Vec<Actor>,
    timers: BTreeMap<(u64, u64), Waker>,
    serial: u64,
    /// The process whose threads are being ended; nobody else runs meanwhile.
    reaping: Option<u32>,
    /// The thread that goes on when they have ended.
    reaper: usize,
    /// Time that passes for the dead alone, so that what they wait for ends.
    dead_ns: u64,
    dead: BTreeSet<u32>,
    next_process: u32,
    boot: u8,
    hash: u64,
    story: Vec<String>,
    failure: Option<String>,
}

/// One simulated world.
pub struct World {
    origin: Instant,
    pace: Pace,
    state: Mutex<State>,
    /// The disk of the simulated machine.
    pub disk: Mutex<Disk>,
    /// Object storage.
    pub storage: Mutex<Storage>,
    /// What the database should be.
    pub oracle: Mutex<Oracle>,
}

thread_local! {
    static ME: RefCell<Option<(Arc<World>, usize)>> = const { RefCell::new(None) };
}

/// The world of the calling thread.
pub fn current() -> Option<Arc<World>> {
    ME.try_with(|me| me.borrow().as_ref().map(|(world, _)| Arc::clone(world))).ok().flatten()
}

fn me() -> usize {
    ME.with(|me| me.borrow().as_ref().map_or(0, |(_, id)| *id))
}

/// Locks what belongs to the one thread that runs.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Pick {
    Thread(usize),
    Wakers(Vec<Waker>),
    Nobody,
}

impl State {
    fn note(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn due_timers(&mut self) -> Vec<Waker> {
        let later = self.timers.split_off(&(self.now_ns + 1, 0));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }

    fn is_ready(&self, id: usize) -> bool {
        let thread = &self.threads[id];
        match (self.reaping, thread.doing) {
            (_, Doing::Done) => false,
            (Some(process), _) => thread.process == process,
            (None, Doing::Running) => true,
            (None, Doing::Waiting { until, .. }) => until.is_some_and(|at| at <= self.now_ns),
        }
    }

    /// Who runs next; time passes when nobody can.
    fn pick(&mut self, from: usize) -> Pick {
        loop {
            let wakers = if self.reaping.is_none() { self.due_timers() } else { Vec::new() };
            if !wakers.is_empty() {
                return Pick::Wakers(wakers);
            }
            let ready: Vec<usize> =
                (0..self.threads.len()).filter(|&id| self.is_ready(id)).collect();
            if self.reaping.is_some() {
                // In turns: each ends as soon as it can.
                let next = ready.iter().find(|&&id| id > from).or(ready.first());
                return next.map_or(Pick::Nobody, |&id| Pick::Thread(id));
            }
            if !ready.is_empty() {
                return Pick::Thread(self.rng.pick(&ready));
            }
            let waits = self.threads.iter().filter_map(|t| match t.doing {
                Doing::Waiting { until, .. } => until,
                _ => None,
            });
            let timer = self.timers.keys().next().map(|(at, _)| *at);
            match waits.chain(timer).min() {
                Some(at) => self.now_ns = self.now_ns.max(at),
                None => return Pick::Nobody,
            }
        }
    }
}

impl World {
    /// A world at its beginning.
    pub fn new(seed: u64, pace: Pace, storage: Storage, oracle: Oracle) -> Arc<World> {
        Arc::new(World {
            origin: Instant::now(),
            pace,
            state: Mutex::new(State {
                now_ns: 0,
                rng: Rng::new(seed),
                threads: Vec::new(),
                timers: BTreeMap::new(),
                serial: 0,
                reaping: None,
                reaper: 0,
                dead_ns: 0,
                dead: BTreeSet::new(),
                next_process: OBSERVER + 1,
                boot: 1,
                hash: 0xcbf2_9ce4_8422_2325,
                story: Vec::new(),
                failure: None,
            }),
            disk: Mutex::new(Disk::new(seed ^ 0xd15c)),
            storage: Mutex::new(storage),
            oracle: Mutex::new(oracle),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Makes the calling thread the observer.
    pub fn enter(self: &Arc<Self>) {
        let baton = Arc::new(Baton::default());
        let _ = baton.thread.set(std::thread::current());
        self.state().threads.push(Actor {
            name: "observer".to_owned(),
            process: OBSERVER,
            doing: Doing::Running,
            baton,
        });
        ME.with(|me| *me.borrow_mut() = Some((Arc::clone(self), 0)));
        enter(Some(Arc::clone(self) as Arc<dyn Seams>));
    }

    /// Makes the calling thread an ordinary one again, after the last other ended.
    pub fn leave(&self) {
        enter(None);
        ME.with(|me| me.borrow_mut().take());
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.state().now_ns
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> i64 {
        EPOCH_MS + (self.now_ns() / 1_000_000) as i64
    }

    /// One draw of the world's random numbers.
    pub fn draw<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.state().rng)
    }

    /// The process of the calling thread.
    pub fn process(&self) -> u32 {
        self.state().threads[me()].process
    }

    /// Whether the caller's process was killed.
    pub fn is_dead(&self) -> bool {
        let state = self.state();
        let process = state.threads[me()].process;
        state.dead.contains(&process)
    }

    /// Whether `process` was ended.
    pub fn has_ended(&self, process: u32) -> bool {
        self.state().dead.contains(&process)
    }

    /// Adds a line to the story; it counts for the hash.
    pub fn tell(&self, line: &str) {
        let mut state = self.state();
        for byte in line.bytes() {
            state.note(u64::from(byte));
        }
        let who = &state.threads[me()];
        let text = format!(
            "{:>12.6} p{:<3} {:<12} {line}",
            state.now_ns as f64 / 1e9,
            who.process,
            who.name
        );
        state.story.push(text);
    }

    /// Remembers the first thing that should not be.
    pub fn fail(&self, why: &str) {
        self.tell(&format!("FAILED: {why}"));
        self.state().failure.get_or_insert_with(|| why.to_owned());
    }

    /// What should not be, if anything was found.
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// The last `lines` lines of the story.
    pub fn story(&self, lines: usize) -> Vec<String> {
        let state = self.state();
        state.story[state.story.len().saturating_sub(lines)..].to_vec()
    }

    /// Tells one run from another.
    pub fn hash(&self) -> u64 {
        self.state().hash
    }

    /// A number for a new process.
    pub fn new_process(&self) -> u32 {
        let mut state = self.state();
        state.next_process += 1;
        state.next_process - 1
    }

    /// Starts a thread in `process`.
    pub fn start(self: &Arc<Self>, process: u32, name: &str, work: impl FnOnce() + Send + 'static) {
        let baton = Arc::new(Baton::default());
        let mut state = self.state();
        let id = state.threads.len();
        state.threads.push(Actor {
            name: name.to_owned(),
            process,
            doing: Doing::Running,
            baton: Arc::clone(&baton),
        });
        let (world, for_thread) = (Arc::clone(self), Arc::clone(&baton));
        let body = move || {
            for_thread.wait();
            ME.with(|me| *me.borrow_mut() = Some((Arc::clone(&world), id)));
            enter(Some(Arc::clone(&world) as Arc<dyn Seams>));
            let done = catch_unwind(AssertUnwindSafe(work));
            if done.is_err_and(|payload| !payload.is::<Killed>()) {
                world.fail("a simulated thread panicked");
            }
            enter(None);
            world.exit(id);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(2 << 20);
        match thread.spawn(body) {
            // Nobody joins it: the stacks of ended threads would stay until then.
            Ok(join) => drop(baton.thread.set(join.thread().clone())),
            Err(e) => panic!("cannot start a thread: {e}"),
        }
    }

    fn exit(&self, id: usize) {
        ME.with(|me| me.borrow_mut().take());
        let mut state = self.state();
        state.threads[id].doing = Doing::Done;
        if let Some(process) = state.reaping
            && state.threads.iter().all(|t| t.process != process || t.doing == Doing::Done)
        {
            state.reaping = None;
            let reaper = state.reaper;
            state.threads[reaper].doing = Doing::Running;
            let baton = Arc::clone(&state.threads[reaper].baton);
            drop(state);
            return baton.pass();
        }
        self.hand_over(state, id, None);
    }

    /// Lets somebody else run, or the caller itself again.
    fn hand_over<'a>(&'a self, mut state: MutexGuard<'a, State>, id: usize, mine: Option<&Baton>) {
        loop {
            match state.pick(id) {
                Pick::Thread(next) => {
                    let now = state.now_ns;
                    state.note(now ^ (next as u64) << 48);
                    state.threads[next].doing = Doing::Running;
                    if next == id && mine.is_some() {
                        return;
                    }
                    let baton = Arc::clone(&state.threads[next].baton);
                    drop(state);
                    baton.pass();
                    if let Some(mine) = mine {
                        mine.wait();
                    }
                    return;
                }
                Pick::Wakers(wakers) => {
                    drop(state);
                    wakers.into_iter().for_each(Waker::wake);
                    state = self.state();
                }
                Pick::Nobody => {
                    let stuck: Vec<String> = state
                        .threads
                        .iter()
                        .filter(|t| t.doing != Doing::Done)
                        .map(|t| format!("p{} {}: {:?}", t.process, t.name, t.doing))
                        .collect();
                    drop(state);
                    crate::abort(self, &format!("nobody can run: {}", stuck.join(", ")));
                }
            }
        }
    }

    fn block(&self, doing: Doing) {
        let id = me();
        let mut state = self.state();
        let process = state.threads[id].process;
        if state.dead.contains(&process) && !panicking() {
            drop(state);
            resume_unwind(Box::new(Killed));
        }
        if let Doing::Waiting { until: Some(until), .. } = doing
            && state.reaping.is_some()
        {
            state.dead_ns = state.dead_ns.max(until.saturating_sub(state.now_ns));
        }
        state.threads[id].doing = doing;
        let baton = Arc::clone(&state.threads[id].baton);
        self.hand_over(state, id, Some(&baton));
        if self.is_dead() && !panicking() {
            resume_unwind(Box::new(Killed));
        }
    }

    /// A step of the calling thread: time passes, and others may run.
    ///
    /// # Panics
    /// With [`Killed`] when the caller's process was killed.
    pub fn pause(&self) {
        let switch = {
            let mut state = self.state();
            let step = state.rng.range(100, self.pace.step_ns_max);
            state.now_ns += step;
            state.rng.chance(1, self.pace.switch_one_in)
        };
        if switch || self.is_dead() {
            self.block(Doing::Running);
        }
    }

    /// Sleeps.
    ///
    /// # Panics
    /// As [`World::pause`].
    pub fn sleep(&self, duration: Duration) {
        let until = self.now_ns() + duration.as_nanos() as u64;
        self.block(Doing::Waiting { key: 0, until: Some(until) });
    }

    /// The time that an fsync takes.
    pub fn fsync_pause(&self) {
        let us = self.draw(|rng| rng.range(20, self.pace.fsync_us_max));
        self.sleep(Duration::from_micros(us));
    }

    /// Kills a process at once: its locks go, what it wrote stays in the page
    /// cache. Its threads end without a trace before this returns.
    pub fn kill(self: &Arc<Self>, process: u32) {
        self.tell(&format!("kill -9 p{process}"));
        let shared = locked(&self.disk).end_process(process);
        self.reap(process);
        let world = Arc::clone(self);
        // What the process held in memory goes too, as seen from the process.
        self.start(process, "undertaker", move || {
            litestream_vfs::simulation::end_process(process);
            drop(world);
        });
        self.reap(process);
        for (region, words) in shared {
            region.restore(&words);
        }
    }

    fn reap(&self, process: u32) {
        let mut state = self.state();
        state.dead.insert(process);
        if state.threads.iter().all(|t| t.process != process || t.doing == Doing::Done) {
            return;
        }
        state.reaping = Some(process);
        state.dead_ns = 0;
        state.reaper = me();
        let baton = Arc::clone(&state.threads[state.reaper].baton);
        let id = state.reaper;
        self.hand_over(state, id, Some(&baton));
    }

    /// The threads of `process` that have not ended.
    pub fn running(&self, process: u32) -> Vec<String> {
        let state = self.state();
        let left = state.threads.iter().filter(|t| t.process == process && t.doing != Doing::Done);
        left.map(|t| format!("{} {:?}", t.name, t.doing)).collect()
    }

    /// The machine lost its power: everybody is dead, and of the disk only what
    /// was durable, and some of what was not, is left.
    pub fn power_loss(self: &Arc<Self>, processes: &[u32]) {
        self.tell("power loss");
        for &process in processes {
            self.kill(process);
        }
        let lost = {
            let mut disk = locked(&self.disk);
            disk.power_loss()
        };
        self.state().boot += 1;
        self.tell(&format!("power is back, {lost} unsynced operations are lost"));
    }
}

impl Seams for World {
    fn now(&self) -> Instant {
        let state = self.state();
        let extra = if state.reaping.is_some() { state.dead_ns } else { 0 };
        self.origin + Duration::from_nanos(state.now_ns + extra)
    }

    fn now_ms(&self) -> i64 {
        self.wall_ms()
    }

    fn random(&self) -> u64 {
        self.draw(Rng::next)
    }

    fn process_id(&self) -> u32 {
        self.process()
    }

    fn is_alive(&self, process: u32) -> bool {
        !self.has_ended(process)
    }

    fn boot_id(&self) -> [u8; 16] {
        [self.state().boot; 16]
    }

    fn wait(&self, key: usize, timeout: Option<Duration>) {
        let now = self.now().duration_since(self.origin).as_nanos() as u64;
        let until = timeout.map(|t| now.saturating_add(t.as_nanos() as u64));
        self.block(Doing::Waiting { key, until });
    }

    fn wake(&self, key: usize) {
        let mut state = self.state();
        for thread in &mut state.threads {
            if matches!(thread.doing, Doing::Waiting { key: k, .. } if k == key) {
                thread.doing = Doing::Running;
            }
        }
    }

    fn wake_at(&self, at: Instant, waker: Waker) {
        let mut state = self.state();
        let at = at.saturating_duration_since(self.origin).as_nanos() as u64;
        state.serial += 1;
        let serial = state.serial;
        state.timers.insert((at, serial), waker);
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) {
        let Some(world) = current() else { return };
        let process = self.process();
        world.start(process, name, work);
    }

    fn disk(&self) -> Arc<dyn DiskTrait> {
        Arc::new(DiskView)
    }

    fn storage(&self, url: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(StorageClient::new(url))
    }

    fn log(&self, level: Level, message: &str) {
        if self.is_dead() {
            return;
        }
        self.tell(&format!("{level}: {message}"));
        // Nobody else writes to this storage.
        if message.contains("internal fault") || message.contains("Nothing is shipped") {
            self.fail(message);
        }
    }
}
