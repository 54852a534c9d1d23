//! One seed: a plan, the processes, what happens to them, and the checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::disk::{Fault, Place, Trouble};
use crate::image::Image;
use crate::oracle::{self, Oracle};
use crate::restore;
use crate::rng::Rng;
use crate::storage::{Faults, Storage};
use crate::workload::{Control, Session};
use crate::world::{Pace, World, locked};

/// The database of every seed.
pub const DATABASE: &str = "/data/app.db";
/// How long the chain may take to converge when nothing goes wrong any more.
const CALM: Duration = Duration::from_secs(600);

/// What happens to processes, machine and storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incident {
    /// `kill -9`.
    Crash,
    /// A process closes its connections and ends.
    Stop,
    /// A process exits with its connections open.
    Exit,
    /// Storage is away for a while.
    Outage,
    /// The power fails.
    PowerLoss,
    /// The library's own directory is in trouble.
    SpoolTrouble,
    /// SQLite's files are in trouble.
    HostTrouble,
    /// Somebody writes without the library.
    Foreigner,
    /// The newest files vanish from storage.
    Vanish,
}

/// Every incident, as often as it is to happen where the plan has it.
const INCIDENTS: &[Incident] = &[
    Incident::Crash,
    Incident::Crash,
    Incident::Crash,
    Incident::Crash,
    Incident::Stop,
    Incident::Exit,
    Incident::Outage,
    Incident::PowerLoss,
    Incident::SpoolTrouble,
    Incident::HostTrouble,
    Incident::Foreigner,
    Incident::Foreigner,
    Incident::Vanish,
];

/// What a seed does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Commits after which it ends.
    pub commits: u64,
    /// Bytes of a page.
    pub page_size: u32,
    /// `PRAGMA auto_vacuum`.
    pub auto_vacuum: u32,
    /// Values of `PRAGMA synchronous` that connections draw from.
    pub synchronous: &'static [&'static str],
    /// Rows that the table grows to.
    pub rows: i64,
    /// Actions between open and close.
    pub actions_per_session: u64,
    /// Longest pause between actions, microseconds.
    pub think_us_max: u64,
    /// Connections of a process.
    pub connections: u64,
    /// Processes with the library at once.
    pub processes: u64,
    /// Writers without the library, now and then.
    pub foreigners: bool,
    /// Files may vanish from storage while nobody runs.
    pub vanish: bool,
    /// Connections change the journal mode.
    pub journals: bool,
    /// The power may fail.
    pub power: bool,
    /// The library's own directory may be in trouble.
    pub spool_trouble: bool,
    /// SQLite's files may be in trouble.
    pub host_trouble: bool,
    /// Faults of storage.
    pub storage: Faults,
    /// What happens between the commits; drawn from.
    pub incidents: &'static [Incident],
    /// Commits between two incidents, least and most.
    pub rest: (u64, u64),
    /// Disk and storage are slow.
    pub slow: bool,
    /// Transactions also write another database, which is not replicated.
    pub attached: bool,
    /// Settings in the URI of the database.
    pub options: String,
}

impl Plan {
    /// What `seed` does, with `commits` commits.
    pub fn new(seed: u64, commits: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0x9_1a17);
        let p = |rng: &mut Rng| rng.pick(&[0, 0, 10, 50, 150]);
        let storage = Faults {
            refused: p(&mut rng),
            ambiguous: p(&mut rng),
            late: p(&mut rng),
            duplicated: p(&mut rng),
            lost: p(&mut rng) / 5,
            truncated: p(&mut rng),
            stale: p(&mut rng) / 5,
        };
        let interval = rng.pick(&["0", "10ms", "100ms", "1s", "1s"]);
        let form = rng.pick(&["block", "frame"]);
        let spool = rng.pick(&["64KiB", "1MiB", "1GiB", "1GiB"]);
        Plan {
            seed,
            commits,
            page_size: rng.pick(&[512, 1024, 4096, 4096]),
            auto_vacuum: rng.pick(&[0, 0, 1, 2]),
            synchronous: rng.pick(&[&["NORMAL"][..], &["FULL"], &["NORMAL", "FULL"]]),
            rows: rng.pick(&[20, 100, 300]),
            actions_per_session: rng.pick(&[5, 50, 500]),
            think_us_max: rng.pick(&[0, 1_000, 20_000]),
            connections: rng.pick(&[1, 1, 2, 3]),
            processes: rng.pick(&[1, 1, 2, 3]),
            foreigners: rng.chance(1, 3),
            vanish: rng.chance(1, 5),
            power: rng.chance(1, 3),
            spool_trouble: rng.chance(1, 3),
            host_trouble: rng.chance(1, 4),
            journals: rng.chance(1, 4),
            attached: rng.chance(1, 4),
            slow: false,
            storage,
            incidents: INCIDENTS,
            rest: (10, 110),
            options: format!("sync_interval={interval}&page_format={form}&spool_bytes_max={spool}"),
        }
    }

    /// The URI of the replicated database.
    pub fn uri(&self) -> String {
        format!(
            "file:{DATABASE}?vfs=litestream&replica_url=sim%3A%2F%2Fbucket%2Fapp&{}",
            self.options
        )
    }

    /// The URI of the database for a process without the library.
    pub fn plain_uri(&self) -> String {
        format!("file:{DATABASE}?vfs=host")
    }

    /// Faults that it must at least have met to count.
    fn faults_min(&self) -> u64 {
        self.commits / 100
    }

    fn has(&self, incident: Incident) -> bool {
        match incident {
            Incident::PowerLoss => self.power,
            Incident::SpoolTrouble => self.spool_trouble,
            Incident::HostTrouble => self.host_trouble,
            Incident::Foreigner => self.foreigners,
            Incident::Vanish => self.vanish,
            Incident::Crash | Incident::Stop | Incident::Exit | Incident::Outage => true,
        }
    }
}

