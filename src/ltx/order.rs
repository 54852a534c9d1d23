//! Which page may follow which in a file.

use super::{Header, Pgno, lock_pgno};

/// Checks page numbers as they pass.
pub(super) struct PageOrder {
    snapshot: bool,
    commit: Pgno,
    lock: Pgno,
    previous: Pgno,
}

impl PageOrder {
    pub(super) fn new(header: &Header) -> PageOrder {
        PageOrder {
            snapshot: header.is_snapshot(),
            commit: header.commit,
            lock: lock_pgno(header.page_size),
            previous: 0,
        }
    }

    /// The next page is `pgno`; an error says which rule it breaks.
    #[inline]
    pub(super) fn next(&mut self, pgno: Pgno) -> Result<(), String> {
        let expected = match self.previous {
            p if p.wrapping_add(1) == self.lock => p.wrapping_add(2),
            p => p.wrapping_add(1),
        };
        let ordered = if self.snapshot { pgno == expected } else { pgno > self.previous };
        if pgno > self.commit || pgno == self.lock || !ordered {
            return Err(self.fault(pgno));
        }
        self.previous = pgno;
        Ok(())
    }

    /// No page follows: a snapshot must have reached its commit size.
    pub(super) fn end(&self) -> Result<(), String> {
        let last = if self.commit == self.lock { self.commit - 1 } else { self.commit };
        if self.snapshot && self.previous != last {
            return Err(format!(
                "snapshot transaction file ends at page {} of {}",
                self.previous, self.commit
            ));
        }
        Ok(())
    }

    #[cold]
    fn fault(&self, pgno: Pgno) -> String {
        let previous = self.previous;
        if pgno > self.commit {
            format!("page number {pgno} out-of-bounds for commit size {}", self.commit)
        } else if pgno == self.lock {
            format!("cannot encode lock page: pgno={pgno}")
        } else if !self.snapshot {
            format!("out-of-order page numbers: {previous},{pgno}")
        } else if previous == 0 {
            "snapshot transaction file must start with page number 1".to_owned()
        } else if previous.wrapping_add(1) == self.lock {
            format!(
                "nonsequential page numbers in snapshot transaction (skip lock page): \
                 {previous},{pgno}"
            )
        } else {
            format!("nonsequential page numbers in snapshot transaction: {previous},{pgno}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Txid;
    use super::*;

    fn order(min: u64, commit: Pgno, previous: Pgno) -> PageOrder {
        let header = Header::new(65536, commit, Txid(min), Txid(min), 0);
        PageOrder { previous, ..PageOrder::new(&header) }
    }

    #[test]
    fn snapshot_rules() {
        assert!(order(1, 3, 0).next(2).unwrap_err().contains("must start with page number 1"));
        order(1, 3, 0).next(1).unwrap();
        assert!(order(1, 9, 3).next(5).unwrap_err().ends_with("snapshot transaction: 3,5"));
        assert!(order(1, 9, 9).next(10).unwrap_err().contains("out-of-bounds for commit size 9"));
        order(1, 20_000, 16_384).next(16_386).unwrap();
        let skip = order(1, 20_000, 16_384).next(16_387).unwrap_err();
        assert!(skip.ends_with("(skip lock page): 16384,16387"));
        let lock = order(1, 20_000, 16_384).next(16_385).unwrap_err();
        assert_eq!(lock, "cannot encode lock page: pgno=16385");
        assert!(order(1, 3, 2).end().is_err());
        order(1, 3, 3).end().unwrap();
        order(1, 16_385, 16_384).end().unwrap();
    }

    #[test]
    fn incremental_rules() {
        order(2, 9, 3).next(9).unwrap();
        assert_eq!(order(2, 9, 3).next(3).unwrap_err(), "out-of-order page numbers: 3,3");
        assert!(order(2, 9, 3).next(10).is_err());
        order(2, 9, 0).end().unwrap();
    }
}
