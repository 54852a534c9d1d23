//! The comparison of a database with the chain that its URL holds.

use std::sync::Arc;

use crate::db::{Db, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{self, Builder};
use crate::ltx::{Pgno, lock_pgno, page_checksum};
use crate::plan::{Target, calc_restore_plan, list_levels};
use crate::replica_client::{FileInfo, ReplicaClient};
use crate::restore::{PageSink, ReplayOptions, replay};
use crate::{bookkeeping, difference, tasks};

use super::{Baseline, header_of};

/// Compares a state with the chain's newest one, whose newest file is `file`;
/// the text says what differs first. The chain's pages become the page ledger.
pub(super) async fn compare(
    db: &Arc<Db>,
    file: FileInfo,
    baseline: Baseline,
) -> Result<Option<String>> {
    let (db, runtime) = (Arc::clone(db), tasks::Handle::current());
    let for_work = Arc::clone(&db);
    let work = tasks::spawn_blocking(move || {
        let mut baseline = baseline;
        let found = compare_blocking(&for_work, &runtime, file, &mut baseline);
        (found, baseline)
    });
    let (found, baseline) = work.await.map_err(|e| {
        Error::new(ErrorKind::Internal, "comparing with the replica failed").with_source(e)
    })?;
    if found.is_err() {
        // The state of the first read is not to be had again.
        *lock(&db.baseline) = Some(tasks::spawn(async move { Some(baseline) }));
    }
    found
}

fn compare_blocking(
    db: &Arc<Db>,
    runtime: &tasks::Handle,
    file: FileInfo,
    baseline: &mut Baseline,
) -> Result<Option<String>> {
    let newest = runtime.block_on(header_of(db, file))?;
    let levels = runtime.block_on(list_levels(&*db.client.client, false))?;
    let plan = calc_restore_plan(&levels, Target::Latest)?;
    let client = Arc::clone(&db.client.client);
    let next = bookkeeping::begin_next(db);
    let mut sink = Compare { db, baseline, next, first: None, differing: 0, written: 0, commit: 0 };
    let summary = replay(client, runtime, &plan, &ReplayOptions::default(), &mut sink)?;
    if summary.txid != newest.max_txid {
        return Err(Error::new(
            ErrorKind::Transient,
            format!("{} was written to while it was compared", db.client.url()),
        ));
    }
    difference::complete(db, sink.next.take(), &newest);
    ledger::promote(&db.vfs_dir(), &newest)?;
    sink.judge_written();
    Ok(sink.text())
}

struct Compare<'a> {
    db: &'a Db,
    baseline: &'a mut Baseline,
    next: Option<Builder>,
    /// What differs first, and how many things do.
    first: Option<String>,
    differing: u64,
    /// Pages that differ because they were written since capture began.
    written: u64,
    /// Pages there.
    commit: Pgno,
}

impl Compare<'_> {
    /// What was written since hides what was there before. If that is much, it
    /// may have been another database's.
    fn judge_written(&mut self) {
        let lock = lock_pgno(self.baseline.page_size);
        let grown = self.commit.saturating_add(1)..=self.baseline.commit;
        let Some(set) = &self.baseline.written else { return };
        let missing = grown.into_iter().find(|p| *p != lock && !set.contains(*p));
        if let Some(pgno) = missing {
            self.note(|| format!("page {pgno} is not there"));
        }
        if self.written * 2 > u64::from(self.commit) {
            self.note(|| "most of it was written since it was opened".to_owned());
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        self.differing += 1;
        self.first.get_or_insert_with(what);
    }

    fn text(self) -> Option<String> {
        match self.differing {
            0 | 1 => self.first,
            n => self.first.map(|first| format!("{first} and {} more", n - 1)),
        }
    }
}

impl PageSink for Compare<'_> {
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()> {
        let b = (self.baseline.page_size, self.baseline.commit);
        self.commit = commit;
        if b.0 != page_size {
            self.note(|| format!("the page size is {} here and {page_size} there", b.0));
        } else if b.1 != commit && self.baseline.written.is_none() {
            self.note(|| format!("it has {} pages here and {commit} there", b.1));
        }
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        let sum = page_checksum(pgno, data);
        difference::note(self.db, &mut self.next, pgno, sum);
        let gone = self.baseline.written.is_some() && pgno > self.baseline.commit;
        if gone || self.baseline.sums.get(pgno)? == sum {
            return Ok(());
        }
        if self.baseline.written.as_ref().is_some_and(|set| set.contains(pgno)) {
            self.written += 1;
        } else {
            self.note(|| format!("page {pgno} differs"));
        }
        Ok(())
    }
}
