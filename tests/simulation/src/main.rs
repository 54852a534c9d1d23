//! `torture SEED [COMMITS]`: runs one seed and tells its story.

use std::io::Write;

use litestream_simulation::{install, run};

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let seed = args.next().unwrap_or(1);
    let commits = args.next().unwrap_or(2_000);
    install();
    let report = run::run(&run::Plan::new(seed, commits));
    let mut out = std::io::stdout().lock();
    for line in &report.story {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(
        out,
        "seed {}: {} commits, {} files, {} restores, {} checks, faults {:?}, hash {:016x}, {}",
        report.seed,
        report.commits,
        report.files,
        report.restores,
        report.checks,
        report.faults,
        report.hash,
        report.failure.as_deref().unwrap_or("ok")
    );
}
