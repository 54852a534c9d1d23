//! What is special to replicas in directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use litestream::ErrorKind;
use litestream::ltx::Txid;
use litestream::replica_client::WriteMode;

use crate::support::{Backend, body, data, id};

#[tokio::test]
async fn the_layout_is_private_and_litestreams_own() {
    let replica = Backend::File.replica();
    let root = replica.dir.as_ref().unwrap().path().join("replica");
    let created = 1_700_000_000_123;
    let content = data(1, 10);
    replica.client.write(&id(1, 0x2a), created, body(&content), WriteMode::Create).await.unwrap();
    let path = root.join("ltx/0/0000000000000001-000000000000002a.ltx");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_700_000_000, 123_000_000));
    for dir in [root.clone(), root.join("ltx"), root.join("ltx/0")] {
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700, "{dir:?}");
    }
    let names: Vec<_> = fs::read_dir(root.join("ltx/0")).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left");
}

#[tokio::test]
async fn other_files_are_neither_listed_nor_deleted() {
    let replica = Backend::File.replica();
    let client = &replica.client;
    client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await.unwrap();
    let root = replica.dir.as_ref().unwrap().path().join("replica");
    let level = root.join("ltx/0");
    for name in [
        "0000000000000002-0000000000000002.ltx.17-3.tmp",
        "000000000000000A-000000000000000A.ltx",
        "notes.txt",
        "2-2.ltx",
    ] {
        fs::write(level.join(name), "x").unwrap();
    }
    fs::create_dir(level.join("0000000000000003-0000000000000003.ltx")).unwrap();
    fs::write(root.join("mine"), "x").unwrap();
    assert_eq!(client.list(0, Txid::NONE, false).await.unwrap().len(), 1);
    client.delete_all().await.unwrap();
    assert!(!level.join("0000000000000001-0000000000000001.ltx").exists());
    assert!(!level.join("0000000000000002-0000000000000002.ltx.17-3.tmp").exists());
    assert!(level.join("notes.txt").exists() && root.join("mine").exists());
}

#[tokio::test]
async fn a_file_in_the_way_is_named() {
    let replica = Backend::File.replica();
    let root = replica.dir.as_ref().unwrap().path().join("replica");
    fs::write(&root, "a file, not a directory").unwrap();
    let write = replica.client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await;
    let error = write.unwrap_err();
    assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    assert_ne!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&root).unwrap(), b"a file, not a directory");
}
