use std::fs;

use super::*;
use crate::log::NoLog;
use crate::os::PRIVATE_FILE_MODE;

const LIMIT: u64 = 64 << 20;

fn open(dir: &Path, limit: u64) -> DiskCache {
    DiskCache::open(dir, limit, Arc::new(NoLog))
}

fn key(n: u64) -> DiskKey {
    DiskKey::of(&["test", &n.to_string()])
}

/// A cache that looks at the directory at every miss.
fn look(cache: &DiskCache) {
    tasks::lock(&cache.state).refreshed = None;
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = os::list_dir(dir)
        .unwrap()
        .into_iter()
        .filter(|file| file.name.ends_with(suffix))
        .map(|file| dir.join(file.name))
        .collect();
    files.sort();
    files
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn log(&self, _: Level, message: &str) {
        tasks::lock(&self.0).push(message.to_owned());
    }
}

#[test]
fn keys_tell_their_parts_apart() {
    assert_ne!(DiskKey::of(&["ab", "c"]), DiskKey::of(&["a", "bc"]));
    assert_ne!(DiskKey::of(&["a"]), DiskKey::of(&["a", ""]));
    assert_eq!(DiskKey::of(&["a", "b"]), DiskKey::of(&["a", "b"]));
}

#[test]
fn what_one_process_keeps_others_find() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("not/there");
    let (one, other) = (open(&dir, LIMIT), open(&dir, LIMIT));
    assert!(other.get(key(1), 0).is_none());
    one.put(key(1), &[(0, b"zero"), (7, b"seven")], 1);
    assert_eq!(one.get(key(1), 7).unwrap(), b"seven");
    look(&other);
    assert_eq!(other.get(key(1), 0).unwrap(), b"zero");
    assert!(other.contains(key(1), 7) && !other.contains(key(1), 1));
    // It goes on reading where it was.
    one.put(key(2), &[(0, b"two")], 2);
    look(&other);
    assert_eq!(other.get(key(2), 0).unwrap(), b"two");
    let later = open(&dir, LIMIT);
    assert_eq!(later.get(key(1), 7).unwrap(), b"seven");
    for file in files(&dir, "") {
        assert_eq!(os::mode_and_owner(&file).unwrap().0, PRIVATE_FILE_MODE);
    }
}

#[test]
fn the_last_one_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path(), LIMIT), open(dir.path(), LIMIT));
    two.put(key(1), &[(0, b"newer")], 20);
    one.put(key(1), &[(0, b"older")], 10);
    assert_eq!(open(dir.path(), LIMIT).get(key(1), 0).unwrap(), b"newer");
}

#[test]
fn damage_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let payload = [5; 1_000];
    open(dir.path(), LIMIT).put(key(1), &[(0, &payload)], 1);
    for suffix in [PAGES, INDEX] {
        let path = &files(dir.path(), suffix)[0];
        let whole = fs::read(path).unwrap();
        for at in (0..whole.len()).step_by(31) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(path, &bytes).unwrap();
            let cache = open(dir.path(), LIMIT);
            assert!(cache.get(key(1), 0).is_none(), "{suffix} {at}");
            assert!(!cache.contains(key(1), 0));
            fs::write(path, &whole[..at]).unwrap();
            assert!(open(dir.path(), LIMIT).get(key(1), 0).is_none(), "{suffix} to {at}");
        }
        fs::write(path, &whole).unwrap();
    }
    assert_eq!(open(dir.path(), LIMIT).get(key(1), 0).unwrap(), payload);
}

#[test]
fn a_torn_end_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), LIMIT).put(key(1), &[(0, b"first"), (1, b"second")], 1);
    let index = &files(dir.path(), INDEX)[0];
    let bytes = fs::read(index).unwrap();
    fs::write(index, &bytes[..100]).unwrap();
    let cache = open(dir.path(), LIMIT);
    assert_eq!(cache.get(key(1), 0).unwrap(), b"first");
    assert!(cache.get(key(1), 1).is_none());
    cache.put(key(1), &[(1, b"again")], 2);
    assert_eq!(open(dir.path(), LIMIT).get(key(1), 1).unwrap(), b"again");
}

