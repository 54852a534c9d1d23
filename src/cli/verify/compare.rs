//! Replica against database, page by page, in bounded memory.
//!
//! One pass reads the whole replica and compares each page with the database's.
//! Pages that differ may only be newer here: they are followed through the files
//! that storage gets meanwhile, and looked at again, until they are equal or
//! nothing waits for storage any more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::database::Database;
use super::local::Local;
use crate::bookkeeping::files_after;
use crate::capture::Published;
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Pgno, Txid, lock_pgno, page_checksum};
use crate::plan::Target;
use crate::replica_client::ReplicaClient;
use crate::restore::{PageSink, ReplayOptions, plan, replay, replay_changes};

/// Pages that are followed; when more differ the pass is repeated instead.
const FOLLOWED_MAX: usize = 1 << 18;
/// Whole passes at most.
const PASSES_MAX: u32 = 3;
/// Between two looks at the pages that differ.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether the replica is the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every page that could be compared is the same.
    Equal,
    /// Pages differ although nothing waits for storage.
    Differs,
    /// Pages differ, and commits wait for storage still.
    Behind,
}

/// What was found.
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// The state of the replica that the database was compared with last.
    pub(super) txid: Txid,
    pub(super) page_size: u32,
    /// Size of the database and of that state in pages.
    pub(super) commits: (Pgno, Pgno),
    /// Pages compared.
    pub(super) compared: u64,
    /// Pages that differ, ascending; of more than can be followed the first.
    pub(super) pages: Vec<Pgno>,
    /// How many differ.
    pub(super) differing: u64,
    /// Pages that were written all the time and could not be compared.
    pub(super) busy: u64,
}

/// What to compare.
pub(super) struct Comparison<'a> {
    pub(super) path: &'a Path,
    pub(super) client: Arc<dyn ReplicaClient>,
    pub(super) rt: &'a Handle,
    pub(super) local: Option<Local>,
    pub(super) options: ReplayOptions,
    /// How long commits may take to reach storage.
    pub(super) timeout: Duration,
}

/// A page that differs.
struct Suspect {
    /// Checksum of the replica's page.
    sum: u64,
    /// Checksum of the database's page as last seen, and at which look first.
    seen: Option<(u64, usize)>,
    state: State,
}

/// Why a page may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may be newer here.
    Open,
    /// It was written since the comparison began.
    Written,
    /// Storage has everything that was committed when it was seen, and has
    /// another page.
    Certain,
}

/// A look at the database.
struct Look {
    /// The end of the WAL before its pages were read.
    published: Option<Published>,
    /// The transaction that is sure to hold what was committed by then, once that
    /// is captured: on a busy database a moment later.
    target: Option<Txid>,
}

/// A state of the replica and the pages of the database that are not its.
struct Pass<'a> {
    path: &'a Path,
    database: Option<Database>,
    commit: Pgno,
    page_size: u32,
    txid: Txid,
    suspects: BTreeMap<Pgno, Suspect>,
    looks: Vec<Look>,
    /// Pages that differ beyond those.
    more: u64,
    compared: u64,
    buf: Vec<u8>,
}

