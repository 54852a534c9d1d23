//! The LTX transaction file: codec, checksums, page index, names.
//!
//! | part | bytes |
//! |---|---|
//! | header | 100 |
//! | page frames, ascending page number | 6-byte header and a compressed page each |
//! | end marker | 6 zero bytes |
//! | page index | uvarint triples (page, offset, size), a zero byte, length as u64 |
//! | trailer | post-apply checksum and file checksum, 8 bytes each |
//!
//! Integers are big-endian. The file checksum covers decompressed pages, so two
//! writers may compress differently and agree on everything else.
//!
//! Misuse of an encoder is [`ErrorKind::InvalidInput`]; bytes that are not a
//! valid file are [`ErrorKind::Corrupt`].
//!
//! [`ErrorKind::InvalidInput`]: crate::ErrorKind::InvalidInput
//! [`ErrorKind::Corrupt`]: crate::ErrorKind::Corrupt

pub mod checksum;
pub mod decoder;
pub mod encoder;
pub mod header;
mod index_hash;
pub mod names;
mod order;
pub mod page;
pub mod page_index;
pub mod pos;
mod source;
pub mod time;
pub mod trailer;

pub use checksum::{CHECKSUM_FLAG, RollingChecksum, crc64, page_checksum};
pub use decoder::{Checks, Decoder, verify};
pub use encoder::Encoder;
pub use header::{HEADER_NO_CHECKSUM, HEADER_SIZE, Header};
pub use names::{file_name, parse_file_name};
pub use page::{PageForm, decode_page};
pub use page_index::{IndexEntry, PageIndex, Suffix};
pub use pos::{Pos, Txid, is_contiguous};
pub use time::{format_timestamp, parse_timestamp};
pub use trailer::{TRAILER_SIZE, Trailer};

/// A database page number, counted from 1.
pub type Pgno = u32;

/// The smallest page size SQLite knows, in bytes.
pub const MIN_PAGE_SIZE: u32 = 512;

/// The largest page size SQLite knows, in bytes.
pub const MAX_PAGE_SIZE: u32 = 65536;

/// First byte of SQLite's lock range; the page that holds it is never stored.
const PENDING_BYTE: u32 = 0x4000_0000;

/// Whether `page_size` is a power of two from 512 to 65536.
pub fn is_valid_page_size(page_size: u32) -> bool {
    page_size.is_power_of_two() && (MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page_size)
}

/// The page that holds SQLite's lock bytes: never in a file, zeros when a
/// database is rebuilt.
pub fn lock_pgno(page_size: u32) -> Pgno {
    PENDING_BYTE / page_size.max(1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_pages() {
        let want = [
            (512, 2_097_153),
            (1024, 1_048_577),
            (2048, 524_289),
            (4096, 262_145),
            (8192, 131_073),
            (16384, 65_537),
            (32768, 32_769),
            (65536, 16_385),
        ];
        for (size, pgno) in want {
            assert!(is_valid_page_size(size));
            assert_eq!(lock_pgno(size), pgno);
        }
        for size in [0, 1, 256, 513, 65535, 131_072] {
            assert!(!is_valid_page_size(size));
        }
    }
}
