//! The reasons why captured commits alone cannot continue the chain.

/// Why only a repair can continue the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gap {
    /// There is no chain yet.
    First,
    /// The database was written while nobody captured it.
    Unproven,
    /// The WAL at the position is not what was captured (power loss, rewind).
    Rewind,
    /// The WAL was restarted, replaced or removed behind our back.
    WalReplaced,
    /// A frame was not what the wal-index said.
    BadFrame,
    /// Pages of a growth are missing.
    GrowthHole,
    /// A transaction outside WAL mode did what cannot be captured: another page size, a failed read.
    RollbackMode,
    /// The database file was replaced.
    Replaced,
    /// Capture had to let the WAL go: no room, or too late.
    CaptureFailed,
    /// More waits for storage than `spool_bytes_max`.
    SpoolFull,
    /// A spool file was damaged or lost.
    SpoolDamaged,
    /// A snapshot was cut short before storage had it.
    SnapshotInterrupted,
    /// Storage has less than it acknowledged.
    StorageBehind,
    /// The local database was adopted as the next state of the chain.
    Adopted,
    /// A transaction outside WAL mode was cut short while it wrote the database.
    Interrupted,
}

impl Gap {
    /// Every reason, for counters. A reason's place here, counted from 1, stands
    /// for it in the position file: new ones are added at the end.
    pub const ALL: [Gap; 15] = [
        Gap::First,
        Gap::Unproven,
        Gap::Rewind,
        Gap::WalReplaced,
        Gap::BadFrame,
        Gap::GrowthHole,
        Gap::RollbackMode,
        Gap::Replaced,
        Gap::CaptureFailed,
        Gap::SpoolFull,
        Gap::SpoolDamaged,
        Gap::SnapshotInterrupted,
        Gap::StorageBehind,
        Gap::Adopted,
        Gap::Interrupted,
    ];

    /// The number that stands for it in the position file; never 0.
    pub fn code(self) -> u32 {
        Self::ALL.iter().position(|g| *g == self).map_or(0, |at| at as u32) + 1
    }

    /// The reason that `code` stands for; an unknown one is [`Gap::Unproven`], 0 none.
    pub fn from_code(code: u32) -> Option<Gap> {
        let at = code.checked_sub(1)? as usize;
        Some(Self::ALL.get(at).copied().unwrap_or(Gap::Unproven))
    }

    /// The chain is repaired after a disturbance, which may come again.
    pub fn is_repair(self) -> bool {
        !matches!(self, Gap::First | Gap::Adopted | Gap::SnapshotInterrupted)
    }

    /// The name in status and logs.
    pub fn name(self) -> &'static str {
        match self {
            Gap::First => "first",
            Gap::Unproven => "unproven",
            Gap::Rewind => "rewind",
            Gap::WalReplaced => "wal_replaced",
            Gap::BadFrame => "bad_frame",
            Gap::GrowthHole => "growth_hole",
            Gap::RollbackMode => "rollback_mode",
            Gap::Replaced => "replaced",
            Gap::CaptureFailed => "capture_failed",
            Gap::SpoolFull => "spool_full",
            Gap::SpoolDamaged => "spool_damaged",
            Gap::SnapshotInterrupted => "snapshot_interrupted",
            Gap::StorageBehind => "storage_behind",
            Gap::Adopted => "adopted",
            Gap::Interrupted => "interrupted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for gap in Gap::ALL {
            assert_eq!(Gap::from_code(gap.code()), Some(gap));
        }
        assert_eq!(Gap::from_code(0), None);
        assert_eq!(Gap::from_code(999), Some(Gap::Unproven));
    }
}
