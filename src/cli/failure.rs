//! Why a command failed, as the user sees it.

use crate::error::Error;

/// A message, and for wrong usage what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// An example of a right command line.
    pub(super) hint: Option<String>,
    /// Whether the command's help goes to stdout, as after a wrong flag.
    pub(super) show_help: bool,
    /// The exit code.
    pub(super) code: u8,
}

/// What a command returns.
pub(super) type Outcome = Result<(), Failure>;

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), hint: None, show_help: false, code: 1 }
    }

    /// A result that was printed already and is to be told by the exit code.
    pub(super) fn silent(code: u8) -> Self {
        Failure { code, ..Failure::new(String::new()) }
    }

    /// Wrong usage, with an example of the right one.
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure { hint: Some(hint.into()), ..Failure::new(message) }
    }

    /// A flag that the parser refused.
    pub(super) fn flag(message: impl Into<String>) -> Self {
        Failure { show_help: true, ..Failure::new(message) }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::new(e.to_string())
    }
}
