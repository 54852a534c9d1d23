//! Random histories, merged and pruned while sessions read them: every page is
//! that of the restored database, or there is an error that may be.

use std::collections::BTreeSet;

use litestream::ErrorKind;
use litestream::clock::{Random, SeededRandom};
use litestream::ltx::{Encoder, Header, PageForm, Pgno, Txid};
use litestream::plan::Target;
use litestream::replica_client::FaultPlan;
use litestream::view::Session;

use crate::common::replica::{EPOCH_MS, Replica, noise};
use crate::support::{Reader, eventually, faulty, image, pinned_image, txid};

const PAGE: usize = 512;

struct Model {
    random: SeededRandom,
    replica: Replica,
    /// The database after each transaction, from 1.
    states: Vec<Vec<u8>>,
    /// The same of chains that were deleted.
    earlier: Vec<Vec<Vec<u8>>>,
    files: BTreeSet<(u8, u64, u64)>,
}

/// The file that brings a database from `old` to `new`.
fn encode(min: u64, max: u64, old: &[u8], new: &[u8], ms: i64) -> Vec<u8> {
    let commit = (new.len() / PAGE) as Pgno;
    let header = Header::new(PAGE as u32, commit, Txid(min), Txid(max), ms);
    let mut encoder = Encoder::new(Vec::new(), header, PageForm::Block).unwrap();
    for (n, page) in new.chunks(PAGE).enumerate() {
        if old.get(n * PAGE..(n + 1) * PAGE) != Some(page) {
            encoder.encode_page(n as Pgno + 1, page).unwrap();
        }
    }
    encoder.finish().unwrap().0
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut model = Model {
            random: SeededRandom::new(seed),
            replica: Replica::new(),
            states: vec![noise(seed + 1, 150, PAGE)],
            earlier: Vec::new(),
            files: BTreeSet::new(),
        };
        model.put(0, 1, 1);
        model
    }

    fn draw(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    fn last(&self) -> u64 {
        self.states.len() as u64
    }

    fn put(&mut self, level: u8, min: u64, max: u64) {
        let empty = Vec::new();
        let old = if min == 1 { &empty } else { &self.states[min as usize - 2] };
        // Every chain has times of its own.
        let ms = EPOCH_MS + max as i64 * 1_000 + self.earlier.len() as i64;
        let bytes = encode(min, max, old, &self.states[max as usize - 1], ms);
        self.replica.put(level, min, max, &bytes, ms);
        self.files.insert((level, min, max));
    }

    /// Deletes everything and begins anew, perhaps with as many transactions.
    fn restart(&mut self) {
        for (level, min, max) in std::mem::take(&mut self.files) {
            std::fs::remove_file(self.replica.file(level, min, max)).unwrap();
        }
        let pages = 1 + self.draw(200) as usize;
        let first = vec![noise(self.random.next_u64(), pages, PAGE)];
        let states = std::mem::replace(&mut self.states, first);
        let had = states.len() as u64;
        self.earlier.push(states);
        self.put(0, 1, 1);
        (0..self.draw(had + 5)).for_each(|_| self.commit());
    }

    /// One transaction: some pages change, the database may grow or shrink.
    fn commit(&mut self) {
        let mut next = self.states.last().unwrap().clone();
        let had = next.len() / PAGE;
        let pages = match self.draw(5) {
            0 => 1 + self.draw(300) as usize,
            1 => had + self.draw(20) as usize,
            _ => had,
        };
        let fresh = noise(self.random.next_u64(), pages.max(had) + 1, PAGE);
        next.resize(pages * PAGE, 0);
        // What is new is written.
        if pages > had {
            next[had * PAGE..].copy_from_slice(&fresh[had * PAGE..pages * PAGE]);
        }
        for _ in 0..1 + self.draw(30) {
            let n = self.draw(pages as u64) as usize * PAGE;
            next[n..n + PAGE].copy_from_slice(&fresh[n..n + PAGE]);
        }
        self.states.push(next);
        self.put(0, self.last(), self.last());
    }

    /// Merges a stretch, or snapshots.
    fn merge(&mut self) {
        let last = self.last();
        if self.draw(6) == 0 {
            let max = 1 + self.draw(last);
            return self.put(9, 1, max);
        }
        let level = 1 + self.draw(3) as u8;
        let min = 1 + self.draw(last);
        let max = min + self.draw((last - min + 1).min(12));
        self.put(level, min, max);
    }

    /// Deletes files that the newest state does not need.
    fn prune(&mut self) {
        for file in self.files.clone() {
            if self.draw(3) > 0 {
                continue;
            }
            self.files.remove(&file);
            if self.covers() {
                std::fs::remove_file(self.replica.file(file.0, file.1, file.2)).unwrap();
            } else {
                self.files.insert(file);
            }
        }
    }

    /// Whether the files lead to the newest state.
    fn covers(&self) -> bool {
        let mut cover = 0;
        loop {
            let next = self.files.iter().filter(|f| f.1 <= cover + 1).map(|f| f.2).max();
            match next {
                Some(max) if max > cover => cover = max,
                _ => return cover == self.last(),
            }
        }
    }

    /// What `session` shows is the state of its transaction.
    fn check(&self, session: &mut Session, pinned: bool) -> Result<(), ErrorKind> {
        let read = if pinned { pinned_image(session) } else { image(session) };
        match read {
            Ok(image) => {
                if session.is_pinned() || !pinned {
                    let n = session.txid().0 as usize;
                    let chains = self.earlier.iter().chain([&self.states]);
                    let found = chains.filter_map(|chain| chain.get(n - 1)).any(|s| *s == image);
                    assert!(found, "transaction {n}");
                }
                Ok(())
            }
            Err(e) => {
                let may_be = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Transient);
                assert!(may_be, "{e}");
                Err(e.kind())
            }
        }
    }
}