/// What a seed did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// States that SQLite committed.
    pub commits: u64,
    /// Faults that happened, by name.
    pub faults: BTreeMap<String, u64>,
    /// Files in storage.
    pub files: u64,
    /// States restored and compared.
    pub restores: u64,
    /// Comparisons with plain SQLite.
    pub checks: u64,
    /// Tells one run from another.
    pub hash: u64,
    /// What should not be.
    pub failure: Option<String>,
    /// The end of its story.
    pub story: Vec<String>,
}

struct Process {
    number: u32,
    control: Arc<Control>,
}

struct Driver {
    world: Arc<World>,
    plan: Plan,
    rng: Rng,
    processes: Vec<Process>,
    faults: BTreeMap<String, u64>,
}

/// Runs one seed.
pub fn run(plan: &Plan) -> Report {
    litestream_vfs::simulation::reset_randomness();
    let mut rng = Rng::new(plan.seed ^ 0xd21e);
    let mut pace = Pace {
        switch_one_in: rng.pick(&[2, 8, 32, 128]),
        step_ns_max: rng.pick(&[500, 2_000, 20_000]),
        fsync_us_max: rng.pick(&[50, 1_000, 10_000]),
    };
    let mut latency = rng.pick(&[200, 2_000, 50_000, 300_000]);
    if plan.slow {
        (pace.fsync_us_max, latency) = (50_000, 2_000_000);
    }
    let mut storage = Storage::new(plan.seed ^ 0x5702, latency);
    storage.faults = plan.storage;
    let world = World::new(plan.seed, pace, storage, Oracle::new(DATABASE));
    world.enter();
    crate::watch::begin(plan.seed, &world);
    world.tell(&format!("seed {}: {plan:?} {pace:?} latency {latency} us", plan.seed));
    let mut driver = Driver {
        world: Arc::clone(&world),
        plan: plan.clone(),
        rng,
        processes: Vec::new(),
        faults: BTreeMap::new(),
    };
    driver.run();
    let report = driver.finish();
    crate::watch::end();
    report
}

impl Driver {
    fn start_process(&mut self, with_library: bool) {
        let number = self.world.new_process();
        let control = Arc::new(Control::default());
        self.world.tell(&format!("process p{number} starts, library: {with_library}"));
        for n in 0..self.plan.connections {
            let seed = self.rng.next();
            let session =
                Session::new(&self.world, self.plan.clone(), &control, seed, with_library);
            self.world.start(number, &format!("app-{n}"), move || session.run());
        }
        self.processes.push(Process { number, control });
    }

    fn commits(&self) -> u64 {
        locked(&self.world.oracle).commits() as u64
    }

    fn fault(&mut self, name: &str) {
        *self.faults.entry(name.to_owned()).or_default() += 1;
    }

    fn run(&mut self) {
        let mut incidents =
            self.plan.commits / (self.plan.rest.0 + self.plan.rest.1).div_ceil(2).max(1);
        while self.is_unfinished() && self.world.failure().is_none() {
            while (self.processes.len() as u64) < self.plan.processes {
                self.start_process(true);
            }
            // Incidents are spread over the commits, not over time.
            let until = self.commits() + self.rng.range(self.plan.rest.0, self.plan.rest.1);
            self.pass(until, 20_000);
            if self.world.failure().is_some() {
                break;
            }
            oracle::verify(&self.world);
            if incidents > 0 || self.happened() < self.plan.faults_min() {
                incidents = incidents.saturating_sub(1);
                self.incident();
            }
        }
    }

