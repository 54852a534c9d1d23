use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A database of which every page costs 4 KiB, where nothing is ever refused.
#[derive(Default)]
struct Paper {
    commit: Pgno,
    trees: BTreeMap<Pgno, Vec<Pgno>>,
    asked: RefCell<BTreeSet<Pgno>>,
    /// Interior pages that are not here until they are asked for.
    absent: RefCell<BTreeSet<Pgno>>,
}

impl Outlook for Paper {
    fn commit(&self) -> Pgno {
        self.commit
    }

    fn parent(&self, pgno: Pgno) -> Option<Pgno> {
        let mut trees = self.trees.iter();
        trees.find_map(|(parent, list)| list.contains(&pgno).then_some(*parent))
    }

    fn children(&self, pgno: Pgno) -> Option<Vec<Pgno>> {
        let here = !self.absent.borrow().contains(&pgno);
        here.then(|| self.trees.get(&pgno).cloned().unwrap_or_default())
    }

    fn ask(&self, pages: &[Pgno], bytes: u64) -> Asked {
        let pages = &pages[..pages.len().min(bytes.div_ceil(4096) as usize)];
        self.asked.borrow_mut().extend(pages);
        for page in pages {
            self.absent.borrow_mut().remove(page);
        }
        Asked { pages: pages.len(), bytes: pages.len() as u64 * 4096 }
    }

    fn window_max(&self) -> u64 {
        1 << 20
    }
}

impl Paper {
    fn read(&self, reader: &mut Readahead, pgno: Pgno) -> bool {
        let asked = self.asked.borrow().contains(&pgno);
        reader.missed(pgno, self);
        reader.arrived(self.trees.contains_key(&pgno), self);
        asked
    }

    /// How many of `pages` were not asked for before they were read.
    fn faults(&self, reader: &mut Readahead, pages: &[Pgno]) -> usize {
        pages.iter().filter(|page| !self.read(reader, **page)).count()
    }

    fn asked(&self) -> usize {
        self.asked.borrow().len()
    }
}

/// A root 1 over interior pages over 20 leaves each.
fn two_levels() -> (Paper, Vec<Pgno>) {
    let leaves: Vec<Pgno> = (1_000..1_400).map(|n| n * 7 % 6_000 + 100).collect();
    let mut trees = BTreeMap::new();
    let inner: Vec<Pgno> = (2..22).collect();
    for (parent, group) in inner.iter().zip(leaves.chunks(20)) {
        trees.insert(*parent, group.to_vec());
    }
    trees.insert(1, inner.clone());
    let paper = Paper { commit: 10_000, trees, ..Paper::default() };
    paper.absent.borrow_mut().extend(&inner[1..]);
    (paper, leaves)
}

#[test]
fn pages_in_order_are_asked_for_once_it_is_seen() {
    for down in [false, true] {
        let paper = Paper { commit: 1_000, ..Paper::default() };
        let mut pages: Vec<Pgno> = (1..=1_000).collect();
        if down {
            pages.reverse();
        }
        assert_eq!(paper.faults(&mut Readahead::default(), &pages), 2);
        assert!(paper.asked() >= 998);
    }
}

#[test]
fn single_reads_ask_for_nothing() {
    let paper = Paper { commit: 100_000, ..Paper::default() };
    let mut reader = Readahead::default();
    for n in 0..1_000_u32 {
        paper.read(&mut reader, n.wrapping_mul(2_654_435_761) % 99_000 + 1);
    }
    // Two that lie close by chance make a small window.
    assert!(paper.asked() < 300, "{}", paper.asked());
}

#[test]
fn children_are_asked_for_across_parents() {
    let (paper, leaves) = two_levels();
    let mut reader = Readahead::default();
    paper.read(&mut reader, 1);
    paper.read(&mut reader, 2);
    assert_eq!(paper.asked(), 0);
    assert!(paper.faults(&mut reader, &leaves) <= 1);
    let asked = paper.asked.borrow();
    assert!(leaves[1..].iter().all(|leaf| asked.contains(leaf)));
    // Nothing but leaves and the pages above them.
    assert_eq!(asked.iter().filter(|page| **page >= 22).count(), leaves.len() - 1);
}

#[test]
fn a_scan_downwards_goes_on_to_the_parent_before() {
    let (paper, mut leaves) = two_levels();
    paper.absent.borrow_mut().remove(&21);
    leaves.reverse();
    let mut reader = Readahead::default();
    assert!(paper.faults(&mut reader, &leaves) <= 2);
}

#[test]
fn a_nested_loop_does_not_drive_out_the_scan() {
    let (paper, leaves) = two_levels();
    let mut reader = Readahead::default();
    let mut faults = 0;
    for (n, leaf) in leaves.iter().enumerate() {
        faults += usize::from(!paper.read(&mut reader, *leaf));
        for k in 0..5 {
            paper.read(&mut reader, 7_000 + (n as u32 * 5 + k) * 977 % 2_900);
        }
    }
    assert!(faults <= 2, "{faults}");
}

#[test]
fn a_few_pages_left_out_do_not_end_a_stream() {
    let paper = Paper { commit: 5_000, ..Paper::default() };
    let pages: Vec<Pgno> = (1..=5_000).filter(|page| page % 7 != 0 && page % 5 != 0).collect();
    assert!(paper.faults(&mut Readahead::default(), &pages) <= 2);
}

#[test]
fn damaged_trees_lead_nowhere() {
    // A page below itself, and a parent without children.
    let trees = [(5, vec![5, 6, 7, 8]), (9, vec![10, 11])].into();
    let paper = Paper { commit: 20, trees, ..Paper::default() };
    let mut reader = Readahead::default();
    paper.faults(&mut reader, &[5, 6, 7, 8, 10, 11, 5, 6, 9, 10, 7]);
}
