//! What must hold of every input, however hostile.
//!
//! A target panics when one of its properties is broken. The same code is
//! driven by libFuzzer (`make fuzz`) and, with the inputs in `data/fuzz`, by
//! the ordinary tests.

pub(crate) mod extension;
mod ltx;
mod records;
mod settings;
mod spool;
mod texts;
mod wal;

/// A target: its name, which is also its folder in `data/fuzz`, and its code.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("ltx", ltx::files),
    ("ltx-made", ltx::made),
    ("index", ltx::indexes),
    ("wal", wal::files),
    ("wal-made", wal::made),
    ("position", records::positions),
    ("ledger", records::ledgers),
    ("segment", spool::segments),
    ("segment-made", spool::made),
    ("config", settings::files),
    ("values", settings::values),
    ("url", texts::urls),
    ("raw-name", texts::raw_names),
    ("names", texts::file_names),
];

/// Takes numbers and bytes off the front of an input; zeros behind its end.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let first = self.0.first().copied().unwrap_or(0);
        self.0 = self.0.get(1..).unwrap_or_default();
        first
    }

    /// Four bytes, little-endian.
    pub fn number(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Eight bytes, little-endian.
    pub fn long(&mut self) -> u64 {
        u64::from(self.number()) | u64::from(self.number()) << 32
    }

    /// A page that repeats up to 15 bytes of the input.
    pub fn page(&mut self, size: usize) -> Vec<u8> {
        let n = usize::from(self.byte() & 15) + 1;
        let pattern: Vec<u8> = (0..n).map(|_| self.byte()).collect();
        pattern.into_iter().cycle().take(size).collect()
    }
}