    fn is_unfinished(&self) -> bool {
        self.commits() < self.plan.commits || self.happened() < self.plan.faults_min()
    }

    /// Faults so far.
    fn happened(&self) -> u64 {
        let storage = locked(&self.world.storage);
        let disk = locked(&self.world.disk).faults_hit;
        self.faults.values().sum::<u64>() + storage.hit.values().sum::<u64>() + disk
    }

    fn incident(&mut self) {
        let all = self.plan.incidents.iter().copied();
        let possible: Vec<Incident> = all.filter(|i| self.plan.has(*i)).collect();
        if possible.is_empty() {
            return;
        }
        match self.rng.pick(&possible) {
            Incident::Crash => self.crash(),
            Incident::Stop => self.stop_one(false),
            Incident::Exit => self.stop_one(true),
            Incident::Outage => self.outage(),
            Incident::PowerLoss => self.power_loss(),
            Incident::SpoolTrouble => self.trouble(Place::Spool),
            Incident::HostTrouble => self.trouble(Place::Host),
            Incident::Foreigner => self.foreigner(),
            Incident::Vanish => self.vanish(),
        }
    }

    fn crash(&mut self) {
        if self.processes.is_empty() {
            return;
        }
        let at = self.rng.range(0, self.processes.len() as u64) as usize;
        let process = self.processes.swap_remove(at);
        self.fault("kill -9");
        self.world.kill(process.number);
        if self.processes.is_empty() {
            oracle::resume(&self.world);
        }
    }

    /// A process ends as it should, or exits with its connections open.
    fn stop_one(&mut self, flushes: bool) {
        if self.processes.is_empty() {
            return;
        }
        let at = self.rng.range(0, self.processes.len() as u64) as usize;
        let process = self.processes.swap_remove(at);
        if flushes {
            self.fault("exit without close");
            self.world.tell(&format!("p{} exits", process.number));
            self.world.start(process.number, "exit", litestream_vfs::simulation::exit_process);
            self.world.sleep(Duration::from_millis(self.rng.range(0, 6_000)));
            self.world.kill(process.number);
        } else {
            self.world.tell(&format!("p{} is asked to stop", process.number));
            self.end(&process);
        }
        if self.processes.is_empty() {
            oracle::resume(&self.world);
        }
    }

    /// Waits for a process to close its connections, then ends it.
    fn end(&mut self, process: &Process) {
        process.control.stop.store(true, Ordering::SeqCst);
        let mut patience = 60_000;
        while !self.world.running(process.number).is_empty() && patience > 0 {
            self.world.sleep(Duration::from_millis(10));
            patience -= 1;
        }
        if patience == 0 {
            let left = self.world.running(process.number).join(", ");
            self.world.fail(&format!("p{} does not end: {left}", process.number));
        }
        self.world.kill(process.number);
    }

    /// A program without the library writes, beside the others or alone.
    fn foreigner(&mut self) {
        self.fault("foreign writer");
        if self.rng.chance(1, 2) {
            for process in std::mem::take(&mut self.processes) {
                self.end(&process);
            }
            oracle::resume(&self.world);
        }
        self.start_process(false);
        let until = self.commits() + self.rng.range(1, 40);
        self.pass(until, 2_000);
        if let Some(process) = self.processes.pop() {
            if self.rng.chance(1, 3) {
                self.world.kill(process.number);
            } else {
                self.end(&process);
            }
        }
        if self.processes.is_empty() {
            oracle::resume(&self.world);
        }
    }

    /// Somebody deletes the newest files in storage while nobody runs.
    fn vanish(&mut self) {
        for process in std::mem::take(&mut self.processes) {
            self.end(&process);
        }
        oracle::resume(&self.world);
        // Nothing may be on its way any more.
        self.world.sleep(Duration::from_secs(60));
        let n = self.rng.range(1, 5);
        self.fault("vanished");
        let left = locked(&self.world.storage).vanish(n);
        self.world.tell(&format!("{n} files vanish, the chain ends at {left:?}"));
    }

    /// Lets the others work until there are so many commits, or for so long.
    fn pass(&mut self, until: u64, mut patience: u64) {
        while self.commits() < until && patience > 0 && self.world.failure().is_none() {
            self.world.sleep(Duration::from_micros(self.rng.range(100, 20_000)));
            patience -= 1;
        }
    }

    fn outage(&mut self) {
        self.fault("outage");
        self.world.tell("storage is away");
        locked(&self.world.storage).outage = true;
        let until = self.commits() + self.rng.range(1, 100);
        self.pass(until, 5_000);
        locked(&self.world.storage).outage = false;
        self.world.tell("storage is back");
    }

