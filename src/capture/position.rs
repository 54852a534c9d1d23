//! The position file: how far the WAL was captured, in one checksummed record
//! of [`POSITION_LEN`] bytes that is overwritten in place after every batch, by
//! whichever process captured it. The file carries the capture lock.
//!
//! Little-endian, format 2:
//!
//! ```text
//!   0  8  magic "LSVFSPOS"         64  8  segment: TXID it will get
//!   8  4  format version           72  4  segment: generation of its file
//!  12  4  flags                    76  4  segment: first frame (0-based count before it)
//!  16  4  page size                80  8  segment: length in bytes
//!  20  4  database size in pages   88  4  segment: smallest database size since its start
//!  24  8  salts                    92  4  process that wrote the record
//!  32  4  frame                    96  8  device   104  8  inode
//!  36  8  checksum of that frame  112  8  clean: size in bytes
//!  44  4  gap: its code, or 0     120  8  clean: mtime ns   128  8  clean: ctime ns
//!  48  8  next salts              136  8  TXID of the snapshot under way, or 0
//!  56  8  sequence number         144  8  hash of the replica's URL
//! 152  8  backfill under way      160  8  last backfill's number
//! 168  8  process that is dirty   176 16  clean: bytes 24..40 of the database
//! 192 56  zeros
//! 248  8  CRC-64 of bytes 0..248
//! ```
//!
//! Format 1 ended at byte 152 with the CRC-64 of what is before, and had zeros
//! at 44, 56 and 92; it is read, and replaced by the next write.
//!
//! It is not fsynced: after a power loss an older or torn record is found, and
//! what it says is checked against the WAL and the database before use.

use crate::capture::gap::Gap;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Salts;
use crate::ltx::{Pgno, Txid, checksum::crc64, is_valid_page_size};

/// Length of the record in bytes.
pub const POSITION_LEN: usize = 256;
/// Bytes before the checksum, in this format and in format 1.
const BODY_LEN: usize = POSITION_LEN - 8;
const BODY_LEN_1: usize = 152;
const MAGIC: &[u8; 8] = b"LSVFSPOS";
/// Version of the record; a newer one is refused.
const VERSION: u32 = 2;

const FOLLOWING: u32 = 1;
const CLEAN: u32 = 2;
const NEXT_SALTS: u32 = 4;
const RESTARTED: u32 = 8;
const DIRTY: u32 = 16;
const UNKNOWN_CHAIN: u32 = 32;
const BACKFILL: u32 = 64;
const HEAD: u32 = 128;

/// Where in the WAL everything before has been captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalPosition {
    /// Salts of the generation.
    pub salts: Salts,
    /// Number of captured frames of that generation.
    pub frame: u32,
    /// Cumulative checksum in the header of that frame; of the WAL header
    /// when `frame` is 0 and it is known, else zero.
    pub checksum: [u32; 2],
}

/// The open segment as the record knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentMark {
    /// TXID that the segment gets when it is sealed.
    pub txid: Txid,
    /// Generation of its file; a rewrite without garbage makes the next one.
    pub generation: u32,
    /// Bytes of the file that count.
    pub len: u64,
    /// Frames of the WAL generation captured before the segment began; 0 when
    /// the WAL was restarted since.
    pub start_frame: u32,
    /// The WAL was restarted since the segment began.
    pub restarted: bool,
    /// Smallest database size in pages since the segment began, its start included.
    pub min_commit: Pgno,
}

/// Identity of a database file that was closed cleanly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CleanMark {
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
}

/// Bytes 24..40 of the database file, by which SQLite itself tells outside WAL
/// mode whether somebody wrote it; of an encrypted one they are as telling.
pub type Head = [u8; 16];
/// Where in the file they are.
pub const HEAD_OFFSET: u64 = 24;

