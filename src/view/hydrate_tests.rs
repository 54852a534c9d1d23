use std::collections::BTreeMap;

use super::*;
use crate::clock::{SeededRandom, SystemClock};
use crate::replica_client::retry::RetryPolicy;
use crate::view::testing::{Fault, Storage, leaf, leaves, view_of};

const LEN: usize = 512;
const URL: &str = "memory://storage";

/// A replica of 200 pages, and one more file with newer versions of some.
struct World {
    storage: Arc<Storage>,
    client: Arc<dyn ReplicaClient>,
    base: Arc<RemoteFile>,
    delta: Arc<RemoteFile>,
}

fn world() -> World {
    let storage = Arc::new(Storage::default());
    let base = storage.add(1, &leaves(200, LEN));
    let changed: BTreeMap<Pgno, Vec<u8>> = [3, 4, 150].map(|n| (n, leaf(n, 2, LEN))).into();
    let delta = storage.add(2, &changed);
    World { client: storage.clone(), storage, base, delta }
}

impl World {
    fn first(&self) -> View {
        view_of(&[(Arc::clone(&self.base), 200)])
    }

    fn second(&self) -> View {
        view_of(&[(Arc::clone(&self.base), 200), (Arc::clone(&self.delta), 200)])
    }

    async fn fill(&self, copy: &Hydration, view: &View) -> Result<()> {
        let policy = RetryPolicy { attempts: 1, base: Duration::ZERO, cap: Duration::ZERO };
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(1)));
        copy.fill(view, &self.client, &Retrier { policy, clock, random }).await
    }
}

fn temporary_copy() -> Arc<Hydration> {
    let dir = std::env::temp_dir();
    Hydration::open(&Hydrate::Temporary(dir), URL).unwrap().unwrap()
}

fn at(path: &Path, url: &str) -> Result<Arc<Hydration>> {
    Hydration::open(&Hydrate::At(path.to_owned()), url).map(Option::unwrap)
}

/// The version of page `pgno` that the copy serves to `view`.
fn served(copy: &Hydration, view: &View, pgno: Pgno) -> Option<u64> {
    let (file, _) = view.index().get(pgno)?;
    let mut buf = vec![0; LEN];
    if !copy.read(file, pgno, &mut buf) {
        return None;
    }
    let version = (1..9).find(|version| leaf(pgno, *version, LEN) == buf);
    Some(version.expect("a page that was stored"))
}

#[tokio::test]
async fn a_copy_serves_each_view_its_own_pages() {
    let world = world();
    let (copy, first, second) = (temporary_copy(), world.first(), world.second());
    assert_eq!(served(&copy, &first, 1), None);
    world.fill(&copy, &first).await.unwrap();
    assert!((1..=200).all(|pgno| served(&copy, &first, pgno) == Some(1)));
    assert_eq!((served(&copy, &second, 2), served(&copy, &second, 3)), (Some(1), None));
    let requests = world.storage.requests();
    world.fill(&copy, &second).await.unwrap();
    assert_eq!(world.storage.requests(), requests + 1);
    assert_eq!((served(&copy, &second, 3), served(&copy, &second, 5)), (Some(2), Some(1)));
    assert_eq!((served(&copy, &first, 3), served(&copy, &first, 5)), (None, Some(1)));
    let status = copy.status();
    assert_eq!((status.pages, status.pages_total, status.path), (200, 200, None));
}

#[tokio::test]
async fn a_copy_shrinks_and_grows_with_the_database() {
    let world = world();
    let copy = temporary_copy();
    world.fill(&copy, &world.first()).await.unwrap();
    let small = world.storage.add(3, &[(1, leaf(1, 3, LEN))].into());
    let shrunk = view_of(&[(Arc::clone(&world.base), 200), (Arc::clone(&small), 50)]);
    world.fill(&copy, &shrunk).await.unwrap();
    assert_eq!(copy.file.len().unwrap(), 50 * LEN as u64);
    assert_eq!(served(&copy, &world.first(), 60), None, "it lies behind the end now");
    let grown: BTreeMap<Pgno, Vec<u8>> = (51..=60).map(|n| (n, leaf(n, 4, LEN))).collect();
    let grown = world.storage.add(4, &grown);
    let view = view_of(&[(Arc::clone(&world.base), 200), (small, 50), (grown, 60)]);
    world.fill(&copy, &view).await.unwrap();
    assert_eq!((served(&copy, &view, 60), served(&copy, &view, 50)), (Some(4), Some(1)));
    assert_eq!(copy.file.len().unwrap(), 60 * LEN as u64);
}

