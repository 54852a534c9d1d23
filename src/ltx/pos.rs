//! Transaction numbers and positions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

/// A transaction number; 0 means "none", valid numbers start at 1.
///
/// Text form: exactly 16 hexadecimal digits, written in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Txid(pub u64);

impl Txid {
    /// No transaction.
    pub const NONE: Txid = Txid(0);
    /// The largest number.
    pub const MAX: Txid = Txid(u64::MAX);

    /// The number after this one; the largest stays where it is.
    #[must_use]
    pub fn next(self) -> Txid {
        Txid(self.0.saturating_add(1))
    }

    /// The number before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Txid {
        Txid(self.0.saturating_sub(1))
    }

    /// Whether this is [`Txid::NONE`].
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = Error;

    /// Parses exactly 16 hexadecimal digits of either case.
    fn from_str(s: &str) -> Result<Txid> {
        if s.len() != 16 {
            return Err(invalid(format!("invalid formatted transaction id length: {s:?}")));
        }
        parse_hex16(s)
            .map(Txid)
            .ok_or_else(|| invalid(format!("invalid transaction id format: {s:?}")))
    }
}

impl Serialize for Txid {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Txid {
    /// A string of 16 digits; `null` is [`Txid::NONE`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Txid, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Txid::NONE),
            Some(s) => s.parse().map_err(|_| {
                serde::de::Error::custom(format!("cannot parse TXID from JSON string: {s:?}"))
            }),
        }
    }
}

/// A place in a chain: the last applied transaction and the database checksum
/// after it (0 where checksums are not kept).
///
/// Text form: both numbers as 16 hexadecimal digits, joined by `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pos {
    /// The last applied transaction.
    pub txid: Txid,
    /// Database checksum after it.
    pub post_apply_checksum: u64,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.txid, self.post_apply_checksum)
    }
}

impl FromStr for Pos {
    type Err = Error;

    fn from_str(s: &str) -> Result<Pos> {
        if s.len() != 33 {
            return Err(invalid(format!("invalid formatted position length: {s:?}")));
        }
        let parts = s.split_once('/').and_then(|(txid, sum)| {
            Some(Pos { txid: Txid(parse_hex16(txid)?), post_apply_checksum: parse_hex16(sum)? })
        });
        parts.ok_or_else(|| invalid(format!("invalid position format: {s:?}")))
    }
}

/// Whether a file of `min..=max` can be applied directly after `previous`.
///
/// Overlap is allowed; a gap, or a file that lies wholly in the past, is not.
pub fn is_contiguous(previous: Txid, min: Txid, max: Txid) -> bool {
    min <= previous.next() && max > previous
}

/// Exactly 16 hexadecimal digits (no sign), or `None`.
pub(super) fn parse_hex16(s: &str) -> Option<u64> {
    if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(s, 16).ok()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        assert_eq!(Txid(0x2a).to_string(), "000000000000002a");
        assert_eq!("00000000000000FF".parse::<Txid>().unwrap(), Txid(255));
        for bad in ["", "2a", "+00000000000002a", "000000000000002g", "0000000000000002a"] {
            assert_eq!(bad.parse::<Txid>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        let pos = Pos { txid: Txid(7), post_apply_checksum: 1 << 63 };
        assert_eq!(pos.to_string(), "0000000000000007/8000000000000000");
        assert_eq!(pos.to_string().parse::<Pos>().unwrap(), pos);
        assert!("0000000000000007-8000000000000000".parse::<Pos>().is_err());
        assert!("1/2".parse::<Pos>().is_err());
    }

    #[test]
    fn json_forms() {
        assert_eq!(serde_json::to_string(&Txid(10)).unwrap(), "\"000000000000000a\"");
        assert_eq!(serde_json::from_str::<Txid>("\"000000000000000a\"").unwrap(), Txid(10));
        assert_eq!(serde_json::from_str::<Txid>("null").unwrap(), Txid::NONE);
        assert!(serde_json::from_str::<Txid>("\"a\"").is_err());
        assert!(serde_json::from_str::<Txid>("10").is_err());
    }

    #[test]
    fn contiguity_table() {
        let after10 = |min, max| is_contiguous(Txid(10), Txid(min), Txid(max));
        assert!(after10(11, 11));
        assert!(after10(5, 11));
        assert!(!after10(1, 10));
        assert!(!after10(12, 12));
        assert!(after10(11, 20));
        assert_eq!(Txid::MAX.next(), Txid::MAX);
        assert_eq!(Txid::NONE.prev(), Txid::NONE);
    }
}
