//! Who waits for storage, and how a process that does not ship learns that its
//! commits are there: from the position file and from what the one that ships
//! recorded.

use std::time::Duration;

use crate::capture::Capture;
use crate::db::{Db, History, Wait, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::{Header, Txid};
use crate::node::Node;
use crate::shipped::{self, Shipped};
use crate::tasks;

/// How often a process whose commits wait for another one asks whether that
/// one still ships.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// How often somebody who waits looks for the acknowledgement.
const WAIT_SLICES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(20));

impl Db {
    /// The smallest TXID sure to contain what is committed now; none while
    /// storage has not told where the chain stands.
    pub fn txid(&self) -> Option<Txid> {
        if self.is_faulted() {
            return None;
        }
        if !self.ships() {
            return self.txid_elsewhere();
        }
        let (trusted, history) = {
            let ship = lock(&self.ship);
            (ship.trusted, ship.history.clone())
        };
        match history {
            History::Agreed => Some(self.txid_if_agreed()),
            // While only a repair can continue the chain, storage tells where it stands.
            History::Unknown if trusted && self.is_settled() && self.peek().gap().is_none() => {
                Some(self.txid_if_agreed())
            }
            _ => None,
        }
    }

    fn txid_if_agreed(&self) -> Txid {
        let capture = self.peek();
        let ship = lock(&self.ship);
        let open = capture.has_open() || capture.gap().is_some();
        let sealed =
            if self.is_caught_up() && !open { ship.sealed_txid } else { ship.sealed_txid.next() };
        drop(ship);
        self.doubtful(&capture).map_or(sealed, |txid| sealed.max(txid.next()))
    }

    /// The newest TXID under which an attempt that was given up may be in storage
    /// or come there still: then it is not what is captured now that gets it.
    fn doubtful(&self, capture: &Capture) -> Option<Txid> {
        let (Ok(attempts), Ok(acked)) = (shipped::attempts(&self.vfs_dir()), self.acked()) else {
            return Some(capture.open_txid());
        };
        // The snapshot under way is the last of them.
        let pending = capture.position().snapshot_pending;
        let under_way = usize::from(capture.gap().is_none() && pending != Txid(0));
        let given_up = attempts.len().saturating_sub(under_way);
        let headers = attempts[..given_up].iter().filter_map(|h| Header::decode(h).ok());
        headers.map(|h| h.max_txid).filter(|txid| *txid > acked).max()
    }

    /// The TXID of the newest captured commit, or of the repair that will have it.
    fn newest(&self, capture: &Capture) -> Txid {
        let next = capture.open_txid();
        let newest = if capture.has_open() || capture.gap().is_some() { next } else { next.prev() };
        self.doubtful(capture).map_or(newest, |txid| newest.max(txid.next()))
    }

    /// While another process may seal, only what is captured has its TXID.
    fn txid_elsewhere(&self) -> Option<Txid> {
        if self.is_in_conflict() {
            return None;
        }
        let mut guard = self.capture();
        let capture = guard.as_mut()?;
        if !self.is_caught_up() {
            self.capture_locked(capture).ok()?;
        }
        let known = is_told(capture) && self.is_settled();
        let txid = known.then(|| self.newest(capture));
        self.release_if_idle(capture);
        txid
    }

    /// Closes what a look opened, when nobody else would.
    fn release_if_idle(&self, capture: &mut Capture) {
        let works = self.ships() || lock(&self.ship).running;
        if !works && !capture.has_open() && self.is_caught_up() {
            capture.release();
        }
    }

    /// The TXID that others have to see stored for this process to be done;
    /// none when storage has it.
    pub(crate) fn left_to_others(&self, capture: &Capture) -> Option<Txid> {
        let txid = self.newest(capture);
        let done = self.is_caught_up()
            && self.acked().is_ok_and(|acked| acked >= txid)
            && self.is_of_record(capture).unwrap_or(false);
        (!done).then_some(txid)
    }

    /// Whether what storage is recorded to have goes by the TXIDs of the record.
    /// When somebody else extended the chain, or it was adopted, the gap is
    /// declared before the new end is recorded; the TXID of the open segment
    /// follows, and a repair holds what was captured before. Until that is
    /// stored, the newest file was not written from here.
    pub(crate) fn is_of_record(&self, capture: &Capture) -> Result<bool> {
        let Some((acked, header)) = Shipped::load(&self.vfs_dir())? else { return Ok(false) };
        let next = capture.open_txid();
        if !is_told(capture) || capture.position().snapshot_pending > acked || next <= acked {
            return Ok(false);
        }
        let nothing_waits = !capture.has_open() && next == acked.next();
        Ok(nothing_waits || Node::wrote_here(&self.vfs_dir(), Header::decode(&header)?.node_id)?)
    }

    /// Another process ships: while something of this one waits, that one is
    /// watched.
    pub(crate) fn watch(&self) {
        *lock(&self.last_seal) = Some(tasks::now());
        if let Some(store) = self.store.upgrade() {
            store.schedule(self.identity, WATCH_PAUSE);
        }
    }

    /// Whether the TXIDs of the record are those of storage: after a power loss
    /// storage can have more from here, until whoever ships has asked it.
    fn is_settled(&self) -> bool {
        Node::is_settled(&self.vfs_dir()).unwrap_or(false)
    }