#[tokio::test]
async fn damaged_bytes_and_failures_leave_nothing_to_serve() {
    let world = world();
    let (copy, view) = (temporary_copy(), world.first());
    for fault in [Fault::Garbled, Fault::Fails(ErrorKind::Transient)] {
        tasks::lock(&world.storage.faults).push_back(fault);
        assert!(world.fill(&copy, &view).await.is_err());
        assert_eq!(served(&copy, &view, 1), None);
    }
    world.storage.remove(&world.base.id);
    assert_eq!(world.fill(&copy, &view).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_named_copy_is_continued_where_it_was_left() {
    let world = world();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/copy.db");
    let meta = dir.path().join("sub/copy.db.meta");
    let copy = at(&path, URL).unwrap();
    world.fill(&copy, &world.first()).await.unwrap();
    copy.close(Some(&world.first())).unwrap();
    drop(copy);
    let text = std::fs::read_to_string(&meta).unwrap();
    assert_eq!(text.lines().next(), Some("1"));
    let modified = || std::fs::metadata(&path).unwrap().modified().unwrap();
    let before = modified();

    let requests = world.storage.requests();
    let copy = at(&path, URL).unwrap();
    assert!(!meta.exists(), "nothing is known of a copy that is open");
    world.fill(&copy, &world.first()).await.unwrap();
    assert_eq!((world.storage.requests(), modified()), (requests, before));
    assert!((1..=200).all(|pgno| served(&copy, &world.first(), pgno) == Some(1)));
    copy.close(Some(&world.first())).unwrap();
    drop(copy);

    let copy = at(&path, URL).unwrap();
    world.fill(&copy, &world.second()).await.unwrap();
    assert_eq!(world.storage.requests(), requests + 1);
    assert_eq!(served(&copy, &world.second(), 150), Some(2));
    copy.close(Some(&world.second())).unwrap();
    drop(copy);

    // Nobody looked: what was left stays.
    let copy = at(&path, URL).unwrap();
    copy.close(None).unwrap();
    drop(copy);
    assert!(meta.exists());
}

#[tokio::test]
async fn what_a_copy_does_not_prove_is_not_believed() {
    let world = world();
    let dir = tempfile::tempdir().unwrap();
    let (path, meta) = (dir.path().join("copy.db"), dir.path().join("copy.db.meta"));
    let leave = async || {
        let copy = at(&path, URL).unwrap();
        world.fill(&copy, &world.first()).await.unwrap();
        copy.close(Some(&world.first())).unwrap();
    };
    let serves = async |url: &str, view: &View| {
        let copy = at(&path, url).unwrap();
        copy.begin(view).unwrap();
        served(&copy, view, 7).is_some()
    };
    leave().await;
    assert!(serves(URL, &world.first()).await);
    assert!(!serves(URL, &world.first()).await, "it was not closed");
    leave().await;
    assert!(!serves("memory://other", &world.first()).await);
    leave().await;
    std::fs::remove_file(&path).unwrap();
    assert!(!serves(URL, &world.first()).await);
    leave().await;
    std::fs::write(&path, vec![1; 200 * LEN]).unwrap();
    assert!(!serves(URL, &world.first()).await, "somebody else wrote it");
    for text in ["", "1", "1\n", "42\nnonsense", "1\n{}"] {
        std::fs::write(&meta, text).unwrap();
        assert!(!serves(URL, &world.first()).await, "{text}");
        assert!(!meta.exists());
    }
    // The same names with other bytes, as of a replica that was begun anew.
    leave().await;
    let other = Arc::new(Storage::default());
    let pages = (1..=200).map(|n| (n, leaf(n, 5, LEN))).collect();
    let anew = view_of(&[(other.add(1, &pages), 200)]);
    assert!(!serves(URL, &anew).await);
}

#[test]
fn one_file_is_one_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.db");
    let first = at(&path, URL).unwrap();
    let e = at(&path, URL).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.to_string().contains("hydration_path"), "{e}");
    drop(first);
    at(&path, URL).unwrap();
    assert!(Hydration::open(&Hydrate::Off, URL).unwrap().is_none());
}
