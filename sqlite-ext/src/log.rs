//! Where messages go: the file that `LITESTREAM_LOG_FILE` names, else the
//! host's own error log (`SQLITE_CONFIG_LOG`). Never stdout or stderr.

use std::path::Path;
use std::sync::Mutex;

use litestream::clock::{Clock, SystemClock};
use litestream::log::{Level, Log};
use litestream::ltx::format_timestamp;

use crate::ffi::abi::{SQLITE_ERROR, SQLITE_NOTICE, SQLITE_WARNING};
use crate::ffi::api::api;
use crate::options::process_env;

/// The sink that the environment asks for.
pub(crate) struct Sink {
    least: Level,
    file: Option<Mutex<litestream::os::append::AppendFile>>,
}

impl Sink {
    /// Reads `LITESTREAM_LOG_FILE` and `LITESTREAM_LOG_LEVEL` (default: info).
    pub(crate) fn from_environment() -> Sink {
        let level = process_env("LITESTREAM_LOG_LEVEL").and_then(|v| v.parse().ok());
        let opened = process_env("LITESTREAM_LOG_FILE")
            .map(|name| litestream::os::append::AppendFile::open(Path::new(&name)));
        let (file, problem) = match opened {
            Some(Ok(file)) => (Some(Mutex::new(file)), None),
            Some(Err(e)) => (None, Some(e)),
            None => (None, None),
        };
        let sink = Sink { least: level.unwrap_or(Level::Info), file };
        if let Some(e) = problem {
            sink.log(Level::Error, &e.to_string());
        }
        sink
    }
}

impl Log for Sink {
    fn log(&self, level: Level, message: &str) {
        #[cfg(feature = "simulation")]
        if let Some(world) = litestream::tasks::simulated::current() {
            return world.log(level, message);
        }
        if level < self.least {
            return;
        }
        let Some(file) = &self.file else { return to_host(level, message) };
        let line = format!("{} {level:5} {message}\n", format_timestamp(SystemClock.now_ms()));
        let file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A full disk must not trouble the host.
        let _ = file.append(line.as_bytes());
    }
}

fn to_host(level: Level, message: &str) {
    // A host without mutexes must not be called from a thread of ours, and
    // which thread this is cannot be told here.
    if !api().is_threadsafe() {
        return;
    }
    let code = match level {
        Level::Debug | Level::Info => SQLITE_NOTICE,
        Level::Warn => SQLITE_WARNING,
        Level::Error => SQLITE_ERROR,
    };
    api().write_log(code, &format!("litestream: {message}"));
}

/// Checks `LITESTREAM_LOG_LEVEL`.
///
/// # Errors
/// Text that names the levels.
pub(crate) fn check_environment(env: crate::options::Env<'_>) -> Result<(), String> {
    let level = env("LITESTREAM_LOG_LEVEL").map(|v| v.parse::<Level>());
    level.transpose().map(drop).map_err(|e| format!("LITESTREAM_LOG_LEVEL: {e}"))
}

/// Logs a failure that happened outside the engine.
pub(crate) fn error(message: &str) {
    say(Level::Error, message);
}

/// Logs what happened outside the engine.
pub(crate) fn say(level: Level, message: &str) {
    Sink::from_environment().log(level, message);
}
