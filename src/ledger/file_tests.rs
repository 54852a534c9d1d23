use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::ltx::{CHECKSUM_FLAG, RollingChecksum, lock_pgno, page_checksum};

const REPLICA: u64 = 5;
const BOOT: [u8; 16] = [1; 16];

/// An L0 file: TXID, database size, pages with the first byte of their content.
#[derive(Debug, Clone)]
struct L0 {
    txid: u64,
    commit: Pgno,
    pages: BTreeMap<Pgno, u8>,
}

impl L0 {
    fn header(&self) -> ltx::Header {
        ltx::Header::new(512, self.commit, Txid(self.txid), Txid(self.txid), self.txid as i64)
    }

    fn sums(&self) -> Vec<(Pgno, u64)> {
        self.pages.iter().map(|(&p, &fill)| (p, page_checksum(p, &[fill; 512]))).collect()
    }
}

fn l0(txid: u64, commit: Pgno, pages: &[(Pgno, u8)]) -> L0 {
    L0 { txid, commit, pages: pages.iter().copied().collect() }
}

fn build(dir: &Path, file: &L0) {
    let mut b = Builder::create(dir, REPLICA, None).unwrap();
    for (p, sum) in file.sums() {
        b.set(p, sum).unwrap();
    }
    b.finish(&file.header()).unwrap();
    assert!(promote(dir, &file.header()).unwrap());
}

fn load(dir: &Path) -> Ledger {
    Ledger::load(dir, REPLICA).unwrap().unwrap()
}

/// Applies `file` but ends after `pages` pages, like a killed process.
fn apply_cut(ledger: &mut Ledger, file: &L0, pages: usize) {
    let sums = file.sums();
    let done = ledger.apply(&file.header(), |put| {
        for &(p, sum) in &sums[..pages.min(sums.len())] {
            put(p, sum)?;
        }
        Err(Error::new(ErrorKind::Internal, "killed"))
    });
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Internal);
    ledger.sums.flush().unwrap();
}

fn apply(ledger: &mut Ledger, file: &L0) -> Result<()> {
    let sums = file.sums();
    ledger.apply(&file.header(), |put| sums.iter().try_for_each(|&(p, sum)| put(p, sum)))
}

fn expect(ledger: &mut Ledger, state: &BTreeMap<Pgno, u8>, file: &L0) {
    assert!(ledger.is_state_of(&file.header()), "{:?}", ledger.header());
    ledger.check().unwrap();
    let mut sum = RollingChecksum::EMPTY;
    for pgno in 1..=file.commit {
        let want = state.get(&pgno).map_or(0, |&fill| page_checksum(pgno, &[fill; 512]));
        assert_eq!(ledger.sums().get(pgno).unwrap(), want, "page {pgno}");
        if want != 0 {
            sum.toggle(want);
        }
    }
    assert_eq!(ledger.header().totals.checksum, sum);
}

#[test]
fn updates_follow_one_another_and_shrink_and_grow() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &l0(1, 3, &[(1, 1), (2, 1), (3, 1)]));
    let mut ledger = load(dir.path());
    let skips = apply(&mut ledger, &l0(3, 3, &[(1, 3)])).unwrap_err();
    assert_eq!(skips.kind(), ErrorKind::InvalidInput);
    apply(&mut ledger, &l0(2, 1, &[(1, 2), (3, 9)])).unwrap();
    let grown = l0(3, 4, &[(2, 3), (3, 3), (4, 3)]);
    apply(&mut ledger, &grown).unwrap();
    expect(&mut ledger, &[(1, 2), (2, 3), (3, 3), (4, 3)].into(), &grown);
    drop(ledger);
    expect(&mut load(dir.path()), &[(1, 2), (2, 3), (3, 3), (4, 3)].into(), &grown);
    let again = apply(&mut load(dir.path()), &grown).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InvalidInput);
}

