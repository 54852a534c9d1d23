//! Commits on their way to the capture thread: the hand-over and the thread's
//! life together, around a WAL that is only a number.

use std::io;
use std::sync::Arc;

use shuttle::thread;

use crate::handover::Handover;
use crate::tasks::{Mutex, Signal, Thread, lock, now};
use crate::tries;
use crate::worker::Worker;

const DB: (u64, u64) = (1, 1);

#[derive(Default)]
struct Db {
    handover: Handover,
    worker: Worker,
    /// Frames in the WAL; the lock is the WAL's write lock.
    wal: Mutex<u64>,
    /// Frames captured; the lock is the capture lock.
    capture: Mutex<u64>,
    /// Commits in a WAL that nobody published.
    private: Mutex<u64>,
    done: (Mutex<u64>, Signal),
}

impl Db {
    fn start(self: &Arc<Self>) -> impl FnOnce(u64) -> io::Result<Thread> {
        let db = Arc::clone(self);
        move |life| Thread::spawn("worker", move || db.work(life))
    }

    fn work(&self, life: u64) {
        while let Some(work) = self.worker.next(life) {
            if !work.captures.is_empty() && !self.handover.is_caught_up() {
                self.capture(&mut lock(&self.capture));
                self.signal();
            }
            if !work.seals.is_empty() {
                let mut captured = lock(&self.capture);
                self.handover.begin();
                self.capture(&mut captured);
                drop(captured);
                self.signal();
            }
        }
    }

    fn capture(&self, captured: &mut u64) {
        let note = self.handover.noted();
        let hidden = self.handover.take_hidden();
        let end = if hidden { *lock(&self.private) } else { note };
        *captured = end.max(*captured);
        self.handover.captured(note);
    }

    fn signal(&self) {
        *lock(&self.done.0) += 1;
        self.done.1.notify_all();
    }

    fn arm(self: &Arc<Self>) {
        if self.handover.arm() {
            self.worker.schedule(DB, now(), self.start()).unwrap();
        }
    }

    fn commit(self: &Arc<Self>) {
        let mut wal = lock(&self.wal);
        *wal += 1;
        if self.handover.publish(*wal) {
            self.arm();
        }
    }

    /// Waits as a connection that restarts the WAL does, but for ever.
    fn wait_until_caught_up(self: &Arc<Self>) {
        self.worker.capture_soon(DB, self.start()).unwrap();
        let (generation, signal) = &self.done;
        let mut seen = lock(generation);
        while !self.handover.is_caught_up() {
            seen = signal.wait(generation, seen);
        }
    }

    /// Waits for the capture of a certain frame, having told nobody.
    fn wait_for(&self, frame: u64) {
        let (generation, signal) = &self.done;
        let mut seen = lock(generation);
        while *lock(&self.capture) < frame {
            seen = signal.wait(generation, seen);
        }
    }

    fn end(self: &Arc<Self>) {
        self.worker.forget(DB);
        self.worker.stop(|| true, self.start()).unwrap();
    }
}

/// Every commit is captured without another one after it: no wake-up is lost.
#[test]
fn r_15_every_commit_reaches_the_capture_thread() {
    tries(|| {
        let db = Arc::new(Db::default());
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let db = Arc::clone(&db);
                thread::spawn(move || (0..2).for_each(|_| db.commit()))
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        db.wait_for(4);
        assert!(db.handover.noted() == 4);
        db.end();
    });
}

/// Who holds the write lock and waits for capture does not wait for ever, and
/// finds everything captured.
#[test]
fn a_restart_of_the_wal_finds_everything_captured() {
    tries(|| {
        let db = Arc::new(Db::default());
        let writer = {
            let db = Arc::clone(&db);
            thread::spawn(move || (0..2).for_each(|_| db.commit()))
        };
        db.commit();
        {
            let wal = lock(&db.wal);
            db.wait_until_caught_up();
            assert_eq!(*lock(&db.capture), *wal);
        }
        writer.join().unwrap();
        db.wait_for(3);
        db.end();
    });
}

/// Commits behind a private wal-index: the thread looks after each of them.
#[test]
fn hidden_commits_reach_the_capture_thread() {
    tries(|| {
        let db = Arc::new(Db::default());
        for frame in 1..4 {
            *lock(&db.private) = frame;
            db.handover.hide();
            db.arm();
        }
        db.wait_for(3);
        db.end();
    });
}

/// A note that was read before a newer one does not replace it.
#[test]
fn a_late_reader_takes_no_commit_back() {
    tries(|| {
        let db = Arc::new(Db::default());
        let reader = {
            let db = Arc::clone(&db);
            thread::spawn(move || {
                let noted = db.handover.noted();
                let header = *lock(&db.wal);
                if db.handover.renew(noted, header) {
                    db.arm();
                }
            })
        };
        (0..3).for_each(|_| db.commit());
        reader.join().unwrap();
        assert_eq!(db.handover.noted(), 3);
        db.wait_for(3);
        db.end();
    });
}