#[test]
fn the_bound_holds_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 8 << 20;
    let (cache, other) = (open(dir.path(), limit), open(dir.path(), limit));
    let payload = vec![1; 100_000];
    for n in 0..400 {
        let writer = if n % 2 == 0 { &cache } else { &other };
        writer.put(key(n), &[(0, &payload)], n as i64);
        let total: u64 = os::list_dir(dir.path()).unwrap().iter().map(|file| file.size).sum();
        // Each of the two may have begun a segment.
        assert!(total <= limit + 2 * SEGMENT_MIN, "{total}");
    }
    look(&cache);
    assert!(cache.get(key(0), 0).is_none());
    assert_eq!(cache.get(key(399), 0).unwrap(), payload);
    let kept = (0..400).filter(|n| cache.get(key(*n), 0).is_some()).count();
    assert!((50..=90).contains(&kept), "{kept}");
}

#[test]
fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.pages", "b.index", "note"] {
        fs::write(dir.path().join(name), vec![1; 3 << 20]).unwrap();
    }
    let cache = open(dir.path(), 1);
    for n in 0..40 {
        cache.put(key(n), &[(0, &vec![1; 100_000])], n as i64);
    }
    for name in ["a.pages", "b.index", "note"] {
        assert!(dir.path().join(name).exists());
    }
}

#[test]
fn removed_segments_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (open(dir.path(), LIMIT), open(dir.path(), LIMIT));
    one.put(key(1), &[(0, b"x")], 1);
    assert!(other.contains(key(1), 0));
    for file in files(dir.path(), "") {
        fs::remove_file(file).unwrap();
    }
    assert!(other.get(key(1), 0).is_none());
    look(&one);
    assert!(one.get(key(2), 0).is_none());
    // What is kept from now on is found.
    one.put(key(3), &[(0, b"y")], 2);
    assert_eq!(open(dir.path(), LIMIT).get(key(3), 0).unwrap(), b"y");
}

#[test]
fn an_unusable_directory_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"in the way").unwrap();
    let lines = Arc::new(Lines::default());
    let cache = DiskCache::open(&path, LIMIT, lines.clone());
    for n in 0..10 {
        cache.put(key(n), &[(0, b"x")], 1);
        assert!(cache.get(key(n), 0).is_none());
        assert!(!cache.contains(key(n), 0));
    }
    let lines = tasks::lock(&lines.0);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains(path.to_str().unwrap()), "{lines:?}");
}

#[test]
fn a_lookup_does_not_wait_for_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(open(dir.path(), LIMIT));
    open(dir.path(), LIMIT).put(key(1), &[(0, b"there")], 1);
    assert!(cache.contains(key(1), 0));
    // The next segment: to open it takes as long as nobody reads it.
    let pipe = dir.path().join(format!("{:016x}-{}-1{PAGES}", 2, tasks::process_id()));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let writer = Arc::clone(&cache);
    let writer = std::thread::spawn(move || writer.put(key(2), &[(0, b"late")], 2));
    let index = pipe.with_extension("index");
    tasks::sleep_blocking(Duration::from_millis(200));
    let (tell, told) = std::sync::mpsc::channel();
    let reader = Arc::clone(&cache);
    std::thread::spawn(move || tell.send((reader.contains(key(1), 0), reader.get(key(1), 0))));
    let answer = told.recv_timeout(Duration::from_secs(20));
    assert!(!writer.is_finished() && !index.exists());
    let _end = fs::File::open(&pipe).unwrap();
    writer.join().unwrap();
    assert_eq!(answer.unwrap(), (true, Some(b"there".to_vec())));
}
