//! Page 1 as a connection sees it.
//!
//! | bytes | presented as | so that SQLite |
//! |---|---|---|
//! | 18, 19 | 1 | asks for no WAL, which a replica does not have |
//! | 24..28, 92..96 | the view's sequence number | keeps its page cache while the view stays, and drops it when it moves |
//! | 28..32 | the view's size in pages | believes the size |
//!
//! The first two forms of the counter must be equal, or SQLite takes the size
//! from the file instead.

/// What a plain database begins with. Page 1 of an encrypted one is not to be
/// changed: its key's owner would find it damaged.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Bytes of page 1 that are presented lie below this offset.
pub const END: u64 = 96;

/// Presents the bytes of page 1 in `buf`, the first of which lies at `offset`.
/// Any part of the page may be in it.
pub fn present(buf: &mut [u8], offset: u64, sequence: u32, commit: u32) {
    let counter = sequence.to_be_bytes();
    put(buf, offset, 18, &[1, 1]);
    put(buf, offset, 24, &counter);
    put(buf, offset, 28, &commit.to_be_bytes());
    put(buf, offset, 92, &counter);
}

/// Puts `bytes`, whose place in the page is `at`, where `buf` covers them.
fn put(buf: &mut [u8], offset: u64, at: u64, bytes: &[u8]) {
    for (byte, place) in bytes.iter().zip(at..) {
        let index = place.checked_sub(offset).and_then(|i| usize::try_from(i).ok());
        if let Some(slot) = index.and_then(|i| buf.get_mut(i)) {
            *slot = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        (0..512_u32).map(|n| (n % 251) as u8 | 0x80).collect()
    }

    #[test]
    fn only_the_named_bytes_change() {
        let mut buf = page();
        present(&mut buf, 0, 0x0102_0304, 7);
        let mut wanted = page();
        wanted[18..20].fill(1);
        wanted[24..28].copy_from_slice(&[1, 2, 3, 4]);
        wanted[28..32].copy_from_slice(&[0, 0, 0, 7]);
        wanted[92..96].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(buf, wanted);
    }

    #[test]
    fn every_part_is_a_part_of_the_whole() {
        let mut whole = page();
        present(&mut whole, 0, 0xa1b2_c3d4, 0x0001_0203);
        for start in 0..110 {
            for len in 0..110 {
                let mut part = page()[start..start + len].to_vec();
                present(&mut part, start as u64, 0xa1b2_c3d4, 0x0001_0203);
                assert_eq!(part, whole[start..start + len], "{start}+{len}");
            }
        }
        let mut later = page();
        present(&mut later, 512, 1, 1);
        assert_eq!(later, page());
    }
}
