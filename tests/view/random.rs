//! Random histories, merged and pruned while sessions read them: every page is
//! that of the restored database, or there is an error that may be.

use std::collections::BTreeSet;

use litestream::ErrorKind;
use litestream::clock::{Random, SeededRandom};
use litestream::plan::Target;
use litestream::replica_client::FaultPlan;
use litestream::view::Session;

use crate::common::replica::{Replica, noise};
use crate::support::{Reader, eventually, faulty, image, pinned_image, txid};

const PAGE: usize = 512;

struct Model {
    random: SeededRandom,
    replica: Replica,
    /// The database after each transaction, from 1.
    states: Vec<Vec<u8>>,
    files: BTreeSet<(u8, u64, u64)>,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut model = Model {
            random: SeededRandom::new(seed),
            replica: Replica::new(),
            states: vec![noise(seed + 1, 150, PAGE)],
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
        self.replica.put_change(level, min, max, old, &self.states[max as usize - 1], PAGE);
        self.files.insert((level, min, max));
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
                    assert!(image == self.states[n - 1], "transaction {n}");
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

fn rounds(seed: u64, plan: FaultPlan) {
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
        let last = model.last();
        eventually("the newest transaction", || {
            session.refresh().is_ok_and(|newest| newest.0 == last)
        });
        eventually("the newest state", || model.check(&mut session, false).is_ok());
        assert_eq!(session.txid().0, last);
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
    (0..6).for_each(|seed| rounds(seed, FaultPlan::default()));
}

#[test]
fn every_page_is_of_its_transaction_while_storage_fails() {
    let plan =
        FaultPlan { refuse: 0.05, truncated_read: 0.05, stale_list: 0.1, ..FaultPlan::default() };
    (100..104).for_each(|seed| rounds(seed, plan));
}
