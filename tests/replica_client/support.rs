//! Clients to test, and files to put into them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use litestream::ltx::Txid;
use litestream::replica_client::{
    Body, ByteStream, FileId, FixedEnv, ReplicaClient, ReplicaOptions, open,
};
use litestream::{Error, Result};

use crate::services::services;

/// The clients that fulfil the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    File,
    Ministack,
    Seaweedfs,
}

/// A fresh replica; its directory lives as long as this.
pub struct Replica {
    pub client: Arc<dyn ReplicaClient>,
    pub dir: Option<tempfile::TempDir>,
}

impl Backend {
    /// An empty replica of this kind.
    pub fn replica(self) -> Replica {
        let endpoint = match self {
            Backend::File => {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("file://{}/replica", dir.path().display());
                let client = open(&url, &ReplicaOptions::default()).unwrap();
                return Replica { client, dir: Some(dir) };
            }
            Backend::Ministack => services().get("S3_MINISTACK"),
            Backend::Seaweedfs => services().get("S3_SEAWEED"),
        };
        Replica { client: open(&s3_url(endpoint, ""), &keys()).unwrap(), dir: None }
    }
}

/// The URL of an unused prefix on the S3 server `endpoint`; `more` is appended
/// to its query.
pub fn s3_url(endpoint: &str, more: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("suite/{}-{serial}", std::process::id());
    format!("s3://bkt/{prefix}?endpoint={endpoint}{more}")
}

/// The keys that every local server knows.
pub fn keys() -> ReplicaOptions {
    with_keys("testkey", "testsecret")
}

/// Options with these keys and an otherwise empty environment.
pub fn with_keys(id: &str, secret: &str) -> ReplicaOptions {
    let env = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
    ReplicaOptions { env: Arc::new(FixedEnv::new(env)), ..ReplicaOptions::default() }
}

/// The file of level 0 with the transactions `min` to `max`.
pub fn id(min: u64, max: u64) -> FileId {
    FileId::new(0, Txid(min), Txid(max))
}

/// `len` bytes that differ by position and by `seed`.
pub fn data(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| (i / 7) as u8 ^ (i >> 11) as u8 ^ seed).collect::<Vec<u8>>().into()
}

/// A body in memory.
pub fn body(data: &Bytes) -> Body {
    Body::Bytes(data.clone())
}

/// A body that arrives in pieces of `piece` bytes.
pub fn streamed(data: &Bytes, piece: usize) -> Body {
    Body::Stream(pieces(data, piece))
}

/// A body that breaks off after `data` with `error`.
pub fn broken(data: &Bytes, piece: usize, error: Error) -> Body {
    let end = stream::once(async { Err::<Bytes, Error>(error) });
    Body::Stream(pieces(data, piece).chain(end).boxed())
}

fn pieces(data: &Bytes, piece: usize) -> ByteStream {
    let data = data.clone();
    let starts = (0..data.len()).step_by(piece);
    let cut: Vec<Result<Bytes>> =
        starts.map(|i| Ok(data.slice(i..data.len().min(i + piece)))).collect();
    stream::iter(cut).boxed()
}

/// Everything that a stream brings.
pub async fn collect(mut stream: ByteStream) -> Result<Bytes> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all.into())
}
