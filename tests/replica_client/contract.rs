//! The contract of `ReplicaClient`, run against every backend.

use futures_util::{StreamExt, TryStreamExt, stream};
use litestream::ltx::Txid;
use litestream::replica_client::{FileId, Span, Tag, WriteMode};
use litestream::{Error, ErrorKind};

use crate::support::{Backend, body, broken, collect, data, id, streamed};

const CREATED_MS: i64 = 1_790_000_000_250;

async fn list_is_ordered_and_seeks(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    assert!(client.list(3, Txid::NONE, false).await.unwrap().is_empty(), "missing level");
    let ranges = [(5, 5), (1, 1), (2, 4), (0xa, 0xff), (0x1_0000_0000, 0x1_0000_0001), (2, 2)];
    for (min, max) in ranges {
        let content = data(min as u8, 10 + min as usize % 100);
        client.write(&id(min, max), CREATED_MS, body(&content), WriteMode::Create).await.unwrap();
    }
    let other = FileId::new(9, Txid(1), Txid(0xff));
    client.write(&other, CREATED_MS, body(&data(9, 9)), WriteMode::Create).await.unwrap();

    let found = |files: Vec<litestream::replica_client::FileInfo>| -> Vec<(u64, u64)> {
        files.iter().map(|f| (f.id.min.0, f.id.max.0)).collect()
    };
    let all = client.list(0, Txid::NONE, false).await.unwrap();
    assert!(all.iter().all(|f| f.size == 10 + f.id.min.0 % 100));
    let ordered = vec![(1, 1), (2, 2), (2, 4), (5, 5), (0xa, 0xff), (0x1_0000_0000, 0x1_0000_0001)];
    assert_eq!(found(all), ordered);
    for (seek, first) in [(1, 0), (2, 1), (3, 3), (5, 3), (6, 4), (0xb, 5), (u64::MAX, 6)] {
        let files = client.list(0, Txid(seek), false).await.unwrap();
        assert_eq!(found(files), ordered[first..], "seek {seek:#x}");
    }
    assert_eq!(client.list(9, Txid::NONE, false).await.unwrap()[0].id, other);
}

async fn reads_take_ranges(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let content = data(1, 100_000);
    let file = id(1, 1);
    client.write(&file, CREATED_MS, body(&content), WriteMode::Create).await.unwrap();
    let end = content.len();
    for (offset, len, expected) in [
        (0, None, 0..end),
        (0, Some(0), 0..0),
        (0, Some(1), 0..1),
        (99_000, None, 99_000..end),
        (99_000, Some(500), 99_000..99_500),
        (99_000, Some(5_000_000), 99_000..end),
        (99_999, Some(1), 99_999..end),
        (100_000, None, end..end),
        (100_000, Some(10), end..end),
        (5_000_000, None, end..end),
        (5_000_000, Some(10), end..end),
        (u64::MAX / 2, Some(u64::MAX), end..end),
    ] {
        let read = client.read(&file, offset, len).await.unwrap();
        assert!(read == content.slice(expected.clone()), "read {offset} {len:?}");
        let stream = client.read_stream(&file, offset, len).await.unwrap();
        let read = collect(stream).await.unwrap();
        assert!(read == content.slice(expected), "stream {offset} {len:?}");
    }
    for len in [None, Some(0), Some(7)] {
        let read = client.read(&id(2, 2), 0, len).await.unwrap_err();
        assert_eq!(read.kind(), ErrorKind::NotFound, "{read}");
        assert!(read.to_string().contains("0000000000000002-0000000000000002.ltx"), "{read}");
        let stream = client.read_stream(&id(2, 2), 5, len).await.map(drop).unwrap_err();
        assert_eq!(stream.kind(), ErrorKind::NotFound, "{stream}");
    }
}