    /// The newest TXID that storage is recorded to have.
    fn acked(&self) -> Result<Txid> {
        if self.ships() {
            return Ok(lock(&self.ship).acked);
        }
        if !self.is_settled() {
            return Ok(Txid(0));
        }
        Ok(Shipped::load(&self.vfs_dir())?.map_or(Txid(0), |(txid, _)| txid))
    }

    /// Waits until storage has acknowledged everything committed so far.
    ///
    /// # Errors
    /// `Transient` when `timeout` passes first, `Conflict` when nothing is
    /// shipped because the replica holds another history, `Internal` after a fault.
    pub fn sync(&self, timeout: Wait) -> Result<Txid> {
        let done = self.wait_for_storage(timeout);
        if self.has_retired() {
            return done;
        }
        if let Some(capture) = self.capture().as_mut() {
            self.release_if_idle(capture);
        }
        done
    }

    fn wait_for_storage(&self, timeout: Wait) -> Result<Txid> {
        let deadline = tasks::now() + timeout;
        self.capture_and_seal()?;
        if self.ships() {
            self.hurry();
        } else {
            self.ask_for_haste();
        }
        let (mut target, mut role, mut looked) = (None, None, tasks::now());
        loop {
            if self.is_faulted() {
                // What was committed since is nowhere but in the database.
                return Err(self.fault_error());
            }
            // Storage may have more than is recorded, from here after a power loss, or
            // from others: no TXID is sure before it answered, and none outlasts that.
            let now = self.role();
            let sure = self.txid();
            let told = self.is_told_by(now);
            if role.replace(now) != Some(now) || !told {
                target = None;
            }
            // Later answers are sure as well, and can be lower: a file that was given
            // up leaves its TXID to the next one.
            if told && let Some(sure) = sure {
                target = Some(target.map_or(sure, |t: Txid| t.min(sure)));
            }
            let (acked, ships, all) = (self.acked()?, self.ships(), self.is_all_shipped());
            let stored = target.is_some_and(|t| acked >= t) && (ships || self.has_stored()?);
            let same = self.role() == now;
            let ship = lock(&self.ship);
            if let History::Conflict(why) = &ship.history {
                return Err(Error::new(ErrorKind::Conflict, why.clone()));
            }
            let known = !ships || ship.history == History::Agreed;
            if known && (all || (stored && same)) {
                return Ok(acked);
            }
            let left = deadline.saturating_duration_since(tasks::now());
            if left.is_zero() {
                let why = ship.last_error.clone().unwrap_or_else(|| "no answer yet".to_owned());
                return Err(late(target, &why));
            }
            // A full queue makes room only with acknowledgements, each of which signals.
            let slice = left.min(if ships { WAIT_SLICES.0 } else { WAIT_SLICES.1 });
            let ship = self.ship_signal.wait_for(&self.ship, ship, slice);
            // After a failure the shipper's pause decides when to try again.
            let room = ship.history == History::Agreed
                && ship.pending.is_empty()
                && ship.last_error.is_none();
            drop(ship);
            if (ships && room) || tasks::now() - looked >= WAIT_SLICES.0 {
                looked = tasks::now();
                self.capture_and_seal()?;
                self.kick_if_shipping();
            }
        }
    }

    /// Whether this process ships, and how often it agreed with storage: what a
    /// TXID means to it may be another one when that changes.
    fn role(&self) -> (bool, u64) {
        (self.ships(), lock(&self.ship).agreed)
    }

    /// Whether a TXID is sure for this process as long as it is in this role.
    fn is_told_by(&self, (ships, _): (bool, u64)) -> bool {
        if ships { lock(&self.ship).history == History::Agreed } else { is_told(&self.peek()) }
    }

    /// Of a process that does not ship: the newest file in storage is one of the
    /// chain that the record goes by.
    fn has_stored(&self) -> Result<bool> {
        self.capture().as_mut().map_or(Ok(false), |capture| self.is_of_record(capture))
    }

    fn fault_error(&self) -> Error {
        let why = format!("replication of {} stopped by an internal fault", self.path.display());
        Error::new(ErrorKind::Internal, why + ": restart the process and report its log")
    }

    /// Starts the shipper if this process ships.
    fn kick_if_shipping(&self) {
        if self.ships() {
            self.kick();
        }
    }

    /// Nothing is captured, spooled or on its way that storage has not acknowledged.
    fn is_all_shipped(&self) -> bool {
        let capture = self.peek();
        let rests = !capture.has_open()
            && capture.gap().is_none()
            && capture.position().snapshot_pending == Txid(0)
            && self.doubtful(&capture).is_none();
        self.ships() && rests && lock(&self.ship).pending.is_empty() && self.is_caught_up()
    }

    /// Everything that this process committed is in storage, as far as it can know.
    pub(crate) fn is_safe_elsewhere(&self) -> bool {
        let mut guard = self.capture();
        guard.as_mut().is_some_and(|capture| self.left_to_others(capture).is_none())
    }
}

/// Whether the TXIDs of the record are those of the chain: storage was asked, and
/// no repair has to continue it.
fn is_told(capture: &Capture) -> bool {
    capture.gap().is_none() && !capture.position().unknown_chain
}

fn late(target: Option<Txid>, why: &str) -> Error {
    Error::new(
        ErrorKind::Transient,
        match target {
            Some(t) => format!("storage has not acknowledged TXID {t} in time: {why}"),
            None => format!("storage has not answered in time: {why}"),
        },
    )
}