#[test]
fn an_update_that_was_cut_short_stands_for_nothing_until_it_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let first = l0(1, 3, &[(1, 1), (2, 1), (3, 1)]);
    let second = l0(2, 5, &[(1, 2), (3, 2), (4, 2), (5, 2)]);
    for cut in 0..=4 {
        build(dir.path(), &first);
        apply_cut(&mut load(dir.path()), &second, cut);
        assert!(Ledger::peek(dir.path(), REPLICA).unwrap().is_none());
        let mut found = load(dir.path());
        assert!(!found.is_state_of(&first.header()) && !found.is_state_of(&second.header()));
        assert_eq!(found.check().unwrap_err().kind(), ErrorKind::Corrupt);
        // A shorter update does not complete a longer one.
        apply(&mut found, &second).unwrap();
        expect(&mut found, &[(1, 2), (2, 1), (3, 2), (4, 2), (5, 2)].into(), &second);
    }
}

#[test]
fn a_shorter_update_does_not_complete_a_longer_one() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &l0(1, 3, &[(1, 1), (2, 1), (3, 1)]));
    let merged = ltx::Header::new(512, 3, Txid(2), Txid(3), 9);
    let cut = load(dir.path()).apply(&merged, |put| {
        put(3, CHECKSUM_FLAG | 99)?;
        Err(Error::new(ErrorKind::Internal, "killed"))
    });
    assert!(cut.is_err());
    let mut ledger = load(dir.path());
    let second = l0(2, 3, &[(1, 2)]);
    apply(&mut ledger, &second).unwrap();
    assert!(!ledger.is_state_of(&second.header()));
    let third = l0(3, 3, &[(3, 3)]);
    apply(&mut ledger, &third).unwrap();
    expect(&mut ledger, &[(1, 2), (2, 1), (3, 3)].into(), &third);
}

