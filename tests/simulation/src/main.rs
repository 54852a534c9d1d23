//! `torture seed SEED [COMMITS]` runs one seed and tells its story.
//! `torture run SECONDS [FIRST]` runs seeds for that long on two cores.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use litestream_simulation::run::{Plan, Report, run};
use litestream_simulation::watch::watch;

/// Commits of a seed unless told otherwise.
const COMMITS: u64 = 2_000;
/// Processes that run seeds side by side.
const WORKERS: u64 = 2;
/// Real time that a seed may take: far more than any has needed on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

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
    limit(|seed, story| {
        story.iter().for_each(|line| say(line));
        say(&endless(seed));
    });
    let report = run(&Plan::new(seed, commits));
    report.story.iter().for_each(|line| say(line));
    say(&format!("faults {:?}", report.faults));
    say(&summary(&report));
    if report.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends this process with a seed that takes longer than [`LIMIT`], which `late` tells.
fn limit(late: impl Fn(u64, &[String]) + Send + 'static) {
    let watched = watch(LIMIT, move |seed, story| {
        late(seed, &story);
        std::process::exit(71);
    });
    if let Err(e) = watched {
        say(&format!("cannot watch for seeds that do not end: {e}"));
    }
}

fn endless(seed: u64) -> String {
    format!("seed {seed} FAILED: it has not ended after {} s", LIMIT.as_secs())
}

/// The directory may be missing: then the seed has to be run again.
fn keep_story(seed: u64, story: &[String]) {
    let _ = std::fs::write(story_path(seed), story.join("\n"));
}

/// Runs every [`WORKERS`]th seed; a line for each.
fn work(first: u64, seconds: u64) -> ExitCode {
    litestream_simulation::install();
    limit(|seed, story| {
        keep_story(seed, story);
        say(&endless(seed));
    });
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = first;
    while Instant::now() < end {
        say(&format!("begins {seed}"));
        let report = run(&Plan::new(seed, COMMITS));
        if report.failure.is_some() {
            keep_story(seed, &report.story);
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

/// Reads what a worker says; a worker that ends within a seed failed in it. The
/// last seed that it began.
fn follow(child: &mut Child, totals: &std::sync::Mutex<Totals>) -> Option<u64> {
    let out = child.stdout.take()?;
    let (mut begun, mut last) = (None, None);
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        if let Some(seed) = line.strip_prefix("begins ") {
            last = seed.parse().ok();
            begun = last;
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
        totals.add(&format!("seed {seed} FAILED: the process ended"));
    }
    last
}

/// Has seeds from `first` on run until `end`, by one worker after another: one
/// that failed by ending is replaced.
fn keep_working(first: u64, end: Instant, totals: &std::sync::Mutex<Totals>) {
    let mut next = first;
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            return;
        }
        match start(next, left) {
            Ok(mut child) => match follow(&mut child, totals) {
                Some(last) => next = last + WORKERS,
                None => return say("a worker ended before its first seed"),
            },
            Err(e) => return say(&format!("cannot start a worker: {e}")),
        }
    }
}

fn torture(seconds: u64, first: Option<u64>) -> ExitCode {
    let from_time = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_secs() * 1000)
    };
    let first = first.unwrap_or_else(from_time);
    let end = Instant::now() + Duration::from_secs(seconds);
    let totals = std::sync::Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for n in 0..WORKERS {
            let totals = &totals;
            scope.spawn(move || keep_working(first + n, end, totals));
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