    fn power_loss(&mut self) {
        self.fault("power loss");
        let numbers: Vec<u32> = self.processes.drain(..).map(|p| p.number).collect();
        self.world.power_loss(&numbers);
        oracle::resume(&self.world);
    }

    fn trouble(&mut self, place: Place) {
        let trouble = self.rng.pick(&[Trouble::Full, Trouble::Broken]);
        let one_in = self.rng.pick(&[1, 2, 10]);
        self.fault("disk trouble");
        self.world.tell(&format!("trouble: {trouble:?} at {place:?}, one in {one_in}"));
        locked(&self.world.disk).fault = Some(Fault { trouble, place, one_in });
        self.world.sleep(Duration::from_millis(self.rng.range(1, 3_000)));
        locked(&self.world.disk).fault = None;
        self.world.tell("the disk is well again");
    }

    /// No more faults: everything committed must come to storage.
    fn converge(&mut self) {
        self.world.tell("no more faults");
        locked(&self.world.storage).faults = Faults::default();
        for process in std::mem::take(&mut self.processes) {
            self.end(&process);
        }
        oracle::resume(&self.world);
        let number = self.world.new_process();
        let control = Arc::new(Control::default());
        let mut plan = self.plan.clone();
        plan.connections = 1;
        let session = Session::new(&self.world, plan, &control, self.rng.next(), true);
        self.world.tell(&format!("process p{number} is the last"));
        self.world.start(number, "last", move || session.settle());
        let mut waited = Duration::ZERO;
        while !self.world.running(number).is_empty() && waited < CALM {
            let nap = Duration::from_millis(50);
            self.world.sleep(nap);
            waited += nap;
        }
        self.world.kill(number);
        oracle::verify(&self.world);
        let (oracle, storage) = (locked(&self.world.oracle), locked(&self.world.storage));
        let stored = storage.newest().and_then(|l| oracle.last_place(&l.digest));
        let stored = stored.map_or(0, |place| place + 1);
        let behind = oracle.commits() - stored;
        drop((oracle, storage));
        if behind > 0 {
            self.world.fail(&format!("{behind} commits never came to storage"));
        }
    }

    fn finish(mut self) -> Report {
        if self.world.failure().is_none() {
            self.converge();
        }
        for process in std::mem::take(&mut self.processes) {
            self.world.kill(process.number);
        }
        // Requests under way in the network arrive.
        self.world.sleep(Duration::from_secs(60));
        let restores = if self.world.failure().is_none() { self.restores() } else { 0 };
        let world = &self.world;
        let (mut faults, disk_faults) = (self.faults, locked(&world.disk).faults_hit);
        {
            let storage = locked(&world.storage);
            for (name, n) in &storage.hit {
                *faults.entry((*name).to_owned()).or_default() += n;
            }
        }
        if disk_faults > 0 {
            faults.insert("disk fault".to_owned(), disk_faults);
        }
        let (commits, checks) = {
            let oracle = locked(&world.oracle);
            (oracle.commits() as u64, oracle.checks())
        };
        let files = locked(&world.storage).links().len() as u64;
        let (least, happened) = (self.plan.faults_min(), faults.values().sum::<u64>());
        if world.failure().is_none() && (commits < self.plan.commits || happened < least) {
            world.fail(&format!(
                "it did too little: {commits} of {} commits, {happened} of {least} faults",
                self.plan.commits
            ));
        }
        let report = Report {
            seed: self.plan.seed,
            commits,
            faults,
            files,
            restores,
            checks,
            hash: world.hash(),
            failure: world.failure(),
            story: world.story(usize::MAX / 2),
        };
        world.leave();
        report
    }

    /// Restores some states as the command line would, and looks at them.
    fn restores(&mut self) -> u64 {
        let (links, objects) = {
            let storage = locked(&self.world.storage);
            (storage.links().to_vec(), storage.objects())
        };
        let mut wanted: Vec<usize> =
            (0..8).map(|_| self.rng.range(0, links.len().max(1) as u64) as usize).collect();
        wanted.push(links.len().saturating_sub(1));
        let mut done = 0;
        for link in wanted.iter().filter_map(|&i| links.get(i)) {
            match restore::at(&objects, link.txid) {
                Ok((bytes, page_size)) => {
                    let image = Image::of(&bytes, page_size);
                    if image.digest() != link.digest {
                        self.world.fail(&format!("TXID {} restores to another state", link.txid));
                    }
                    done += 1;
                }
                Err(why) => self.world.fail(&format!("TXID {}: {why}", link.txid)),
            }
        }
        // Every file was laid over its predecessors when it arrived.
        done + links.len() as u64
    }
}
