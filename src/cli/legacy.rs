//! Recognising replicas of the layout before LTX files.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind};

/// The folder of the layout of Litestream 0.3 and 0.4.
const GENERATIONS: &str = "generations";

/// Replaces the error "nothing found" by one that names the old layout when a
/// `file` replica has it; other storage is not asked.
pub(super) fn explain(url: &str, e: Error) -> Error {
    match file_path(url) {
        Some(path) if path.join(GENERATIONS).is_dir() => Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} holds a backup in the layout of Litestream 0.3 ({GENERATIONS}/, snapshots and \
                 WAL segments), which this version cannot read; restore it with litestream 0.5",
                path.display()
            ),
        ),
        _ => e,
    }
}

fn file_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("file://")?;
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    Some(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned().into())
}