/// The whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Capture follows the database; false: only a repair can continue the chain.
    pub following: bool,
    /// Why capture does not follow, or a backfill is under way.
    pub gap: Option<Gap>,
    /// A transaction outside WAL mode began to write the database and was not
    /// captured yet: found set at an open, it is a gap.
    pub dirty: bool,
    /// Nothing of ours is known about the chain in storage: it was not asked
    /// since this record was begun.
    pub unknown_chain: bool,
    /// One more with every write of the record, by whatever process.
    pub sequence: u64,
    /// Process that wrote the record.
    pub writer: u32,
    /// Process whose transaction that is.
    pub dirty_writer: u32,
    /// Number of the backfill under way; 0: none.
    pub backfill: u64,
    /// Number of the last backfill that was begun.
    pub backfill_serial: u64,
    /// Page size in bytes.
    pub page_size: u32,
    /// Database size in pages at the position.
    pub commit: Pgno,
    /// Captured so far.
    pub wal: WalPosition,
    /// A header with these salts was about to be written when everything
    /// before it was captured.
    pub next_salts: Option<Salts>,
    /// The open segment.
    pub segment: SegmentMark,
    /// Device and inode of the database.
    pub identity: (u64, u64),
    /// Set when the WAL was about to be deleted with everything captured.
    pub clean: Option<CleanMark>,
    /// What the file held there when `clean` was recorded, if that was looked at:
    /// its times tell nothing of writes within one tick of the clock.
    pub head: Option<Head>,
    /// TXID of a snapshot that is on its way to storage; 0: none.
    pub snapshot_pending: Txid,
    /// Hash of the replica's URL.
    pub replica: u64,
}

impl Position {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; POSITION_LEN] {
        let mut b = [0u8; POSITION_LEN];
        let mut flags = 0;
        for (on, bit) in [
            (self.following, FOLLOWING),
            (self.clean.is_some(), CLEAN),
            (self.next_salts.is_some(), NEXT_SALTS),
            (self.segment.restarted, RESTARTED),
            (self.dirty, DIRTY),
            (self.unknown_chain, UNKNOWN_CHAIN),
            (self.backfill != 0, BACKFILL),
            (self.head.is_some(), HEAD),
        ] {
            if on {
                flags |= bit;
            }
        }
        let next = self.next_salts.unwrap_or_default();
        let clean = self.clean.unwrap_or_default();
        b[..8].copy_from_slice(MAGIC);
        for (at, v) in [
            (8, VERSION),
            (12, flags),
            (16, self.page_size),
            (20, self.commit),
            (24, self.wal.salts[0]),
            (28, self.wal.salts[1]),
            (32, self.wal.frame),
            (36, self.wal.checksum[0]),
            (40, self.wal.checksum[1]),
            (44, self.gap.map_or(0, Gap::code)),
            (48, next[0]),
            (52, next[1]),
            (72, self.segment.generation),
            (76, self.segment.start_frame),
            (88, self.segment.min_commit),
            (92, self.writer),
        ] {
            b[at..at + 4].copy_from_slice(&v.to_le_bytes());
        }
        for (at, v) in [
            (56, self.sequence),
            (64, self.segment.txid.0),
            (80, self.segment.len),
            (96, self.identity.0),
            (104, self.identity.1),
            (112, clean.size),
            (120, clean.mtime_ns.cast_unsigned()),
            (128, clean.ctime_ns.cast_unsigned()),
            (136, self.snapshot_pending.0),
            (144, self.replica),
            (152, self.backfill),
            (160, self.backfill_serial),
            (168, u64::from(self.dirty_writer)),
        ] {
            b[at..at + 8].copy_from_slice(&v.to_le_bytes());
        }
        b[176..192].copy_from_slice(&self.head.unwrap_or_default());
        let crc = crc64(&b[..BODY_LEN]);
        b[BODY_LEN..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `Corrupt` when it is torn or not a record, `Unsupported` when a newer
    /// version of this library wrote it.
    pub fn decode(b: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, format!("position record: {why}"));
        if b.len() < BODY_LEN_1 + 8 || &b[..8] != MAGIC {
            return Err(corrupt("not a position record"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        let version = u32_at(8);
        if version > VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "position record of format {version}, but this library knows formats up to \
                     {VERSION}: use the newer library for this database"
                ),
            ));
        }
        let body = if version == 1 { BODY_LEN_1 } else { BODY_LEN };
        if b.len() < body + 8 || crc64(&b[..body]) != u64_at(body) {
            return Err(corrupt("checksum mismatch"));
        }
        let flags = u32_at(12);
        let page_size = u32_at(16);
        if flags & FOLLOWING != 0 && !is_valid_page_size(page_size) {
            return Err(corrupt("impossible page size"));
        }
        let more = |at: usize| if version == 1 { 0 } else { u64_at(at) };
        Ok(Position {
            following: flags & FOLLOWING != 0,
            gap: gap_of(flags & FOLLOWING != 0, u32_at(44), Txid(u64_at(136))),
            dirty: flags & DIRTY != 0,
            unknown_chain: flags & UNKNOWN_CHAIN != 0,
            sequence: u64_at(56),
            writer: u32_at(92),
            dirty_writer: more(168) as u32,
            backfill: if flags & BACKFILL != 0 { more(152) } else { 0 },
            backfill_serial: more(160),
            page_size,
            commit: u32_at(20),
            wal: WalPosition {
                salts: [u32_at(24), u32_at(28)],
                frame: u32_at(32),
                checksum: [u32_at(36), u32_at(40)],
            },
            next_salts: (flags & NEXT_SALTS != 0).then(|| [u32_at(48), u32_at(52)]),
            segment: SegmentMark {
                txid: Txid(u64_at(64)),
                generation: u32_at(72),
                len: u64_at(80),
                start_frame: u32_at(76),
                restarted: flags & RESTARTED != 0,
                min_commit: u32_at(88),
            },
            identity: (u64_at(96), u64_at(104)),
            clean: (flags & CLEAN != 0).then(|| CleanMark {
                size: u64_at(112),
                mtime_ns: u64_at(120).cast_signed(),
                ctime_ns: u64_at(128).cast_signed(),
            }),
            head: (version > 1 && flags & HEAD != 0)
                .then(|| b[176..192].try_into().unwrap_or_default()),
            snapshot_pending: Txid(u64_at(136)),
            replica: u64_at(144),
        })
    }
}

