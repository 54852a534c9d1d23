//! What this machine last knew storage to have: `shipped.json` in the spool,
//! and the headers of snapshots whose fate is not known.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ltx::{HEADER_SIZE, Header, Txid};
use crate::os::disk::{self, Owner};

const FILE: &str = "shipped.json";
const ATTEMPTS_FILE: &str = "snapshot-attempts.json";
/// Attempts that are remembered; of older ones the node id tells (`forgot_attempts`).
const ATTEMPTS_MAX: usize = 16;

/// The newest file that storage acknowledged, by its header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shipped {
    txid: String,
    header: String,
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; HEADER_SIZE]> {
    let bytes = text.as_bytes();
    if bytes.len() != HEADER_SIZE * 2 {
        return None;
    }
    let mut out = [0u8; HEADER_SIZE];
    for (i, pair) in bytes.chunks_exact(2).enumerate() {
        out[i] = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

impl Shipped {
    pub(crate) fn new(header: &Header) -> Self {
        Shipped { txid: header.max_txid.to_string(), header: to_hex(&header.encode()) }
    }

    /// The record in `dir`; none when it is missing or damaged.
    pub(crate) fn load(dir: &Path) -> Result<Option<(Txid, [u8; HEADER_SIZE])>> {
        let Some(bytes) = disk::read(&dir.join(FILE))? else { return Ok(None) };
        let Ok(found) = serde_json::from_slice::<Shipped>(&bytes) else { return Ok(None) };
        Ok(found.txid.parse().ok().zip(from_hex(&found.header)))
    }

    pub(crate) fn save(&self, dir: &Path, owner: Option<Owner>) -> Result<()> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        disk::write_private(&dir.join(FILE), &json, owner)
    }
}

/// Forgets what storage had: another chain begins.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    disk::remove_file(&dir.join(FILE))?;
    forget_attempts(dir)
}

/// Headers of snapshots that were sent without an answer.
pub(crate) fn attempts(dir: &Path) -> Result<Vec<[u8; HEADER_SIZE]>> {
    let Some(bytes) = disk::read(&dir.join(ATTEMPTS_FILE))? else { return Ok(Vec::new()) };
    let list: Vec<String> = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(list.iter().filter_map(|t| from_hex(t)).collect())
}

/// Whether so many attempts were made that some are not remembered any more.
pub(crate) fn forgot_attempts(attempts: &[[u8; HEADER_SIZE]]) -> bool {
    attempts.len() >= ATTEMPTS_MAX
}

/// Whether an attempt other than `present` may be in storage beyond `acked`, or
/// come there yet.
pub(crate) fn is_doubtful(dir: &Path, acked: Txid, present: Option<&Header>) -> Result<bool> {
    let all = attempts(dir)?;
    let present = present.map(Header::encode);
    let beyond = |h: &[u8; HEADER_SIZE]| Header::decode(h).is_ok_and(|h| h.max_txid > acked);
    Ok(all.iter().any(|h| Some(*h) != present && beyond(h)))
}

/// Remembers a snapshot before it is sent.
pub(crate) fn remember_attempt(dir: &Path, header: &Header, owner: Option<Owner>) -> Result<()> {
    let mut all = attempts(dir)?;
    all.push(header.encode());
    let from = all.len().saturating_sub(ATTEMPTS_MAX);
    let list: Vec<String> = all[from..].iter().map(|h| to_hex(h)).collect();
    let json = serde_json::to_vec(&list).unwrap_or_default();
    disk::write_private(&dir.join(ATTEMPTS_FILE), &json, owner)
}

/// Forgets an attempt that was never sent. Those before it may come to storage yet.
/// A full list stays full, for it tells that some are not remembered.
pub(crate) fn forget_attempt(dir: &Path, header: &Header, owner: Option<Owner>) -> Result<()> {
    let mut all = attempts(dir)?;
    if forgot_attempts(&all) {
        return Ok(());
    }
    let unsent = header.encode();
    all.retain(|h| *h != unsent);
    let list: Vec<String> = all.iter().map(|h| to_hex(h)).collect();
    let json = serde_json::to_vec(&list).unwrap_or_default();
    disk::write_private(&dir.join(ATTEMPTS_FILE), &json, owner)
}

/// Forgets all attempts: storage has one.
pub(crate) fn forget_attempts(dir: &Path) -> Result<()> {
    disk::remove_file(&dir.join(ATTEMPTS_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_damage_reads_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let header = Header::new(4096, 3, Txid(9), Txid(9), 1234);
        assert_eq!(Shipped::load(dir.path()).unwrap(), None);
        Shipped::new(&header).save(dir.path(), None).unwrap();
        assert_eq!(Shipped::load(dir.path()).unwrap(), Some((Txid(9), header.encode())));
        disk::write_private(&dir.path().join(FILE), b"{", None).unwrap();
        assert_eq!(Shipped::load(dir.path()).unwrap(), None);
        for _ in 0..20 {
            remember_attempt(dir.path(), &header, None).unwrap();
        }
        assert!(forgot_attempts(&attempts(dir.path()).unwrap()));
        forget_attempt(dir.path(), &header, None).unwrap();
        assert!(forgot_attempts(&attempts(dir.path()).unwrap()));
        forget_attempts(dir.path()).unwrap();
        assert!(attempts(dir.path()).unwrap().is_empty());
    }
}
