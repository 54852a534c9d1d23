use super::*;
use crate::error::ErrorKind;
use crate::view::testing::{Storage, leaves};

const PAGE: usize = 4096;

fn file() -> (Storage, Arc<RemoteFile>) {
    let storage = Storage::default();
    let file = storage.add(1, &leaves(200, PAGE));
    (storage, file)
}

fn key(file: &RemoteFile, chunk: u32) -> ChunkKey {
    ChunkKey { file: file.uid, chunk }
}

fn claim(
    ranges: &Ranges,
    file: &Arc<RemoteFile>,
    span: (u32, u32),
    purpose: Purpose,
) -> Arc<Range> {
    let (range, mine) = ranges.claim(file, span.0, span, purpose).unwrap();
    assert!(mine);
    range
}

fn fill(storage: &Storage, ranges: &Ranges, range: &Arc<Range>) {
    let (from, to) = (range.offset as usize, (range.offset + range.len) as usize);
    ranges.finish(range, Ok(storage.content(&range.file).slice(from..to)), 0);
}

#[test]
fn chunks_cover_each_frame_once() {
    let (_, file) = file();
    let last = chunk_of(file.index.get(199).unwrap().offset);
    let mut next = 0;
    for chunk in 0..=last {
        let range = Range::new(&file, (chunk, chunk), Purpose::Fault, Content::Awaited);
        let Some(range) = range else { continue };
        let first = file.index.get(next).unwrap();
        assert_eq!(range.offset, first.offset);
        next += range.frames as usize;
        let end = file.index.get(next - 1).unwrap();
        assert_eq!(range.offset + range.len, end.offset + u64::from(end.size));
        assert_eq!(chunk_of(end.offset), chunk);
    }
    assert_eq!(next, file.index.len());
    assert!(Range::new(&file, (last + 1, last + 9), Purpose::Fault, Content::Awaited).is_none());
}

#[test]
fn a_chunk_is_fetched_once_at_a_time() {
    let (storage, file) = file();
    let ranges = Ranges::default();
    let middle = claim(&ranges, &file, (3, 5), Purpose::Fault);
    let (again, mine) = ranges.claim(&file, 4, (0, 9), Purpose::Fault).unwrap();
    assert!(!mine && Arc::ptr_eq(&again, &middle));
    // A run ends at chunks that are under way.
    let (before, mine) = ranges.claim(&file, 1, (0, 9), Purpose::Fault).unwrap();
    assert!(mine);
    assert_eq!(before.chunks, (0, 2));
    fill(&storage, &ranges, &middle);
    assert_eq!(middle.wait().unwrap().len() as u64, middle.len);
    assert!(ranges.contains(key(&file, 5)) && !ranges.contains(key(&file, 6)));
}

#[test]
fn a_failure_is_heard_and_forgotten() {
    let (_, file) = file();
    let ranges = Ranges::default();
    let range = claim(&ranges, &file, (0, 1), Purpose::Ahead);
    assert_eq!(ranges.load(), (range.len as usize, range.len as usize));
    ranges.finish(&range, Err(Error::new(ErrorKind::Denied, "no")), 0);
    assert_eq!(range.wait().unwrap_err().kind(), ErrorKind::Denied);
    assert!(!ranges.contains(key(&file, 0)));
    assert_eq!(ranges.load(), (0, 0));
    assert_eq!(ranges.totals().kept, 0);
}

#[test]
fn what_was_used_up_is_let_go() {
    let (storage, file) = file();
    let ranges = Ranges::default();
    let range = claim(&ranges, &file, (0, 0), Purpose::Ahead);
    fill(&storage, &ranges, &range);
    assert_eq!(ranges.load(), (0, range.len as usize));
    for _ in 0..range.frames {
        assert!(ranges.contains(key(&file, 0)));
        ranges.used(&range);
    }
    assert!(!ranges.contains(key(&file, 0)));
    assert_eq!(ranges.load(), (0, 0));
    assert_eq!(ranges.totals(), RangeTotals::default());
    ranges.used(&range);
    ranges.discard(&range);
    assert_eq!(ranges.totals(), RangeTotals::default());
}

#[test]
fn the_bound_holds_and_waste_is_told() {
    let storage = Storage::default();
    let file = storage.add(1, &leaves(8_000, PAGE));
    let ranges = Ranges::default();
    let chunks = chunk_of(file.index.get(7_999).unwrap().offset);
    for first in (0..chunks - 8).step_by(8) {
        let range = claim(&ranges, &file, (first, first + 7), Purpose::Ahead);
        fill(&storage, &ranges, &range);
        assert!(ranges.totals().kept as usize <= KEPT_BYTES);
    }
    let totals = ranges.totals();
    assert!(totals.kept > KEPT_BYTES as u64 * 9 / 10, "{totals:?}");
    assert!(totals.wasted > 10 << 20, "{totals:?}");
    assert_eq!(ranges.load(), (0, totals.kept as usize));
    assert_eq!(ranges.waste(), 3);
    // What is fetched and used makes it forgotten.
    for _ in 0..8 {
        for first in (0..256).step_by(8) {
            let claimed = ranges.claim(&file, first, (first, first + 7), Purpose::Ahead);
            let (range, true) = claimed.unwrap() else { continue };
            fill(&storage, &ranges, &range);
            for _ in 0..range.frames {
                ranges.used(&range);
            }
        }
    }
    assert_eq!(ranges.waste(), 0);
}

#[test]
fn given_bytes_are_taken_by_whole_chunks() {
    let (storage, file) = file();
    let content = storage.content(&file);
    let last = chunk_of(file.index.get(199).unwrap().offset);
    for (from, to) in [(0, content.len()), (0, 70_000), (70_000, 300_000), (500, 40_000), (9, 99)] {
        let ranges = Ranges::default();
        let under_way = claim(&ranges, &file, (4, 4), Purpose::Fault);
        ranges.give(&file, from as u64, &content[from..to], 0);
        for chunk in (0..=last).filter(|chunk| *chunk != 4) {
            let whole =
                Range::new(&file, (chunk, chunk), Purpose::Fault, Content::Awaited).unwrap();
            let (start, end) = (whole.offset as usize, (whole.offset + whole.len) as usize);
            let found = ranges.find(key(&file, chunk));
            assert_eq!(found.is_some(), from <= start && end <= to, "{from} {to} {chunk}");
            if let Some(found) = found {
                let bytes = found.bytes().unwrap();
                let first = file.index.get(file.index.position_from(found.offset)).unwrap();
                let frame = found.frame(&bytes, first.offset, first.size).unwrap();
                assert_eq!(frame, &content[found.offset as usize..][..frame.len()]);
            }
        }
        assert!(under_way.bytes().is_none());
    }
}

#[test]
fn frames_outside_a_range_are_none() {
    let (storage, file) = file();
    let ranges = Ranges::default();
    let range = claim(&ranges, &file, (1, 1), Purpose::Fault);
    fill(&storage, &ranges, &range);
    let bytes = range.bytes().unwrap();
    assert!(range.frame(&bytes, range.offset - 1, 10).is_none());
    assert!(range.frame(&bytes, range.offset + range.len - 5, 6).is_none());
    assert!(range.frame(&bytes, range.offset + range.len - 6, 6).is_some());
    assert!(range.frame(&bytes, range.offset, u32::MAX).is_none());
}
