//! The 16-byte trailer.

use super::checksum::CHECKSUM_FLAG;
use super::header::Header;
use crate::{Error, ErrorKind, Result};

/// Length of the trailer in bytes.
pub const TRAILER_SIZE: usize = 16;

/// The end of a file: both checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trailer {
    /// Database checksum after applying the file; 0 without checksums.
    pub post_apply_checksum: u64,
    /// Checksum of the file itself, bit 63 always set.
    pub file_checksum: u64,
}

impl Trailer {
    /// The bytes on disk.
    pub fn encode(&self) -> [u8; TRAILER_SIZE] {
        let mut out = [0; TRAILER_SIZE];
        out[..8].copy_from_slice(&self.post_apply_checksum.to_be_bytes());
        out[8..].copy_from_slice(&self.file_checksum.to_be_bytes());
        out
    }

    /// Reads the first 16 bytes of `bytes`, unverified.
    ///
    /// # Errors
    ///
    /// `Corrupt` when fewer are given.
    pub fn decode(bytes: &[u8]) -> Result<Trailer> {
        let (post, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let (file, _) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        Ok(Trailer {
            post_apply_checksum: u64::from_be_bytes(*post),
            file_checksum: u64::from_be_bytes(*file),
        })
    }

    /// Checks the checksums' forms against what `header` announces.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the rule broken.
    pub fn validate(&self, header: &Header) -> Result<()> {
        let post = self.post_apply_checksum;
        let message = if header.no_checksum() && post != 0 {
            "post-apply checksum not allowed"
        } else if !header.no_checksum() && post == 0 {
            "post-apply checksum required"
        } else if !header.no_checksum() && post & CHECKSUM_FLAG == 0 {
            "invalid post-apply checksum format"
        } else if self.file_checksum == 0 {
            "file checksum required"
        } else if self.file_checksum & CHECKSUM_FLAG == 0 {
            "invalid file checksum format"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidInput, message))
    }
}

fn short() -> Error {
    Error::new(ErrorKind::Corrupt, "read trailer: unexpected end of file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::{HEADER_NO_CHECKSUM, Txid};

    #[test]
    fn rules() {
        let untracked = Header::new(512, 1, Txid(1), Txid(1), 0);
        assert_eq!(untracked.flags, HEADER_NO_CHECKSUM);
        let tracked = Header { flags: 0, ..untracked };
        let f = CHECKSUM_FLAG;
        let table = [
            (&untracked, f, f, "post-apply checksum not allowed"),
            (&tracked, 0, f, "post-apply checksum required"),
            (&tracked, 1, f, "invalid post-apply checksum format"),
            (&tracked, f, 0, "file checksum required"),
            (&untracked, 0, 0, "file checksum required"),
            (&untracked, 0, 1, "invalid file checksum format"),
        ];
        for (header, post_apply_checksum, file_checksum, text) in table {
            let e = Trailer { post_apply_checksum, file_checksum }.validate(header).unwrap_err();
            assert_eq!(e.to_string(), text);
        }
        let good = Trailer { post_apply_checksum: 0, file_checksum: f | 5 };
        good.validate(&untracked).unwrap();
        assert_eq!(Trailer::decode(&good.encode()).unwrap(), good);
        assert!(Trailer::decode(&[0; 15]).is_err());
    }
}
