//! What an interior page of a b-tree says about the pages below it.
//!
//! | bytes of the header | meaning |
//! |---|---|
//! | 0 | 2 index, 5 table: interior pages |
//! | 3..5 | number of cells |
//! | 8..12 | right-most child |
//! | 12.. | offset of each cell, in key order, 2 bytes each |
//!
//! A cell begins with its child's number. The header stands at offset 0, on page
//! 1 at 100. Only a hint is read out of it: a page of an encrypted database is
//! noise, and what does not fit the format is no interior page.

use crate::ltx::Pgno;

/// Where the header of page 1 begins: behind the database header.
const PAGE_ONE_HEADER: usize = 100;
const HEADER: usize = 12;
const TYPE_INDEX: u8 = 2;
const TYPE_TABLE: u8 = 5;
/// Bytes that an interior cell has at least: child and key.
const CELL_MIN: usize = 5;

/// Whether the first byte of page `pgno` is that of an interior page.
#[inline]
pub(super) fn may_be_interior(page: &[u8], pgno: Pgno) -> bool {
    matches!(page.get(header(pgno)), Some(&(TYPE_INDEX | TYPE_TABLE)))
}

/// The children of page `pgno` in key order, when it is an interior page of a
/// database of `commit` pages.
pub(super) fn children(page: &[u8], pgno: Pgno, commit: Pgno) -> Option<Vec<Pgno>> {
    if !may_be_interior(page, pgno) {
        return None;
    }
    let header = header(pgno);
    let cells = usize::from(u16_at(page, header + 3)?);
    let pointers = header + HEADER;
    let cells_from = pointers + 2 * cells;
    if cells == 0 || cells_from + cells * CELL_MIN > page.len() {
        return None;
    }
    let child_at = |at: usize| {
        let child = u32_at(page, at)?;
        (child > 1 && child <= commit && child != pgno).then_some(child)
    };
    let mut children = Vec::with_capacity(cells + 1);
    for n in 0..cells {
        let cell = usize::from(u16_at(page, pointers + 2 * n)?);
        if cell < cells_from {
            return None;
        }
        children.push(child_at(cell)?);
    }
    children.push(child_at(header + 8)?);
    Some(children)
}

fn header(pgno: Pgno) -> usize {
    if pgno == 1 { PAGE_ONE_HEADER } else { 0 }
}

fn u16_at(page: &[u8], at: usize) -> Option<u16> {
    page.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn u32_at(page: &[u8], at: usize) -> Option<u32> {
    page.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// An interior table page with `children`, for tests.
#[cfg(test)]
pub(super) fn interior_page(children: &[Pgno], len: usize) -> Vec<u8> {
    let mut page = vec![0; len];
    let cells = children.len() - 1;
    page[0] = TYPE_TABLE;
    page[3..5].copy_from_slice(&(cells as u16).to_be_bytes());
    page[8..12].copy_from_slice(&children[cells].to_be_bytes());
    for (n, child) in children[..cells].iter().enumerate() {
        let cell = len - (n + 1) * 8;
        page[12 + 2 * n..14 + 2 * n].copy_from_slice(&(cell as u16).to_be_bytes());
        page[cell..cell + 4].copy_from_slice(&child.to_be_bytes());
        page[cell + 4] = n as u8 & 0x7f;
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Random, SeededRandom};

    #[test]
    fn children_come_in_key_order() {
        let list = [9, 4, 100, 7];
        let page = interior_page(&list, 512);
        assert_eq!(children(&page, 3, 100).unwrap(), list);
        assert!(children(&page, 3, 99).is_none());
        assert!(children(&page, 100, 100).is_none());
        let mut first = vec![0; 100];
        first.extend_from_slice(&page[..12]);
        first.resize(512, 0);
        first[112..114].copy_from_slice(&500_u16.to_be_bytes());
        first[103..105].copy_from_slice(&1_u16.to_be_bytes());
        first[500..504].copy_from_slice(&5_u32.to_be_bytes());
        assert_eq!(children(&first, 1, 100).unwrap(), [5, 7]);
        assert!(children(&first, 2, 100).is_none());
    }

    #[test]
    fn other_pages_have_none() {
        for kind in [0, 1, 10, 13, 255] {
            let mut page = interior_page(&[2, 3], 512);
            page[0] = kind;
            assert!(children(&page, 9, 100).is_none());
        }
        assert!(children(&[], 1, 10).is_none());
        assert!(children(&[5], 2, 10).is_none());
        assert!(children(&[5; 64], 2, 10).is_none());
        assert!(children(&vec![0; 4096], 2, 10).is_none());
    }

    #[test]
    fn noise_has_none() {
        let random = SeededRandom::new(9);
        for round in 0..200_000_u32 {
            let mut page = [0; 512];
            for bytes in page.chunks_exact_mut(8) {
                bytes.copy_from_slice(&random.next_u64().to_le_bytes());
            }
            page[0] = TYPE_TABLE;
            assert!(children(&page, round + 2, 1_000_000).is_none());
        }
    }
}
