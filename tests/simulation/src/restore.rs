//! Restoring as the command line does, from a copy of what is in storage.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use litestream::ltx::{Pgno, Txid};
use litestream::plan::{Target, calc_restore_plan, list_levels};
use litestream::replica_client::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, Span, Tag, WriteMode,
};
use litestream::restore::{PageSink, ReplayOptions, replay};
use litestream::{Error, ErrorKind, Result};

use crate::storage::piece_of;

/// Storage that only can be read.
#[derive(Debug)]
struct Frozen(BTreeMap<FileId, (FileInfo, Bytes)>);

fn denied() -> Error {
    Error::new(ErrorKind::Denied, "a restore does not write")
}

#[async_trait]
impl ReplicaClient for Frozen {
    fn kind(&self) -> &'static str {
        "frozen"
    }

    fn url(&self) -> &str {
        "frozen://"
    }

    async fn list(&self, level: u8, seek: Txid, _: bool) -> Result<Vec<FileInfo>> {
        let all = self.0.values().map(|(info, _)| *info);
        Ok(all.filter(|f| f.id.level == level && f.id.min >= seek).collect())
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        let files = self.list(level, seek, false).await?;
        Ok(files.into_iter().map(|info| Listed { info, tag: None }).collect())
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        let (_, data) = self
            .0
            .get(id)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{id} does not exist")))?;
        let from = (offset as usize).min(data.len());
        let n = len.map_or(data.len() - from, |l| (data.len() - from).min(l as usize));
        Ok(data.slice(from..from + n))
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        piece_of(&self.read(id, 0, None).await?, span).checked(id, self.url(), span, tag)
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let data = self.read(id, offset, len).await?;
        Ok(stream::iter([Ok(data)]).boxed())
    }

    async fn write(&self, _: &FileId, _: i64, _: Body, _: WriteMode) -> Result<FileInfo> {
        Err(denied())
    }

    async fn delete(&self, _: &[FileId]) -> Result<()> {
        Err(denied())
    }

    async fn delete_all(&self) -> Result<()> {
        Err(denied())
    }

    fn release_idle(&self) {}
}

#[derive(Default)]
struct Memory {
    page_size: u32,
    bytes: Vec<u8>,
}

impl PageSink for Memory {
    fn begin(&mut self, page_size: u32, commit: Pgno) -> Result<()> {
        self.page_size = page_size;
        self.bytes = vec![0; page_size as usize * commit as usize];
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        let at = (pgno as usize - 1) * self.page_size as usize;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// The database at `txid`: its bytes and page size.
///
/// # Errors
/// Text.
pub fn at(objects: &[(FileInfo, Bytes)], txid: u64) -> std::result::Result<(Vec<u8>, u32), String> {
    let files = objects.iter().map(|(info, data)| (info.id, (*info, data.clone()))).collect();
    let client: Arc<dyn ReplicaClient> = Arc::new(Frozen(files));
    // Outside of the world: its result does not depend on who runs when.
    let work = move || -> Result<(Vec<u8>, u32)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .map_err(|e| Error::new(ErrorKind::Internal, "runtime").with_source(e))?;
        let levels = runtime.block_on(list_levels(&*client, false))?;
        let plan = calc_restore_plan(&levels, Target::Txid(Txid(txid)))?;
        let mut sink = Memory::default();
        replay(client, runtime.handle(), &plan, &ReplayOptions::default(), &mut sink)?;
        Ok((sink.bytes, sink.page_size))
    };
    match std::thread::spawn(work).join() {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the restore panicked".to_owned()),
    }
}
