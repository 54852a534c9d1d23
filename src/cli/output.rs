//! The command line's stdout.

use std::io::{self, Write};

use serde::Serialize;

use super::failure::{Failure, Outcome};

/// Prints `text` as it is. A reader that closed its end is no error.
pub(super) fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints `value` as JSON, indented by two spaces, and a newline.
pub(super) fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(format!("cannot encode JSON: {e}")))?;
    print(&(text + "\n"))
}
