//! Which pages of a database differ from what storage has.

use std::sync::Arc;

use bytes::Bytes;

use crate::bookkeeping;
use crate::db::Db;
use crate::error::Result;
use crate::ledger::{self, Builder, Ledger};
use crate::ltx::{Encoder, Header, PageForm, Pgno, page_checksum};
use crate::pages::Pages;
use crate::restore::PageSet;

/// Differing pages up to this many bytes are kept in memory, so that the read
/// transaction ends before they are sent.
const IN_MEMORY_BYTES_MAX: u64 = 8 << 20;

/// What was found.
pub(crate) enum Found {
    /// Storage has this state.
    Nothing,
    /// The whole file with the pages that differ, and their number.
    Encoded(Bytes, u64),
    /// So many pages that they are to be read again.
    Pages(PageSet),
}

/// Compares a state with the ledger and completes the next ledger for it, which
/// stands for nothing before storage has the file that `header` begins. The
/// read transaction is given back when it is needed still. A file that is `needed`
/// has a page also when nothing differs.
pub(crate) fn find(
    db: &Arc<Db>,
    mut pages: Pages,
    mut ledger: Ledger,
    header: &Header,
    form: PageForm,
    needed: bool,
) -> Result<(Found, Option<Pages>)> {
    let mut differing = PageSet::default();
    let mut next = bookkeeping::begin_next(db);
    let mut encoder = Some(Encoder::new(Vec::new(), *header, form)?);
    let in_memory_max = IN_MEMORY_BYTES_MAX / u64::from(header.page_size);
    pages.scan(|pgno, page| {
        let sum = page_checksum(pgno, page);
        note(db, &mut next, pgno, sum);
        if ledger.sums().get(pgno)? == sum {
            return Ok(());
        }
        differing.insert(pgno);
        if differing.len() > in_memory_max {
            encoder = None;
        }
        encoder.as_mut().map_or(Ok(()), |e| e.encode_page(pgno, page))
    })?;
    let resized = ledger.header().commit != header.commit;
    if differing.len() == 0 && !resized && !needed {
        pages.finish()?;
        drop(next);
        ledger::discard_next(&db.vfs_dir())?;
        return Ok((Found::Nothing, None));
    }
    if differing.len() == 0 {
        // The size travels with a page.
        let mut page = Vec::new();
        pages.page(1, &mut page)?;
        differing.insert(1);
        if let Some(encoder) = &mut encoder {
            encoder.encode_page(1, &page)?;
        }
    }
    complete(db, next, header);
    let Some(encoder) = encoder else { return Ok((Found::Pages(differing), Some(pages))) };
    pages.finish()?;
    let (bytes, _) = encoder.finish()?;
    Ok((Found::Encoded(Bytes::from(bytes), differing.len()), None))
}

/// Enters a page into the next ledger; without room for it there is none.
pub(crate) fn note(db: &Db, next: &mut Option<Builder>, pgno: Pgno, sum: u64) {
    if let Some(builder) = next
        && let Err(e) = builder.set(pgno, sum)
    {
        bookkeeping::no_room(db, &e);
        *next = None;
    }
}

/// Completes the next ledger.
pub(crate) fn complete(db: &Db, next: Option<Builder>, header: &Header) {
    if let Some(builder) = next
        && let Err(e) = builder.finish(header)
    {
        bookkeeping::no_room(db, &e);
    }
}
