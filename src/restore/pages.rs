//! The set of pages that were delivered already.

use crate::ltx::Pgno;

/// Pages per block of the set; a block is allocated when its first page is.
const BLOCK_PAGES: usize = 1 << 16;
const BLOCK_WORDS: usize = BLOCK_PAGES / 64;

/// A set of page numbers that allocates by what is inserted, so that a page
/// count which nobody has verified yet cannot cost memory.
#[derive(Debug, Default)]
pub(crate) struct PageSet {
    blocks: Vec<Option<Box<[u64; BLOCK_WORDS]>>>,
    len: u64,
}

impl PageSet {
    /// Adds a page; false when it was there.
    pub(crate) fn insert(&mut self, pgno: Pgno) -> bool {
        let (block, word, bit) = place(pgno);
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, || None);
        }
        let words = self.blocks[block].get_or_insert_with(|| Box::new([0; BLOCK_WORDS]));
        let added = words[word] & bit == 0;
        words[word] |= bit;
        self.len += u64::from(added);
        added
    }

    /// Whether the page is in the set.
    pub(crate) fn contains(&self, pgno: Pgno) -> bool {
        let (block, word, bit) = place(pgno);
        self.blocks.get(block).and_then(Option::as_ref).is_some_and(|w| w[word] & bit != 0)
    }

    /// Every page of the set, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Pgno> {
        let blocks = self.blocks.iter().enumerate();
        let words = blocks.filter_map(|(at, b)| b.as_ref().map(|words| (at, words))).flat_map(
            |(at, words)| {
                words.iter().enumerate().map(move |(w, &bits)| (at * BLOCK_PAGES + w * 64, bits))
            },
        );
        words.filter(|&(_, bits)| bits != 0).flat_map(|(first, bits)| {
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| (first + bit) as Pgno)
        })
    }

    /// How many pages are in the set.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

fn place(pgno: Pgno) -> (usize, usize, u64) {
    let n = pgno as usize;
    (n / BLOCK_PAGES, n % BLOCK_PAGES / 64, 1 << (n % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_pages_across_blocks() {
        let mut set = PageSet::default();
        for pgno in [1, 64, 65_535, 65_536, 10_000_000] {
            assert!(!set.contains(pgno));
            assert!(set.insert(pgno));
            assert!(!set.insert(pgno));
            assert!(set.contains(pgno));
        }
        assert_eq!(set.len(), 5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 64, 65_535, 65_536, 10_000_000]);
        assert!(!set.contains(63));
        assert!(!set.contains(Pgno::MAX));
    }
}