async fn pieces_are_of_one_version(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let (first, second) = (data(1, 100_000), data(2, 100_000));
    let file = id(1, 1);
    client.write(&file, CREATED_MS, body(&first), WriteMode::Create).await.unwrap();
    let whole = client.read_prefix(&file, None).await.unwrap();
    assert!(whole.bytes == first);
    for (span, expected) in [
        (Span::Prefix(100), 0..100),
        (Span::Prefix(1_000_000), 0..100_000),
        (Span::Suffix(100), 99_900..100_000),
        (Span::Suffix(100_000), 0..100_000),
        (Span::Suffix(1_000_000), 0..100_000),
        (Span::Range { offset: 5, len: 7 }, 5..12),
        (Span::Range { offset: 99_999, len: 1 }, 99_999..100_000),
    ] {
        for tag in [None, Some(&whole.tag)] {
            let piece = client.read_piece(&file, span, tag).await.unwrap();
            assert!(piece.bytes == first.slice(expected.clone()), "{span:?}");
            assert_eq!((piece.size, &piece.tag), (100_000, &whole.tag), "{span:?}");
        }
    }
    let listed = client.list_tagged(0, Txid::NONE).await.unwrap();
    assert_eq!((listed[0].info.size, listed[0].tag.as_ref()), (100_000, Some(&whole.tag)));
    let range = client.read_tagged(&file, 10, 20, &whole.tag).await.unwrap();
    assert!(range == first.slice(10..30));

    client.write(&file, CREATED_MS, body(&second), WriteMode::Overwrite).await.unwrap();
    for tag in [whole.tag.clone(), Tag::new("\"other\""), Tag::new("none")] {
        let e = client.read_tagged(&file, 10, 20, &tag).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        assert!(e.to_string().contains("replaced"), "{e}");
    }
    let suffix = client.read_suffix(&file, 10).await.unwrap();
    assert!(suffix.bytes == second.slice(99_990..) && suffix.tag != whole.tag);
    client.delete(&[file]).await.unwrap();
    let e = client.read_tagged(&file, 10, 20, &suffix.tag).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    let e = client.read_suffix(&file, 10).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
}