fn rounds(seed: u64, plan: FaultPlan, restarts: bool) {
    let mut model = Model::new(seed);
    let client = faulty(&model.replica, seed);
    let reader = Reader::new();
    let mut session = reader.open_client(client.clone()).unwrap();
    let mut pinned = reader.open_client(client.clone()).unwrap();
    let mut past: Option<Session> = None;
    client.set_plan(plan);
    for _ in 0..60 {
        for _ in 0..model.draw(4) {
            model.commit();
        }
        if model.draw(3) == 0 {
            model.merge();
        }
        if model.draw(4) == 0 {
            model.prune();
        }
        if restarts && model.draw(8) == 0 {
            model.restart();
        }
        match model.draw(6) {
            0 => pinned.unpin(),
            1 => drop(pinned.pin()),
            2 => {
                let target = txid(1 + model.draw(model.last()));
                let url = &crate::support::quiet(&model.replica.url());
                past = reader.sources.open(url, target).ok();
            }
            _ => {}
        }
        let newest = model.states.last().unwrap();
        eventually("the newest state", || {
            let _ = session.refresh();
            let shown = image(&mut session);
            model.check(&mut session, false).is_ok() && shown.is_ok_and(|image| image == *newest)
        });
        assert_eq!(session.txid().0, model.last());
        if pinned.is_pinned() {
            let _ = model.check(&mut pinned, true);
        }
        if let Some(past) = &mut past {
            let _ = model.check(past, false);
        }
    }
    assert_eq!(session.target(), Target::Latest);
}

#[test]
fn every_page_is_of_its_transaction() {
    seeds(0, 6).for_each(|seed| rounds(seed, FaultPlan::default(), false));
}

#[test]
fn every_page_is_of_its_transaction_while_storage_fails() {
    let plan =
        FaultPlan { refuse: 0.05, truncated_read: 0.05, stale_list: 0.1, ..FaultPlan::default() };
    seeds(100_000, 4).for_each(|seed| rounds(seed, plan, false));
}

#[test]
fn chains_that_are_begun_anew_are_never_mixed() {
    seeds(200_000, 4).for_each(|seed| rounds(seed, FaultPlan::default(), true));
}

#[test]
fn chains_that_are_begun_anew_are_never_mixed_while_storage_fails() {
    let plan = FaultPlan { refuse: 0.05, truncated_read: 0.05, ..FaultPlan::default() };
    seeds(300_000, 3).for_each(|seed| rounds(seed, plan, true));
}

/// So many seeds from `first`, or `VIEW_SEEDS` times as many.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("VIEW_SEEDS").map_or(1, |text| text.parse().unwrap());
    first..first + count * factor
}
