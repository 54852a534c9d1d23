//! Where messages go. The library never prints; the extension hands in a sink
//! (a file or `sqlite3_log`), the command line its own.

use std::fmt;

/// Severity of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Details for developers.
    Debug,
    /// Normal events worth a line.
    Info,
    /// Something is degraded and goes on.
    Warn,
    /// Something stopped and needs attention.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        })
    }
}

impl std::str::FromStr for Level {
    type Err = crate::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.to_ascii_lowercase().as_str() {
            "debug" | "trace" => Ok(Level::Debug),
            "info" => Ok(Level::Info),
            "warn" | "warning" => Ok(Level::Warn),
            "error" => Ok(Level::Error),
            _ => Err(crate::Error::new(
                crate::ErrorKind::InvalidInput,
                format!("unknown log level '{s}'; use debug, info, warn or error"),
            )),
        }
    }
}

/// A sink for messages; called from any thread.
pub trait Log: Send + Sync {
    /// Takes one message without a line end.
    fn log(&self, level: Level, message: &str);
}

/// A sink that drops everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoLog;

impl Log for NoLog {
    fn log(&self, _: Level, _: &str) {}
}
