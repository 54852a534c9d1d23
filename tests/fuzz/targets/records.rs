//! Records of the meta directory: position and page ledger.

use litestream::capture::position::{POSITION_LEN, Position};
use litestream::ledger::{FILE, HEADER_LEN, Header, Ledger};
use litestream::ltx::crc64;

/// The input, and the input with the checksum that it needs to be believed.
fn both(bytes: &[u8], len: usize, check: impl Fn(&[u8])) {
    check(bytes);
    let mut sealed = bytes.to_vec();
    sealed.resize(len.max(bytes.len()), 0);
    let sum = crc64(&sealed[..len - 8]);
    sealed[len - 8..len].copy_from_slice(&sum.to_le_bytes());
    check(&sealed);
}

/// Length of a record of format 1.
const POSITION_1_LEN: usize = 160;

/// Any bytes as a position record, of this format or of the first.
pub fn positions(bytes: &[u8]) {
    both(bytes, POSITION_LEN, position);
    both(bytes, POSITION_1_LEN, position);
}

fn position(bytes: &[u8]) {
    let Ok(position) = Position::decode(bytes) else { return };
    let again = position.encode();
    assert_eq!(Position::decode(&again).unwrap(), position);
    for at in 0..8 {
        let mut other = again;
        other[(bytes[at + 16] as usize * 7 + at) % POSITION_LEN] ^= 1 << at;
        assert!(Position::decode(&other).is_err());
    }
}

/// Any bytes as a page ledger, header first.
pub fn ledgers(bytes: &[u8]) {
    both(bytes, HEADER_LEN, |bytes| {
        let Ok(header) = Header::decode(bytes) else { return };
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), bytes).unwrap();
        for boot in [header.boot, [0x5a; 16]] {
            let Ok(Some(mut ledger)) = Ledger::load_in(dir.path(), header.replica, boot) else {
                continue;
            };
            if ledger.check().is_ok() {
                assert_eq!(ledger.header().commit, header.commit);
                let _ = ledger.sums().get(header.commit);
            }
            let _ = ledger.sums().get(u32::MAX);
            let _ = ledger.sums().get(0);
        }
        assert!(matches!(
            Ledger::load_in(dir.path(), header.replica.wrapping_add(1), header.boot),
            Err(_) | Ok(None)
        ));
    });
}