async fn create_never_replaces(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let (first, second) = (data(1, 1_000), data(2, 2_000));
    let file = id(1, 1);
    let info = client.write(&file, CREATED_MS, body(&first), WriteMode::Create).await.unwrap();
    assert_eq!((info.id, info.size, info.created_at_ms), (file, 1_000, CREATED_MS));
    for again in [body(&second), body(&first), streamed(&second, 300)] {
        let error = client.write(&file, CREATED_MS, again, WriteMode::Create).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(client.read(&file, 0, None).await.unwrap(), first);
    client.write(&file, CREATED_MS, body(&second), WriteMode::Overwrite).await.unwrap();
    assert_eq!(client.read(&file, 0, None).await.unwrap(), second);
    client.write(&file, CREATED_MS, streamed(&first, 300), WriteMode::Overwrite).await.unwrap();
    assert_eq!(client.read(&file, 0, None).await.unwrap(), first);
}

async fn one_of_eight_racers_creates(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    for round in 1..=5 {
        let file = id(round, round);
        let race = (0..8u8).map(|racer| {
            let content = data(racer, 3_000);
            async move {
                let write = client.write(&file, CREATED_MS, body(&content), WriteMode::Create);
                (racer, write.await)
            }
        });
        let results = futures_util::future::join_all(race).await;
        let mut winners = Vec::new();
        for (racer, result) in results {
            match result {
                Ok(_) => winners.push(racer),
                Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let stored = client.read(&file, 0, None).await.unwrap();
        assert!(stored == data(winners[0], 3_000), "round {round}");
    }
}

async fn deletion_is_idempotent(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    client.delete(&[]).await.unwrap();
    client.delete(&[id(7, 7)]).await.unwrap();
    client.delete_all().await.unwrap();
    for n in 1..=3 {
        client.write(&id(n, n), CREATED_MS, body(&data(0, 5)), WriteMode::Create).await.unwrap();
    }
    client.delete(&[id(1, 1), id(8, 8), id(3, 3)]).await.unwrap();
    let left = client.list(0, Txid::NONE, false).await.unwrap();
    assert_eq!(left.iter().map(|f| f.id).collect::<Vec<_>>(), [id(2, 2)]);
    let snapshot = FileId::new(9, Txid(1), Txid(2));
    client.write(&snapshot, CREATED_MS, body(&data(0, 5)), WriteMode::Create).await.unwrap();
    client.delete_all().await.unwrap();
    for level in 0..=9 {
        assert!(client.list(level, Txid::NONE, false).await.unwrap().is_empty());
    }
    // A name that was freed can be created again.
    client.write(&id(2, 2), CREATED_MS, body(&data(0, 5)), WriteMode::Create).await.unwrap();
}

async fn header_times_are_kept(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let times = [0, 1, 1_000, CREATED_MS, CREATED_MS + 1, CREATED_MS / 1_000 * 1_000];
    for (n, time) in times.into_iter().enumerate() {
        let n = n as u64 + 1;
        client.write(&id(n, n), time, body(&data(0, 5)), WriteMode::Create).await.unwrap();
    }
    let long = data(3, 6 << 20);
    let file = id(7, 7);
    client.write(&file, CREATED_MS, streamed(&long, 1 << 20), WriteMode::Create).await.unwrap();
    let listed = client.list(0, Txid::NONE, true).await.unwrap();
    let kept: Vec<i64> = listed.iter().map(|f| f.created_at_ms).collect();
    assert_eq!(kept[..6], times);
    assert_eq!(kept[6], CREATED_MS, "long files keep it as well");
}

async fn listings_have_every_page(backend: Backend) {
    const FILES: u64 = 1_200;
    let replica = backend.replica();
    let client = &replica.client;
    let content = data(0, 20);
    let writes = stream::iter((1..=FILES).map(Ok::<_, Error>));
    writes
        .try_for_each_concurrent(16, |n| {
            let content = &content;
            async move {
                let file = id(n, n);
                let write = client.write(&file, CREATED_MS, body(content), WriteMode::Create);
                write.await.map(drop)
            }
        })
        .await
        .unwrap();
    let all = client.list(0, Txid::NONE, false).await.unwrap();
    assert_eq!(all.len() as u64, FILES);
    assert!(all.iter().zip(1..).all(|(file, n)| file.id == id(n, n)));
    let tail = client.list(0, Txid(101), false).await.unwrap();
    assert_eq!((tail.len() as u64, tail[0].id), (FILES - 100, id(101, 101)));
    let some = client.list(0, Txid(1_100), true).await.unwrap();
    assert_eq!(some.len(), 101);
    assert!(some.iter().all(|f| f.created_at_ms == CREATED_MS));
    let ids: Vec<FileId> = all.iter().map(|f| f.id).collect();
    client.delete(&ids).await.unwrap();
    assert!(client.list(0, Txid::NONE, false).await.unwrap().is_empty());
}

async fn long_streams_arrive_whole(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let content = data(5, (12 << 20) + 12_345);
    let file = id(1, 9);
    let write = client.write(&file, CREATED_MS, streamed(&content, 777_777), WriteMode::Create);
    assert_eq!(write.await.unwrap().size, content.len() as u64);
    assert!(client.read(&file, 0, None).await.unwrap() == content);
    let stream = client.read_stream(&file, 5_000_000, Some(4_000_000)).await.unwrap();
    assert!(collect(stream).await.unwrap() == content.slice(5_000_000..9_000_000));

    let error = client
        .write(&file, CREATED_MS, streamed(&content, 999_999), WriteMode::Create)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
}

async fn broken_streams_leave_nothing(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    for (n, len) in [(1, 0), (2, 1_000), (3, 11 << 20)] {
        let cause = Error::new(ErrorKind::Corrupt, "the source broke");
        let content = broken(&data(1, len), 1 << 20, cause);
        let write = client.write(&id(n, n), CREATED_MS, content, WriteMode::Create).await;
        assert_eq!(write.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert!(client.list(0, Txid::NONE, false).await.unwrap().is_empty());
}

async fn empty_files_are_files(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let none = data(0, 0);
    client.write(&id(1, 1), CREATED_MS, body(&none), WriteMode::Create).await.unwrap();
    client.write(&id(2, 2), CREATED_MS, streamed(&none, 1), WriteMode::Create).await.unwrap();
    for n in 1..=2 {
        assert!(client.read(&id(n, n), 0, None).await.unwrap().is_empty());
        assert!(client.read(&id(n, n), 0, Some(10)).await.unwrap().is_empty());
    }
    let sizes = client.list(0, Txid::NONE, false).await.unwrap();
    assert!(sizes.len() == 2 && sizes.iter().all(|f| f.size == 0));
}

async fn released_clients_come_back(backend: Backend) {
    let replica = backend.replica();
    let client = &replica.client;
    let content = data(1, 3 << 20);
    let file = id(1, 1);
    for _ in 0..3 {
        client.write(&file, CREATED_MS, body(&content), WriteMode::Overwrite).await.unwrap();
        let mut stream = client.read_stream(&file, 0, None).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        client.release_idle();
        let rest = collect(stream).await.unwrap();
        assert_eq!(first.len() + rest.len(), content.len(), "calls under way go on");
        client.release_idle();
        assert_eq!(client.list(0, Txid::NONE, false).await.unwrap().len(), 1);
    }
}

macro_rules! every_backend {
    ($($test:ident),* $(,)?) => {
        every_backend!(@module file Backend::File; $($test),*);
        every_backend!(@module ministack Backend::Ministack; $($test),*);
        every_backend!(@module seaweedfs Backend::Seaweedfs; $($test),*);
    };
    (@module $name:ident $backend:expr; $($test:ident),*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($backend).await;
                }
            )*
        }
    };
}

every_backend!(
    list_is_ordered_and_seeks,
    reads_take_ranges,
    pieces_are_of_one_version,
    create_never_replaces,
    one_of_eight_racers_creates,
    deletion_is_idempotent,
    header_times_are_kept,
    listings_have_every_page,
    long_streams_arrive_whole,
    broken_streams_leave_nothing,
    empty_files_are_files,
    released_clients_come_back,
);
