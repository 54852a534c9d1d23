//! Parts of files that say which version of the file they belong to.
//!
//! A file never changes once written, but its name can be given to another one:
//! by a second writer, or after the replica was emptied and begun anew.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::FileId;
use crate::error::{Error, ErrorKind, Result};

/// What storage calls one version of a file: the ETag of an object, or, of a
/// file, what the file system tells it apart by.
///
/// Equal tags of one name are the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag that storage writes as `text`.
    pub fn new(text: impl Into<Arc<str>>) -> Tag {
        Tag(text.into())
    }

    /// As storage writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which bytes of a file; lengths are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All of them.
    Whole,
    /// So many from the front; all of a shorter file.
    Prefix(u64),
    /// So many at the end; all of a shorter file.
    Suffix(u64),
    /// So many from an offset, which all exist.
    Range {
        /// Offset of the first.
        offset: u64,
        /// How many.
        len: u64,
    },
}

impl Span {
    /// The bytes of a file of `size` bytes: (offset, length).
    pub fn within(self, size: u64) -> (u64, u64) {
        match self {
            Span::Whole => (0, size),
            Span::Prefix(len) => (0, len.min(size)),
            Span::Suffix(len) => (size - len.min(size), len.min(size)),
            Span::Range { offset, len } => (offset, len),
        }
    }
}

/// Bytes of one version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What was asked for, complete.
    pub bytes: Bytes,
    /// Size of the whole file in bytes.
    pub size: u64,
    /// The version.
    pub tag: Tag,
}

impl Piece {
    /// The piece, if it is what was asked for: `span` of the version `tag`.
    ///
    /// # Errors
    /// `NotFound` when it is of another version; `Transient` when bytes are
    /// missing. The text names `id` and `url`.
    pub fn checked(self, id: &FileId, url: &str, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        if tag.is_some_and(|tag| *tag != self.tag) {
            return Err(replaced(id, url));
        }
        let (_, wanted) = span.within(self.size);
        if self.bytes.len() as u64 == wanted {
            return Ok(self);
        }
        let text = format!(
            "the answer for {id} at {url} was cut short: {} of {wanted} bytes",
            self.bytes.len()
        );
        Err(Error::new(ErrorKind::Transient, text))
    }
}

/// The error of a read whose version of `id` is no longer stored.
pub fn replaced(id: &FileId, url: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{id} at {url} was replaced by another file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Txid;

    #[test]
    fn spans_stay_within_the_file() {
        for (span, want) in [
            (Span::Whole, (0, 10)),
            (Span::Prefix(4), (0, 4)),
            (Span::Prefix(40), (0, 10)),
            (Span::Suffix(4), (6, 4)),
            (Span::Suffix(40), (0, 10)),
            (Span::Range { offset: 3, len: 2 }, (3, 2)),
        ] {
            assert_eq!(span.within(10), want, "{span:?}");
        }
    }

    #[test]
    fn pieces_are_what_was_asked_for_or_an_error() {
        let id = FileId::new(0, Txid(1), Txid(1));
        let piece = Piece { bytes: Bytes::from_static(b"abcd"), size: 10, tag: Tag::new("a") };
        let kind = |span, tag: Option<&str>| {
            let tag = tag.map(Tag::new);
            piece.clone().checked(&id, "file:///r", span, tag.as_ref()).map_err(|e| e.kind())
        };
        assert!(kind(Span::Suffix(4), None).is_ok());
        assert!(kind(Span::Range { offset: 1, len: 4 }, Some("a")).is_ok());
        assert_eq!(kind(Span::Suffix(4), Some("b")), Err(ErrorKind::NotFound));
        assert_eq!(kind(Span::Suffix(5), Some("a")), Err(ErrorKind::Transient));
        assert_eq!(kind(Span::Whole, None), Err(ErrorKind::Transient));
    }
}
