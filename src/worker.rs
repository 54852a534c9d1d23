//! The capture thread of a process: what it has to do, and its life.
//!
//! The thread is started by the first work and ended when no database is open.
//! Any thread may bring work while another ends it, so one lock covers work
//! and life: each thread has a number, and one whose number is not the present
//! one returns. Work left by a thread that ended is done by its successor.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use crate::store::Identity;
use crate::tasks::{Mutex, Signal, Thread, lock, now};

/// What the thread does and whether there is one.
#[derive(Default)]
pub(crate) struct Worker {
    state: Mutex<State>,
    signal: Signal,
}

#[derive(Default)]
struct State {
    /// When to capture and seal.
    due: BTreeMap<Identity, Instant>,
    /// To be captured without sealing, in order.
    soon: Vec<Identity>,
    /// The upload threads may have lost their last user.
    rest_io: bool,
    /// Number of the present thread, or of the last one.
    life: u64,
    thread: Option<Thread>,
}

impl State {
    fn is_idle(&self) -> bool {
        self.due.is_empty() && self.soon.is_empty() && !self.rest_io
    }
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Databases to capture.
    pub captures: Vec<Identity>,
    /// Databases to capture and seal.
    pub seals: Vec<Identity>,
    /// Whether the upload threads may have become idle.
    pub rest_io: bool,
}

impl Worker {
    /// Has a database captured and sealed at `due`, or when it was to be before.
    /// `start` starts the thread, which calls [`Worker::next`] with the number
    /// that it is given.
    ///
    /// # Errors
    /// Those of `start`; the work is kept for the next thread.
    pub(crate) fn schedule(
        &self,
        identity: Identity,
        due: Instant,
        start: impl FnOnce(u64) -> io::Result<Thread>,
    ) -> io::Result<()> {
        self.add(start, |state| {
            let at = state.due.entry(identity).or_insert(due);
            *at = due.min(*at);
        })
    }

    /// Has a database captured; as [`Worker::schedule`].
    pub(crate) fn capture_soon(
        &self,
        identity: Identity,
        start: impl FnOnce(u64) -> io::Result<Thread>,
    ) -> io::Result<()> {
        self.add(start, |state| {
            if !state.soon.contains(&identity) {
                state.soon.push(identity);
            }
        })
    }

    /// Has the upload threads looked at; as [`Worker::schedule`].
    pub(crate) fn rest_io(&self, start: impl FnOnce(u64) -> io::Result<Thread>) -> io::Result<()> {
        self.add(start, |state| state.rest_io = true)
    }

    fn add(
        &self,
        start: impl FnOnce(u64) -> io::Result<Thread>,
        change: impl FnOnce(&mut State),
    ) -> io::Result<()> {
        let started = {
            let mut state = lock(&self.state);
            change(&mut state);
            ensure_thread(&mut state, start)
        };
        self.signal.notify_all();
        started
    }

    /// Forgets the work of a database.
    pub(crate) fn forget(&self, identity: Identity) {
        let mut state = lock(&self.state);
        state.due.remove(&identity);
        state.soon.retain(|id| *id != identity);
    }

    /// Waits for work; `None` ends the thread with the number `life`.
    pub(crate) fn next(&self, life: u64) -> Option<Work> {
        let mut state = lock(&self.state);
        loop {
            if state.life != life {
                return None;
            }
            let now = now();
            if let Some(work) = take(&mut state, now) {
                return Some(work);
            }
            let next = state.due.values().min().copied();
            state = match next {
                Some(at) => {
                    self.signal.wait_for(&self.state, state, at.saturating_duration_since(now))
                }
                None => self.signal.wait(&self.state, state),
            };
        }
    }

    /// Ends the calling thread, which has the number `life`, unless there is work:
    /// what a closed database left behind may have started it, and nobody would
    /// stop it. False: it goes on.
    pub(crate) fn retire(&self, life: u64) -> bool {
        let mut state = lock(&self.state);
        let retires = state.life == life && state.is_idle();
        if retires {
            state.thread = None;
        }
        retires
    }

    /// Ends the thread and waits until it has ended. Another is started when
    /// work came meanwhile, for a database that counts on it: one that `is_open`.
    /// What a closed one left behind is no reason to keep a thread.
    ///
    /// # Errors
    /// As [`Worker::schedule`].
    pub(crate) fn stop(
        &self,
        is_open: impl FnOnce() -> bool,
        start: impl FnOnce(u64) -> io::Result<Thread>,
    ) -> io::Result<()> {
        let thread = {
            let mut state = lock(&self.state);
            state.life += 1;
            state.rest_io = false;
            state.thread.take()
        };
        self.signal.notify_all();
        if let Some(thread) = thread {
            thread.join();
        }
        // Whoever opens one after this question starts the thread himself.
        let is_open = is_open();
        let mut state = lock(&self.state);
        if state.is_idle() || !is_open { Ok(()) } else { ensure_thread(&mut state, start) }
    }
}

/// The thread finds the lock taken until it is recorded.
fn ensure_thread(
    state: &mut State,
    start: impl FnOnce(u64) -> io::Result<Thread>,
) -> io::Result<()> {
    if state.thread.is_none() {
        state.life += 1;
        state.thread = Some(start(state.life)?);
    }
    Ok(())
}

fn take(state: &mut State, now: Instant) -> Option<Work> {
    let captures = std::mem::take(&mut state.soon);
    let seals: Vec<Identity> =
        state.due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
    for id in &seals {
        state.due.remove(id);
    }
    let rest_io = std::mem::take(&mut state.rest_io);
    let any = !captures.is_empty() || !seals.is_empty() || rest_io;
    any.then_some(Work { captures, seals, rest_io })
}
