//! One error type for the whole library: a kind that says what the caller can
//! do, and a message that names the path or URL.

use std::fmt;
use std::io;
use std::path::Path;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again later: timeouts, throttling, connections lost.
    Transient,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already and was not replaced.
    AlreadyExists,
    /// Two histories disagree; a person has to decide.
    Conflict,
    /// The caller's input is wrong: an option, a URL, an argument.
    InvalidInput,
    /// Stored bytes are not what they must be.
    Corrupt,
    /// No room left on a device or in a bounded buffer.
    Full,
    /// Credentials or permissions are refused.
    Denied,
    /// The operation is not possible with this storage or host.
    Unsupported,
    /// A fault of this library or an unforeseen answer of a system.
    Internal,
}

/// An error: a kind, a message for people, and optionally its cause.
///
/// `Display` prints the message and its causes, joined by `: `.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The library's result type.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with a message that names what and where.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), source: None }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An I/O error on `path`; `action` is a verb phrase such as `read`.
    pub fn io(action: &str, path: &Path, source: io::Error) -> Self {
        let kind = kind_of_io(&source);
        Error::new(kind, format!("cannot {action} {}", path.display())).with_source(source)
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error with `context: ` before its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

fn kind_of_io(e: &io::Error) -> ErrorKind {
    match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::Full
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        io::ErrorKind::TimedOut
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::Interrupted => ErrorKind::Transient,
        _ => ErrorKind::Internal,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(e) = cause {
            write!(f, ": {e}")?;
            // An `Error` prints its own causes.
            cause = if e.is::<Error>() { None } else { e.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        let kind = match e.kind {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::Full => io::ErrorKind::StorageFull,
            ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            ErrorKind::Transient => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_causes_once() {
        let inner = Error::io("read", Path::new("/x"), io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(inner.kind(), ErrorKind::NotFound);
        let text = inner.to_string();
        let outer = Error::new(ErrorKind::Internal, "outer").with_source(inner);
        assert_eq!(outer.to_string(), format!("outer: {text}"));
    }
}
