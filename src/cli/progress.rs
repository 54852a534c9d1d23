//! The progress bar, on a terminal's stderr only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::restore::Progress;

const TEMPLATE: &str = "{msg:>12} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
/// Redraws per second.
const REDRAW_HZ: u8 = 10;

pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        // Hides itself when stderr is no terminal.
        let bar =
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Bar(bar)
    }

    /// Takes the bar off the screen.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, bytes: u64, files: usize) {
        self.0.reset();
        self.0.set_length(bytes);
        self.0.set_message(format!("{files} files"));
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn finishing(&self) {
        self.0.set_message("checking");
        self.0.tick();
    }
}
