//! A few seeds with a small budget; `make torture` runs many large ones.

use litestream_simulation::install;
use litestream_simulation::run::{Plan, Report, run};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// SQLite's random numbers are the process's: one world at a time.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    install();
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(report: &Report) {
    if let Some(why) = &report.failure {
        let from = report.story.len().saturating_sub(60);
        panic!(
            "seed {}: {why}\n{}\nrerun: cargo run -p litestream-simulation --profile torture {} {}",
            report.seed,
            report.story[from..].join("\n"),
            report.seed,
            report.commits
        );
    }
}

#[test]
fn a_seed_repeats_itself() {
    let _alone = alone();
    for seed in [1, 2] {
        let (first, second) = (run(&Plan::new(seed, 200)), run(&Plan::new(seed, 200)));
        check(&first);
        assert_eq!(first.story, second.story);
        assert_eq!(first.hash, second.hash);
        assert_ne!(first.hash, run(&Plan::new(seed + 1000, 200)).hash);
    }
}

#[test]
fn every_restore_is_a_state_that_was_committed() {
    let _alone = alone();
    let (mut commits, mut restores) = (0, 0);
    for seed in 100..106 {
        let report = run(&Plan::new(seed, 250));
        check(&report);
        commits += report.commits;
        restores += report.restores;
    }
    assert!(commits >= 1_500 && restores >= 60, "{commits} commits, {restores} restores");
}