#[test]
fn another_boot_believes_only_what_was_settled() {
    let dir = tempfile::tempdir().unwrap();
    let first = l0(1, 3, &[(1, 1), (2, 1), (3, 1)]);
    build(dir.path(), &first);
    let other = |dir: &Path| Ledger::load_in(dir, REPLICA, BOOT);
    assert_eq!(other(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    load(dir.path()).settle().unwrap();
    expect(&mut other(dir.path()).unwrap().unwrap(), &first.pages, &first);
    // Entries that reached the disk before the header that announces them.
    let file = File::open_private(&dir.path().join(FILE), None).unwrap();
    file.write_all_at(&[9; 8], ENTRIES_AT + 8).unwrap();
    assert_eq!(other(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    // The next write takes the mark back.
    let mut ledger = load(dir.path());
    let _ = apply(&mut ledger, &l0(2, 3, &[(1, 2)]));
    assert!(!ledger.header().synced);
}

#[test]
fn a_ledger_of_another_replica_or_format_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Ledger::load(dir.path(), REPLICA).unwrap().is_none());
    build(dir.path(), &l0(1, 1, &[(1, 1)]));
    assert_eq!(Ledger::load(dir.path(), 6).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(Ledger::peek(dir.path(), 6).unwrap().is_none());
    let path = dir.path().join(FILE);
    let file = File::open_private(&path, None).unwrap();
    file.write_all_at(&[2], 8).unwrap();
    assert_eq!(Ledger::load(dir.path(), REPLICA).unwrap_err().kind(), ErrorKind::Unsupported);
    file.set_len(17).unwrap();
    assert_eq!(Ledger::load(dir.path(), REPLICA).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(Ledger::peek(dir.path(), REPLICA).unwrap().is_none());
    discard(dir.path()).unwrap();
    assert!(Ledger::load(dir.path(), REPLICA).unwrap().is_none());
}

/// Every single damaged entry is found before a page is left out because of it.
#[test]
fn altered_entries_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let first = l0(1, 3, &[(1, 1), (2, 1), (3, 1)]);
    build(dir.path(), &first);
    let path = dir.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    for bit in ENTRIES_AT as usize * 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(load(dir.path()).check().unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
    }
    let mut swapped = good.clone();
    let (a, b) = (ENTRIES_AT as usize, ENTRIES_AT as usize + 8);
    swapped[a..a + 8].copy_from_slice(&good[b..b + 8]);
    swapped[b..b + 8].copy_from_slice(&good[a..a + 8]);
    let longer = [good.as_slice(), &[0; 8]].concat();
    for bad in [swapped, good[..good.len() - 8].to_vec(), longer] {
        std::fs::write(&path, &bad).unwrap();
        assert!(load(dir.path()).check().is_err());
    }
}

/// A rename is not durable before its directory is: after a power loss the older
/// ledger is back, or the newer one has its name and not its content.
#[test]
fn r_61_a_rename_that_a_power_loss_undid_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let first = l0(1, 2, &[(1, 1), (2, 1)]);
    build(dir.path(), &first);
    load(dir.path()).settle().unwrap();
    let old = std::fs::read(dir.path().join(FILE)).unwrap();
    let second = l0(2, 2, &[(1, 2), (2, 2)]);
    build(dir.path(), &second);
    let new = std::fs::read(dir.path().join(FILE)).unwrap();
    std::fs::write(dir.path().join(FILE), &old).unwrap();
    let mut found = Ledger::load_in(dir.path(), REPLICA, BOOT).unwrap().unwrap();
    assert!(!found.is_state_of(&second.header()));
    expect(&mut found, &first.pages, &first);
    // Extents that were never written read as zeros.
    let mut hollow = new.clone();
    hollow[ENTRIES_AT as usize..].fill(0);
    for torn in [&hollow, &new] {
        std::fs::write(dir.path().join(FILE), torn).unwrap();
        let refused = Ledger::load_in(dir.path(), REPLICA, BOOT).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn r_62_a_next_ledger_stands_for_nothing_before_its_file_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let first = l0(1, 2, &[(1, 1), (2, 1)]);
    build(dir.path(), &first);
    let second = l0(2, 3, &[(2, 2), (3, 2)]);
    let mut b = Builder::copy(dir.path(), &load(dir.path()), None).unwrap();
    for (p, sum) in second.sums() {
        b.set(p, sum).unwrap();
    }
    // Killed before it was complete.
    assert!(!promote(dir.path(), &second.header()).unwrap());
    b.finish(&second.header()).unwrap();
    expect(&mut load(dir.path()), &first.pages, &first);
    // Another attempt at the same TXID was stored.
    let other = ltx::Header { timestamp_ms: 99, ..second.header() };
    assert!(!promote(dir.path(), &other).unwrap());
    assert!(promote(dir.path(), &second.header()).unwrap());
    expect(&mut load(dir.path()), &[(1, 1), (2, 2), (3, 2)].into(), &second);
    assert!(!promote(dir.path(), &second.header()).unwrap());
}

#[test]
fn the_lock_page_has_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let lock = lock_pgno(65536);
    let file = ltx::Header::new(65536, lock + 1, Txid(1), Txid(1), 1);
    let mut b = Builder::create(dir.path(), REPLICA, None).unwrap();
    b.set(lock + 1, CHECKSUM_FLAG | 3).unwrap();
    b.finish(&file).unwrap();
    assert!(promote(dir.path(), &file).unwrap());
    let mut ledger = load(dir.path());
    ledger.check().unwrap();
    assert_eq!(ledger.sums().get(lock).unwrap(), 0);
}

/// What happens to the ledger of a database, storage being a list of files.
#[derive(Debug, Clone)]
enum Event {
    /// The next file is acknowledged and applied.
    Acknowledged(u8),
    /// It is acknowledged, and the process dies after that many entries.
    KilledIn(u8, usize),
    /// It is acknowledged, and the process dies before the ledger hears of it.
    KilledBefore(u8),
    /// The ledger is replaced through a copy, of which the process dies in the midst or not.
    Forward {
        complete: bool,
    },
    Settled,
    PowerLost,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u8>().prop_map(Event::Acknowledged),
        2 => (any::<u8>(), 0usize..6).prop_map(|(seed, n)| Event::KilledIn(seed, n)),
        2 => any::<u8>().prop_map(Event::KilledBefore),
        2 => any::<bool>().prop_map(|complete| Event::Forward { complete }),
        1 => Just(Event::Settled),
        1 => Just(Event::PowerLost),
    ]
}

/// Storage's files and the ledger beside them.
struct Model {
    dir: tempfile::TempDir,
    path: PathBuf,
    stored: Vec<L0>,
    /// The ledger's bytes as a power loss would leave them.
    durable: Option<Vec<u8>>,
}

impl Model {
    fn new() -> Model {
        let dir = tempfile::tempdir().unwrap();
        let first = l0(1, 3, &[(1, 1), (2, 1), (3, 1)]);
        build(dir.path(), &first);
        let path = dir.path().join(FILE);
        Model { dir, path, stored: vec![first], durable: None }
    }

    fn state_at(&self, txid: Txid) -> BTreeMap<Pgno, u8> {
        let mut state = BTreeMap::new();
        for file in self.stored.iter().filter(|f| f.txid <= txid.0) {
            state.extend(file.pages.iter().map(|(&p, &v)| (p, v)));
            state.retain(|&p, _| p <= file.commit);
        }
        state
    }

    fn store_next(&mut self, seed: u8) -> L0 {
        let last = self.stored.last().unwrap();
        let commit = 1 + Pgno::from(seed % 7);
        let mut pages: BTreeMap<Pgno, u8> = (last.commit + 1..=commit).map(|p| (p, seed)).collect();
        pages.insert(1 + Pgno::from(seed) % commit, seed);
        let file = L0 { txid: last.txid + 1, commit, pages };
        self.stored.push(file.clone());
        file
    }

    /// The files that the ledger does not know yet, from the first incomplete one on.
    fn forward(&self, ledger: &mut Ledger) {
        let from = ledger.txid().0;
        for file in self.stored.iter().filter(|f| f.txid > from) {
            apply(ledger, file).unwrap();
        }
    }

    fn run(&mut self, event: Event) {
        let loaded = Ledger::load(self.dir.path(), REPLICA);
        let Ok(Some(mut ledger)) = loaded else {
            // A full copy begins a new one.
            let commit = self.stored.last().unwrap().commit;
            let txid = self.stored.last().unwrap().txid + 1;
            let full = L0 { txid, commit, pages: (1..=commit).map(|p| (p, 77)).collect() };
            build(self.dir.path(), &full);
            self.stored.push(full);
            return;
        };
        match event {
            Event::Acknowledged(seed) => {
                self.forward(&mut ledger);
                let file = self.store_next(seed);
                apply(&mut ledger, &file).unwrap();
            }
            Event::KilledIn(seed, n) => {
                self.forward(&mut ledger);
                let file = self.store_next(seed);
                apply_cut(&mut ledger, &file, n);
            }
            Event::KilledBefore(seed) => drop(self.store_next(seed)),
            Event::Forward { complete } => {
                self.forward(&mut ledger);
                let last = self.stored.last().unwrap();
                let copy = Builder::copy(self.dir.path(), &ledger, None).unwrap();
                if complete {
                    copy.finish(&last.header()).unwrap();
                    promote(self.dir.path(), &last.header()).unwrap();
                }
            }
            Event::Settled => {
                ledger.settle().unwrap();
                if ledger.header().synced {
                    self.durable = Some(std::fs::read(&self.path).unwrap());
                }
            }
            Event::PowerLost => {
                // The entries are new, the header is the settled one: the worst mix.
                let mut bytes = std::fs::read(&self.path).unwrap();
                match &self.durable {
                    Some(old) => bytes[..HEADER_LEN].copy_from_slice(&old[..HEADER_LEN]),
                    None => bytes.clear(),
                }
                std::fs::write(&self.path, &bytes).unwrap();
                if Ledger::load_in(self.dir.path(), REPLICA, BOOT).is_err() {
                    std::fs::remove_file(&self.path).unwrap();
                    self.durable = None;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, a ledger that is believed says what storage had at its
    /// TXID, and that TXID is never beyond storage's.
    #[test]
    fn never_ahead_of_storage(events in prop::collection::vec(event(), 1..40)) {
        let mut model = Model::new();
        for event in events {
            model.run(event);
            let newest = model.stored.last().unwrap().clone();
            if let Some(seen) = Ledger::peek(model.dir.path(), REPLICA).unwrap() {
                prop_assert!(seen.txid.0 <= newest.txid);
            }
            let Ok(Some(mut ledger)) = Ledger::load(model.dir.path(), REPLICA) else { continue };
            prop_assert!(ledger.txid().0 <= newest.txid);
            if ledger.check().is_err() {
                prop_assert!(ledger.header().applying != Txid::NONE);
                continue;
            }
            let at = model.stored.iter().find(|f| f.txid == ledger.txid().0).unwrap().clone();
            expect(&mut ledger, &model.state_at(Txid(at.txid)), &at);
        }
    }
}
