//! The k-way merge of files, oldest first: the newest version of every page.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use crate::ltx::lock_pgno;
use crate::ltx::{Checks, Decoder, Encoder, Header, PageForm, Pgno, Trailer, is_contiguous};
use crate::{Error, ErrorKind, Result};

/// Read buffers of all inputs together, in bytes; a page each is the least.
const BUFFERS: usize = 4 << 20;

/// Merges `inputs`, ordered from oldest to newest, into one file on `out`.
///
/// A page is taken from the newest input that has it; pages above the last
/// input's commit size are dropped (the database shrank). The output carries
/// the first input's minimum TXID and the last one's maximum TXID, time and
/// commit size, no WAL range and no database checksums.
///
/// Memory: per input one page and a read buffer of 64 KiB, which shrinks to
/// little more than a page when there are many inputs. On error `out` holds
/// part of a file: discard it.
///
/// # Errors
///
/// `InvalidInput` without inputs; `Corrupt` when an input is damaged, page
/// sizes differ, TXIDs have a gap, or an input grows the database without
/// bringing every new page; errors of readers and sink.
pub fn merge<R: Read, W: Write>(
    inputs: Vec<R>,
    out: W,
    form: PageForm,
) -> Result<(W, Header, Trailer)> {
    let mut inputs = open_inputs(inputs)?;
    let header = output_header(&inputs)?;
    let encoder = Encoder::new(out, header, form).map_err(|e| e.context("write header"))?;
    let encoder = merge_pages(&mut inputs, encoder)?;
    for (i, input) in inputs.into_iter().enumerate() {
        input.close().map_err(|e| e.context(format_args!("close reader {i}")))?;
    }
    let (out, trailer) = encoder.finish().map_err(|e| as_corrupt(e).context("close encoder"))?;
    Ok((out, header, trailer))
}

struct Input<R> {
    decoder: Decoder<R>,
    page: Vec<u8>,
    growth: Growth,
}

impl<R: Read> Input<R> {
    fn advance(&mut self) -> Result<Option<Pgno>> {
        let pgno = self.decoder.next_page(&mut self.page)?;
        if let Some(pgno) = pgno {
            self.growth.count(pgno);
        }
        Ok(pgno)
    }

    fn close(self) -> Result<Trailer> {
        self.growth.check()?;
        self.decoder.finish()
    }
}

/// Counts the pages by which an input grows the database: a growth
/// transaction writes every new page, so a missing one means a lost page.
struct Growth {
    from: Pgno,
    to: Pgno,
    missing: u32,
}

impl Growth {
    fn new(previous_commit: Pgno, header: &Header) -> Growth {
        let to = header.commit.max(previous_commit);
        let lock = lock_pgno(header.page_size);
        let skipped = u32::from(previous_commit < lock && lock <= to);
        Growth { from: previous_commit, to, missing: to - previous_commit - skipped }
    }

    fn count(&mut self, pgno: Pgno) {
        if pgno > self.from {
            self.missing = self.missing.saturating_sub(1);
        }
    }

    fn check(&self) -> Result<()> {
        if self.missing > 0 {
            return Err(corrupt(format!(
                "file grows the database from {} to {} pages but lacks {} of the new pages",
                self.from, self.to, self.missing
            )));
        }
        Ok(())
    }
}

fn open_inputs<R: Read>(readers: Vec<R>) -> Result<Vec<Input<R>>> {
    let count = readers.len();
    if count == 0 {
        let text = "at least one input reader required";
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    let buffer = (BUFFERS / count).clamp(4096, 64 * 1024);
    let mut inputs: Vec<Input<R>> = Vec::with_capacity(count);
    for (i, reader) in readers.into_iter().enumerate() {
        let decoder = Decoder::with_buffer(reader, Checks::Strict, buffer)
            .map_err(|e| e.context(format_args!("decode header for input {i}")))?;
        let header = decoder.header();
        // Nothing is known of the database before the first input.
        let mut previous_commit = header.commit;
        if let Some(previous) = inputs.last() {
            check_neighbours(previous.decoder.header(), header)?;
            previous_commit = previous.decoder.header().commit;
        }
        let growth = Growth::new(previous_commit, header);
        inputs.push(Input { page: vec![0; header.page_size as usize], decoder, growth });
    }
    Ok(inputs)
}

fn check_neighbours(a: &Header, b: &Header) -> Result<()> {
    if a.page_size != b.page_size {
        return Err(corrupt(format!(
            "input files have mismatched page sizes: {} != {}",
            a.page_size, b.page_size
        )));
    }
    if !is_contiguous(a.max_txid, b.min_txid, b.max_txid) {
        return Err(corrupt(format!(
            "non-contiguous transaction ids in input files: ({},{}) -> ({},{})",
            a.min_txid, a.max_txid, b.min_txid, b.max_txid
        )));
    }
    Ok(())
}

fn output_header<R: Read>(inputs: &[Input<R>]) -> Result<Header> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(Error::new(ErrorKind::InvalidInput, "at least one input reader required"));
    };
    let (first, last) = (first.decoder.header(), last.decoder.header());
    let (min, max) = (first.min_txid, last.max_txid);
    Ok(Header::new(first.page_size, last.commit, min, max, last.timestamp_ms))
}

fn merge_pages<R: Read, W: Write>(
    inputs: &mut [Input<R>],
    mut encoder: Encoder<W>,
) -> Result<Encoder<W>> {
    let commit = encoder.header().commit;
    // Smallest page first; of one page the newest input first.
    let mut heads = BinaryHeap::with_capacity(inputs.len());
    for (i, input) in inputs.iter_mut().enumerate() {
        if let Some(pgno) = read_head(i, input)? {
            heads.push((Reverse(pgno), i));
        }
    }
    let mut taken = 0;
    while let Some(mut head) = heads.peek_mut() {
        let (Reverse(pgno), i) = *head;
        let input = &mut inputs[i];
        if pgno > taken {
            taken = pgno;
            if pgno <= commit {
                encoder.encode_page(pgno, &input.page).map_err(as_corrupt)?;
            }
        }
        match read_head(i, input)? {
            Some(next) => *head = (Reverse(next), i),
            None => drop(std::collections::binary_heap::PeekMut::pop(head)),
        }
    }
    Ok(encoder)
}

fn read_head<R: Read>(i: usize, input: &mut Input<R>) -> Result<Option<Pgno>> {
    input.advance().map_err(|e| e.context(format_args!("read page of input {i}")))
}

/// Pages refused by the encoder are pages the inputs lack: damage, not misuse.
fn as_corrupt(e: Error) -> Error {
    if e.kind() == ErrorKind::InvalidInput { e.with_kind(ErrorKind::Corrupt) } else { e }
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}
