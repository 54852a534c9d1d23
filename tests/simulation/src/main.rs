//! `torture seed SEED [COMMITS]` runs one seed and tells its story.
//! `torture run SECONDS [FIRST]` runs seeds for that long on two cores.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use litestream_simulation::run::{Plan, Report, run};

/// Commits of a seed unless told otherwise.
const COMMITS: u64 = 2_000;
/// Processes that run seeds side by side.
const WORKERS: u64 = 2;

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that is gone needs no more lines.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|a| a.parse::<u64>().ok());
    match (args.first().map(String::as_str), number(1)) {
        (Some("seed"), Some(seed)) => one(seed, number(2).unwrap_or(COMMITS)),
        (Some("run"), Some(seconds)) => torture(seconds, number(2)),
        (Some("work"), Some(first)) => work(first, number(2).unwrap_or(60)),
        _ => {
            say("usage: torture seed SEED [COMMITS] | torture run SECONDS [FIRST]");
            ExitCode::from(2)
        }
    }
}

fn summary(report: &Report) -> String {
    let faults: u64 = report.faults.values().sum();
    format!(
        "seed {} commits {} faults {faults} files {} restores {} checks {} hash {:016x} {}",
        report.seed,
        report.commits,
        report.files,
        report.restores,
        report.checks,
        report.hash,
        report.failure.as_deref().map_or_else(|| "ok".to_owned(), |why| format!("FAILED: {why}"))
    )
}

fn one(seed: u64, commits: u64) -> ExitCode {
    litestream_simulation::install();
    let report = run(&Plan::new(seed, commits));
    report.story.iter().for_each(|line| say(line));
    say(&format!("faults {:?}", report.faults));
    say(&summary(&report));
    if report.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs every [`WORKERS`]th seed; a line for each.
fn work(first: u64, seconds: u64) -> ExitCode {
    litestream_simulation::install();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = first;
    while Instant::now() < end {
        say(&format!("begins {seed}"));
        let report = run(&Plan::new(seed, COMMITS));
        if report.failure.is_some() {
            // The directory may be missing: then the seed has to be run again.
            let _ = std::fs::write(story_path(seed), report.story.join("\n"));
        }
        say(&summary(&report));
        seed += WORKERS;
    }
    ExitCode::SUCCESS
}

fn story_path(seed: u64) -> PathBuf {
    std::env::temp_dir().join(format!("litestream-torture-{seed}.txt"))
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    commits: u64,
    faults: u64,
    files: u64,
    restores: u64,
    checks: u64,
    failures: Vec<String>,
}

impl Totals {
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let value = |name: &str| {
            let at = words.iter().position(|w| *w == name);
            at.and_then(|at| words.get(at + 1)?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.seeds += 1;
        self.commits += value("commits");
        self.faults += value("faults");
        self.files += value("files");
        self.restores += value("restores");
        self.checks += value("checks");
        if !line.ends_with(" ok") {
            self.failures.push(line.to_owned());
        }
    }
}

fn start(first: u64, seconds: u64) -> std::io::Result<Child> {
    let program = std::env::current_exe()?;
    let (first, seconds) = (first.to_string(), seconds.to_string());
    Command::new(program).args(["work", &first, &seconds]).stdout(Stdio::piped()).spawn()
}

/// Reads what a worker says; a worker that ends within a seed failed in it.
fn follow(child: &mut Child, totals: &std::sync::Mutex<Totals>) {
    let Some(out) = child.stdout.take() else { return };
    let mut begun = None;
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        if let Some(seed) = line.strip_prefix("begins ") {
            begun = Some(seed.to_owned());
            continue;
        }
        begun = None;
        if !line.ends_with(" ok") {
            say(&line);
        }
        if let Ok(mut totals) = totals.lock() {
            totals.add(&line);
        }
    }
    let _ = child.wait();
    if let (Some(seed), Ok(mut totals)) = (begun, totals.lock()) {
        totals.failures.push(format!("seed {seed} FAILED: the process ended"));
    }
}

fn torture(seconds: u64, first: Option<u64>) -> ExitCode {
    let from_time = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_secs() * 1000)
    };
    let first = first.unwrap_or_else(from_time);
    let totals = std::sync::Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for n in 0..WORKERS {
            let totals = &totals;
            scope.spawn(move || match start(first + n, seconds) {
                Ok(mut child) => follow(&mut child, totals),
                Err(e) => say(&format!("cannot start a worker: {e}")),
            });
        }
    });
    let Ok(totals) = totals.into_inner() else { return ExitCode::FAILURE };
    for failure in &totals.failures {
        let seed = failure.split(' ').nth(1).unwrap_or_default();
        say(&format!("rerun: cargo run -p litestream-simulation --profile torture seed {seed}"));
    }
    say(&format!(
        "{} seeds from {first}, {} commits, {} faults, {} files shipped, {} restores, \
         {} comparisons with plain SQLite, {} failures",
        totals.seeds,
        totals.commits,
        totals.faults,
        totals.files,
        totals.restores,
        totals.checks,
        totals.failures.len()
    ));
    if totals.failures.is_empty() && totals.seeds > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
