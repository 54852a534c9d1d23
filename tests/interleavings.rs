//! Interleavings of threads, chosen by shuttle, over the library's own source:
//! the modules below are compiled here once more, with shuttle's locks in the
//! place of the standard library's. A hang shows as a deadlock.
#![allow(dead_code)]

#[path = "interleavings/commits.rs"]
mod commits;
#[path = "../src/db/handover.rs"]
mod handover;
#[path = "interleavings/tasks.rs"]
mod tasks;
#[path = "../src/worker.rs"]
mod worker;

mod store {
    pub(crate) type Identity = (u64, u64);
}

use std::io;
use std::sync::Arc;

use shuttle::thread;

use tasks::{Mutex, Signal, Thread, lock, now};
use worker::Worker;

/// Interleavings to try of each model and with each scheduler.
const TRIES: usize = 2_000;

/// Runs a model under schedulers that choose at random, and that let one thread
/// run on but for few changes.
fn tries(model: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(model.clone(), TRIES);
    shuttle::check_pct(model, TRIES, 3);
}

/// The capture thread beside what it has done.
#[derive(Default)]
struct House {
    worker: Worker,
    done: Mutex<Done>,
    signal: Signal,
}

#[derive(Default)]
struct Done {
    seals: Vec<store::Identity>,
    rests: usize,
    threads: usize,
}

impl House {
    fn start(self: &Arc<Self>) -> impl FnOnce(u64) -> io::Result<Thread> {
        let house = Arc::clone(self);
        move |life| {
            Thread::spawn("worker", move || {
                lock(&house.done).threads += 1;
                while let Some(work) = house.worker.next(life) {
                    let mut done = lock(&house.done);
                    done.seals.extend(work.seals);
                    done.rests += usize::from(work.rest_io);
                    drop(done);
                    house.signal.notify_all();
                }
                lock(&house.done).threads -= 1;
            })
        }
    }

    fn seal(self: &Arc<Self>, id: u64) {
        self.worker.schedule((id, 0), now(), self.start()).unwrap();
    }

    fn stop(self: &Arc<Self>) {
        self.worker.stop(|| true, self.start()).unwrap();
    }

    fn wait_for_seal(&self, id: u64) {
        let mut done = lock(&self.done);
        while !done.seals.contains(&(id, 0)) {
            done = self.signal.wait(&self.done, done);
        }
    }
}

/// Upload threads ask for rest while databases are opened and closed: nobody
/// waits for ever for a thread that never heard that it should end.
#[test]
fn r_15_the_capture_thread_ends_when_told() {
    tries(|| {
        let house = Arc::new(House::default());
        let resting = {
            let house = Arc::clone(&house);
            thread::spawn(move || house.worker.rest_io(house.start()).unwrap())
        };
        for id in 0..2 {
            house.seal(id);
            house.worker.forget((id, 0));
            house.stop();
        }
        resting.join().unwrap();
        house.stop();
        assert_eq!(lock(&house.done).threads, 0);
    });
}

/// A database that is opened while the last other one closes gets its seal,
/// whoever of two closers is late.
#[test]
fn work_survives_the_end_of_the_capture_thread() {
    tries(|| {
        let house = Arc::new(House::default());
        let closers: Vec<_> = (1..3)
            .map(|id| {
                let house = Arc::clone(&house);
                thread::spawn(move || {
                    house.seal(id);
                    house.worker.forget((id, 0));
                    house.stop();
                })
            })
            .collect();
        house.seal(0);
        house.wait_for_seal(0);
        for closer in closers {
            closer.join().unwrap();
        }
        house.stop();
        assert_eq!(lock(&house.done).threads, 0);
    });
}