/// Format 1 did not say why capture stopped following.
fn gap_of(following: bool, code: u32, snapshot_pending: Txid) -> Option<Gap> {
    let unsaid = if snapshot_pending == Txid(0) { Gap::Unproven } else { Gap::SnapshotInterrupted };
    Gap::from_code(code).or((!following).then_some(unsaid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Position {
        Position {
            following: true,
            gap: None,
            dirty: true,
            unknown_chain: true,
            sequence: 1 << 33,
            writer: 77,
            dirty_writer: 78,
            backfill: 3,
            backfill_serial: 4,
            page_size: 65536,
            commit: 7,
            wal: WalPosition { salts: [1, 2], frame: 3, checksum: [4, 5] },
            next_salts: Some([6, 7]),
            segment: SegmentMark {
                txid: Txid(9),
                generation: 1,
                len: 1 << 40,
                start_frame: 2,
                restarted: true,
                min_commit: 6,
            },
            identity: (10, 11),
            clean: Some(CleanMark { size: 12, mtime_ns: -13, ctime_ns: 14 }),
            head: Some(*b"change counter 1"),
            snapshot_pending: Txid(15),
            replica: 16,
        }
    }

    #[test]
    fn round_trip() {
        let gap = Position { following: false, gap: Some(Gap::Adopted), ..sample() };
        for p in [sample(), gap] {
            assert_eq!(Position::decode(&p.encode()).unwrap(), p);
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let good = sample().encode();
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Position::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Position::decode(&good[..100]).is_err());
    }

    #[test]
    fn a_newer_format_is_refused_not_misread() {
        let mut b = sample().encode();
        b[8] = 3;
        let e = Position::decode(&b).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains("format 3"), "{e}");
    }

    #[test]
    fn an_impossible_page_size_is_refused() {
        let p = Position { page_size: 0, ..sample() };
        assert_eq!(Position::decode(&p.encode()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    /// Byte for byte what the first release wrote.
    #[test]
    fn format_1_is_read() {
        let p = sample();
        let mut b = p.encode()[..160].to_vec();
        b[8] = 1;
        b[12] &= 15;
        b[44..48].fill(0);
        b[56..64].fill(0);
        b[92..96].fill(0);
        let crc = crc64(&b[..152]);
        b[152..].copy_from_slice(&crc.to_le_bytes());
        let known = Position {
            dirty: false,
            dirty_writer: 0,
            backfill: 0,
            backfill_serial: 0,
            unknown_chain: false,
            sequence: 0,
            writer: 0,
            head: None,
            ..p
        };
        assert_eq!(Position::decode(&b).unwrap(), known);
        b[12] &= !1;
        let crc = crc64(&b[..152]);
        b[152..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Position::decode(&b).unwrap().gap, Some(Gap::SnapshotInterrupted));
    }
}
