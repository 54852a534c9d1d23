//! The page ledger: what storage has, one checksum per page.
//!
//! A gap is repaired by comparing the database with the ledger and shipping
//! the pages that differ. Therefore the ledger may trail storage, but never
//! says more than storage acknowledged, and is never believed in doubt: a
//! ledger that is missing, damaged, of another replica, or that a power loss
//! can have torn is as good as none, and costs one full snapshot.
//!
//! Only the process that ships writes it. Nothing of it is kept open or in
//! memory between two uploads, and it is read and written in blocks of fixed
//! size, whatever the size of the database.

mod entries;
mod file;
mod format;

pub use entries::Sums;
pub use file::{Builder, FILE, Ledger, NEW_FILE, discard, discard_next, promote};
pub use format::{ENTRIES_AT, HEADER_LEN, Header, Totals};
