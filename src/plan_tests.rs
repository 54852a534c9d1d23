use proptest::prelude::*;

use super::*;
use crate::replica_client::FileId;

fn file_at(level: u8, min: u64, max: u64, created_at_ms: i64) -> FileInfo {
    FileInfo { id: FileId { level, min: Txid(min), max: Txid(max) }, size: 200, created_at_ms }
}

fn file(level: u8, min: u64, max: u64) -> FileInfo {
    file_at(level, min, max, max as i64 * 1000)
}

fn levels(files: impl IntoIterator<Item = FileInfo>) -> Vec<Vec<FileInfo>> {
    let mut levels = vec![Vec::new(); usize::from(SNAPSHOT_LEVEL) + 1];
    for f in files {
        levels[usize::from(f.id.level)].push(f);
    }
    for level in &mut levels {
        level.sort_by_key(|f| (f.id.min, f.id.max));
    }
    levels
}

fn plan(files: &[FileInfo], target: Target) -> Result<Vec<(u8, u64, u64)>> {
    let plan = calc_restore_plan(&levels(files.iter().cloned()), target)?;
    Ok(plan.files.iter().map(|f| (f.id.level, f.id.min.0, f.id.max.0)).collect())
}

#[test]
fn r_56_a_file_that_starts_right_after_the_cover_is_contiguous() {
    let files = [file(9, 1, 4), file(0, 5, 5), file(0, 6, 6)];
    let expected = [(9, 1, 4), (0, 5, 5), (0, 6, 6)];
    assert_eq!(plan(&files, Target::Latest).unwrap(), expected);
    let gap = plan(&[file(9, 1, 4), file(0, 6, 6)], Target::Latest).unwrap_err();
    assert_eq!(gap.kind(), ErrorKind::Corrupt);
    let text = gap.to_string();
    assert!(
        text.contains(
            "non-contiguous ltx files: have up to 0000000000000004 \
             but next file starts at 0000000000000006"
        ),
        "{text}"
    );
}

#[test]
fn r_56_a_file_inside_the_past_is_never_chosen() {
    let files = [file(9, 1, 4), file(0, 4, 4), file(1, 2, 4), file(0, 5, 5)];
    assert_eq!(plan(&files, Target::Latest).unwrap(), [(9, 1, 4), (0, 5, 5)]);
}

#[test]
fn r_27_overlaps_and_repeats_are_fine() {
    let files = [
        file(0, 1, 1),
        file(1, 1, 3),
        file(1, 2, 5),
        file(1, 2, 5),
        file(0, 5, 5),
        file(2, 1, 3),
        file(0, 6, 6),
        file(0, 6, 6),
    ];
    assert_eq!(plan(&files, Target::Latest).unwrap(), [(2, 1, 3), (1, 2, 5), (0, 6, 6)]);
}

#[test]
fn r_27_a_file_too_far_does_not_hide_a_smaller_one() {
    let files = [file(1, 1, 9), file(1, 2, 3), file(0, 1, 1)];
    assert_eq!(plan(&files, Target::Txid(Txid(3))).unwrap(), [(0, 1, 1), (1, 2, 3)]);
}

#[test]
fn ties_go_to_the_wider_then_higher_then_older_file() {
    let files = [file(9, 1, 2), file(0, 3, 5), file(1, 2, 5), file(2, 2, 5)];
    assert_eq!(plan(&files, Target::Latest).unwrap(), [(9, 1, 2), (2, 2, 5)]);
    let twins = levels([file_at(0, 1, 1, 900), file_at(0, 1, 1, 100)]);
    let chosen = calc_restore_plan(&twins, Target::Latest).unwrap();
    assert_eq!(chosen.files[0].created_at_ms, 100);
}

#[test]
fn a_txid_must_end_a_file() {
    let files = [file(9, 1, 11), file(0, 12, 13)];
    assert_eq!(plan(&files, Target::Txid(Txid(11))).unwrap(), [(9, 1, 11)]);
    let missed = plan(&files, Target::Txid(Txid(12))).unwrap_err();
    assert_eq!(missed.kind(), ErrorKind::NotFound);
    assert!(missed.to_string().contains("transaction not available"), "{missed}");
    assert!(plan(&files, Target::Txid(Txid(14))).is_err());
    assert!(plan(&files, Target::Txid(Txid(0))).is_err());
}