impl Comparison<'_> {
    /// # Errors
    /// The replica cannot be read or the database not be opened.
    pub(super) fn run(&self) -> Result<Finding> {
        for _ in 1..PASSES_MAX {
            let mut pass = self.pass()?;
            let verdict = self.settle(&mut pass)?;
            if pass.more == 0 || verdict == Verdict::Equal {
                return pass.finding(verdict);
            }
        }
        let mut pass = self.pass()?;
        let verdict = self.settle(&mut pass)?;
        pass.finding(verdict)
    }

    fn pass(&self) -> Result<Pass<'_>> {
        // Before the database is looked at: it has at least that state.
        let target = match &self.local {
            Some(local) => local.replicated()?.map_or(Target::Latest, Target::Txid),
            None => Target::Latest,
        };
        let files = match plan(&*self.client, self.rt, target, false, &self.options.retrier) {
            // Files were merged meanwhile; the newest state can always be had.
            Err(e) if e.kind() == ErrorKind::NotFound && target != Target::Latest => {
                plan(&*self.client, self.rt, Target::Latest, false, &self.options.retrier)?
            }
            other => other?,
        };
        let mut pass = Pass::new(self.path);
        let client = Arc::clone(&self.client);
        let summary = replay(client, self.rt, &files, &self.options, &mut pass)?;
        (pass.txid, pass.commit) = (summary.txid, summary.commit);
        pass.compared = summary.pages;
        Ok(pass)
    }

    /// Follows the pages that differ for as long as that may change.
    fn settle(&self, pass: &mut Pass<'_>) -> Result<Verdict> {
        let deadline = Instant::now() + self.timeout;
        let mut idle_since: Option<Database> = None;
        loop {
            let database = Database::open(self.path, pass.page_size)?;
            pass.looks.push(Look { published: database.published(), target: None });
            self.find_targets(&mut pass.looks)?;
            let target = pass.looks.last().and_then(|l| l.target);
            pass.look(&database)?;
            let equal = pass.is_equal(&database)?;
            let before = idle_since.replace(database);
            if equal {
                return Ok(Verdict::Equal);
            }
            let at = pass.txid;
            self.advance(pass)?;
            let late = Instant::now() >= deadline;
            if let (Some(before), Some(now)) = (before, &idle_since)
                && pass.txid == at
                && before.is_same_state(now)
                && (self.local.is_none() || target.is_some_and(|t| t <= at))
            {
                // Nothing is newer here than there, and nothing moves.
                pass.suspects.values_mut().for_each(|s| s.state = State::Certain);
                pass.database = idle_since;
                return Ok(Verdict::Differs);
            }
            if let Some(verdict) = pass.verdict(idle_since.as_ref(), late)? {
                pass.database = idle_since;
                return Ok(verdict);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// What the looks saw is captured by and by.
    fn find_targets(&self, looks: &mut [Look]) -> Result<()> {
        let Some(local) = &self.local else { return Ok(()) };
        let Some(captured) = local.captured()? else { return Ok(()) };
        for look in looks.iter_mut().filter(|l| l.target.is_none()) {
            look.target = captured.target(look.published);
        }
        Ok(())
    }

    /// The newest transaction in storage, from `at` on.
    fn newest(&self, at: Txid) -> Result<Txid> {
        if let Some(local) = &self.local {
            return Ok(local.replicated()?.unwrap_or(at).max(at));
        }
        let found = self.rt.block_on(self.client.list(0, at.next(), false))?;
        Ok(found.iter().map(|f| f.id.max).max().unwrap_or(at))
    }

    /// Brings the pass to the newest state of the replica.
    fn advance(&self, pass: &mut Pass<'_>) -> Result<Txid> {
        let newest = self.newest(pass.txid)?;
        if newest == pass.txid {
            return Ok(newest);
        }
        let files = self.rt.block_on(files_after(&*self.client, pass.txid, newest))?;
        let client = Arc::clone(&self.client);
        let mut sink = Newer { pass };
        let header = replay_changes(client, self.rt, &files, &self.options, &mut sink)?;
        (pass.txid, pass.commit) = (header.max_txid, header.commit);
        let commit = pass.commit;
        pass.suspects.retain(|&pgno, _| pgno <= commit);
        Ok(newest)
    }
}

impl<'a> Pass<'a> {
    fn new(path: &'a Path) -> Self {
        Pass {
            path,
            database: None,
            commit: 0,
            page_size: 0,
            txid: Txid::NONE,
            suspects: BTreeMap::new(),
            looks: Vec::new(),
            more: 0,
            compared: 0,
            buf: Vec::new(),
        }
    }

    /// Drops the pages that are equal now.
    fn look(&mut self, database: &Database) -> Result<()> {
        let now = self.looks.len().saturating_sub(1);
        // Storage has what was committed before this look. A page seen at an earlier
        // one was: a checkpoint can show it before the end that was read with it.
        let stored = self.looks.iter().rposition(|l| l.target.is_some_and(|t| t <= self.txid));
        let (buf, mut equal) = (&mut self.buf, Vec::new());
        for (&pgno, suspect) in &mut self.suspects {
            database.page(pgno, buf)?;
            let sum = page_checksum(pgno, buf);
            match suspect.seen {
                _ if sum == suspect.sum => equal.push(pgno),
                Some((seen, first)) if seen == sum => {
                    if stored.is_some_and(|at| first < at) && suspect.state == State::Open {
                        suspect.state = State::Certain;
                    }
                }
                _ => suspect.seen = Some((sum, now)),
            }
        }
        for pgno in equal {
            self.suspects.remove(&pgno);
        }
        Ok(())
    }

    /// What is sure, or, when it is `late`, what can be said.
    fn verdict(&self, now: Option<&Database>, late: bool) -> Result<Option<Verdict>> {
        let all = |state| self.suspects.values().all(|s| s.state == state);
        let any = |state| self.suspects.values().any(|s| s.state == state);
        let commit = now.map_or(Ok(self.commit), Database::commit)?;
        if any(State::Certain) && (late || !any(State::Open)) {
            return Ok(Some(Verdict::Differs));
        }
        Ok(match late {
            false => None,
            true if all(State::Written) && self.more == 0 && !self.suspects.is_empty() => {
                Some(Verdict::Equal)
            }
            true if self.suspects.is_empty() && self.more == 0 && commit == self.commit => {
                Some(Verdict::Equal)
            }
            true => Some(Verdict::Behind),
        })
    }

    fn is_equal(&self, database: &Database) -> Result<bool> {
        Ok(self.suspects.is_empty() && self.more == 0 && database.commit()? == self.commit)
    }

    fn finding(self, verdict: Verdict) -> Result<Finding> {
        let commit = match &self.database {
            Some(database) => database.commit()?,
            None => self.commit,
        };
        let lock = lock_pgno(self.page_size);
        let commits = (if verdict == Verdict::Equal { self.commit } else { commit }, self.commit);
        // What the replica does not have at all.
        let tail = self.commit.saturating_add(1)..=commits.0;
        let missing = tail.clone().filter(|&p| p != lock).count() as u64;
        let is_busy = |s: &Suspect| s.state == State::Written;
        let busy = self.suspects.values().filter(|s| is_busy(s)).count() as u64;
        let known = self.suspects.iter().filter(|(_, s)| !is_busy(s)).map(|(&p, _)| p);
        let mut pages: Vec<Pgno> = known.collect();
        let differing = pages.len() as u64 + self.more + missing;
        pages.extend(tail.filter(|&p| p != lock).take(FOLLOWED_MAX));
        Ok(Finding {
            verdict,
            txid: self.txid,
            page_size: self.page_size,
            commits,
            compared: self.compared - busy,
            pages,
            differing,
            busy,
        })
    }
}

impl PageSink for Pass<'_> {
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()> {
        let database = Database::open(self.path, page_size)?;
        self.database = Some(database);
        (self.page_size, self.commit) = (page_size, commit);
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        let Some(database) = &self.database else {
            return Err(Error::new(ErrorKind::Internal, "a page came before the page size"));
        };
        database.page(pgno, &mut self.buf)?;
        if self.buf == data {
            return Ok(());
        }
        if self.suspects.len() < FOLLOWED_MAX {
            let sum = page_checksum(pgno, data);
            self.suspects.insert(pgno, Suspect { sum, seen: None, state: State::Open });
        } else {
            self.more += 1;
        }
        Ok(())
    }
}

/// Notes what newer files say about the pages that differ.
struct Newer<'p, 'a> {
    pass: &'p mut Pass<'a>,
}

impl PageSink for Newer<'_, '_> {
    fn begin(&mut self, page_size: u32, _: Pgno) -> Result<()> {
        if page_size == self.pass.page_size {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "the page size of the replica changed"))
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        if let Some(suspect) = self.pass.suspects.get_mut(&pgno) {
            let sum = page_checksum(pgno, data);
            *suspect = Suspect { sum, seen: None, state: State::Written };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a busy database nothing is ever captured to its very end.
    #[test]
    fn a_page_that_stands_still_is_judged_once_what_a_look_saw_is_stored() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("db");
        std::fs::write(&path, [7_u8; 1024]).unwrap();
        let mut pass = Pass::new(&path);
        (pass.page_size, pass.commit, pass.txid) = (512, 2, Txid(5));
        pass.suspects.insert(2, Suspect { sum: 1, seen: None, state: State::Open });
        let look = |pass: &mut Pass<'_>, known: &[(usize, u64)]| {
            pass.looks.push(Look { published: None, target: None });
            for &(at, txid) in known {
                pass.looks[at].target = Some(Txid(txid));
            }
            pass.look(&Database::open(&path, 512).unwrap()).unwrap();
            pass.suspects[&2].state
        };
        assert_eq!(look(&mut pass, &[]), State::Open);
        assert_eq!(look(&mut pass, &[]), State::Open);
        // What was seen first may be newer than the end that was read before it.
        assert_eq!(look(&mut pass, &[(0, 5)]), State::Open);
        // Storage has less.
        assert_eq!(look(&mut pass, &[(1, 6)]), State::Open);
        assert_eq!(look(&mut pass, &[(2, 5)]), State::Certain);
        assert_eq!(pass.verdict(None, false).unwrap(), Some(Verdict::Differs));
    }

    #[test]
    fn a_page_that_is_written_meanwhile_is_looked_at_anew() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("db");
        let mut pass = Pass::new(&path);
        (pass.page_size, pass.commit, pass.txid) = (512, 2, Txid(5));
        pass.suspects.insert(2, Suspect { sum: 1, seen: None, state: State::Open });
        for n in 0..4 {
            std::fs::write(&path, [n; 1024]).unwrap();
            pass.looks.push(Look { published: None, target: Some(Txid(5)) });
            pass.look(&Database::open(&path, 512).unwrap()).unwrap();
            assert_eq!(pass.suspects[&2].state, State::Open);
        }
    }
}