#[test]
fn a_timestamp_takes_only_strictly_older_files() {
    let files = [file(9, 1, 1), file(0, 2, 2), file(0, 3, 3)];
    let at = |ms| plan(&files, Target::Timestamp(ms));
    assert_eq!(at(3000).unwrap(), [(9, 1, 1), (0, 2, 2)]);
    assert_eq!(at(3001).unwrap(), [(9, 1, 1), (0, 2, 2), (0, 3, 3)]);
    assert_eq!(at(1000).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_timestamp_inside_a_gap_gives_what_precedes_it() {
    let files = [file(9, 1, 1), file(0, 5, 5)];
    assert_eq!(plan(&files, Target::Timestamp(9_000)).unwrap(), [(9, 1, 1)]);
}

#[test]
fn without_a_snapshot_the_chain_starts_at_one() {
    assert_eq!(plan(&[file(0, 1, 1), file(0, 2, 2)], Target::Latest).unwrap().len(), 2);
    assert!(plan(&[file(0, 2, 2)], Target::Latest).is_err());
    assert_eq!(plan(&[], Target::Latest).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_last_snapshot_at_or_before_the_target_is_the_base() {
    let files = [file(9, 1, 3), file(9, 1, 8), file(0, 4, 4), file(0, 9, 9)];
    assert_eq!(plan(&files, Target::Txid(Txid(4))).unwrap(), [(9, 1, 3), (0, 4, 4)]);
    assert_eq!(plan(&files, Target::Latest).unwrap(), [(9, 1, 8), (0, 9, 9)]);
}

#[test]
fn the_end_of_the_number_space_does_not_wrap() {
    let files = [file_at(9, 1, u64::MAX, 1)];
    assert_eq!(plan(&files, Target::Latest).unwrap(), [(9, 1, u64::MAX)]);
}

/// The rule as the specification words it: at each step the best usable file
/// of all levels.
fn reference(levels: &[Vec<FileInfo>], target: Target) -> Option<Vec<FileInfo>> {
    let fits = |f: &&FileInfo| match target {
        Target::Latest => true,
        Target::Txid(t) => f.id.max <= t,
        Target::Timestamp(ms) => f.created_at_ms < ms,
    };
    let mut chosen: Vec<FileInfo> = levels[9].iter().rfind(fits).cloned().into_iter().collect();
    let mut cover = chosen.first().map_or(0, |f| f.id.max.0);
    let all = || levels[..9].iter().flatten().filter(fits);
    while target != Target::Txid(Txid(cover)) {
        let usable = all().filter(|f| f.id.min.0 <= cover + 1 && f.id.max.0 > cover);
        let best = usable.max_by(|a, b| {
            (a.id.max.cmp(&b.id.max))
                .then(b.id.min.cmp(&a.id.min))
                .then(a.id.level.cmp(&b.id.level))
                .then(b.created_at_ms.cmp(&a.created_at_ms))
        });
        let Some(best) = best else { break };
        cover = best.id.max.0;
        chosen.push(*best);
    }
    let gap = target == Target::Latest && all().any(|f| f.id.min.0 > cover + 1);
    let missed = matches!(target, Target::Txid(t) if t.0 != cover);
    (!gap && !missed && !chosen.is_empty()).then_some(chosen)
}

fn any_file() -> impl Strategy<Value = FileInfo> {
    (0u8..9, 1u64..24, 0u64..8, 0i64..12)
        .prop_map(|(level, min, len, at)| file_at(level, min, min + len, at))
}

fn any_snapshot() -> impl Strategy<Value = FileInfo> {
    (1u64..24, 0i64..12).prop_map(|(max, at)| file_at(9, 1, max, at))
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Latest),
        (1u64..32).prop_map(|t| Target::Txid(Txid(t))),
        (0i64..13).prop_map(Target::Timestamp),
    ]
}

proptest! {
    #[test]
    fn r_27_any_mix_of_overlaps_repeats_and_gaps(
        files in prop::collection::vec(any_file(), 0..30),
        snapshots in prop::collection::vec(any_snapshot(), 0..3),
        target in any_target(),
    ) {
        let levels = levels(files.into_iter().chain(snapshots));
        let plan = calc_restore_plan(&levels, target).ok();
        let expected = reference(&levels, target);
        prop_assert_eq!(plan.as_ref().map(|p| &p.files), expected.as_ref());
        if let Some(plan) = plan {
            let mut cover = 0;
            for f in &plan.files {
                prop_assert!(f.id.min.0 <= cover + 1 && f.id.max.0 > cover);
                cover = f.id.max.0;
            }
        }
    }
}
