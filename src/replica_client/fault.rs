//! A wrapper for tests that fails as storage fails, by a seeded plan.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    Body, ByteStream, FileId, FileInfo, Listed, Piece, ReplicaClient, Span, Tag, WriteMode,
};
use crate::clock::{Clock, Random};
use crate::error::{Error, ErrorKind, Result};
use crate::ltx::Txid;

/// Which faults occur, each with its probability from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FaultPlan {
    /// The operation fails before it reaches storage.
    pub refuse: f64,
    /// The operation waits for `delay` first.
    pub delay_probability: f64,
    /// How long delayed operations wait.
    pub delay: Duration,
    /// A write or deletion is done, but its answer is lost.
    pub lost_reply: f64,
    /// A read ends early: an error for `read`, after some bytes for a stream.
    pub truncated_read: f64,
    /// A listing is an earlier one of the same level.
    pub stale_list: f64,
}

impl FaultPlan {
    /// Every operation fails.
    pub fn outage() -> Self {
        FaultPlan { refuse: 1.0, ..FaultPlan::default() }
    }
}

/// Injects faults in front of the client inside.
#[derive(Debug)]
pub struct FaultClient<C> {
    inner: C,
    plan: Mutex<FaultPlan>,
    listed: Mutex<HashMap<u8, Vec<FileInfo>>>,
    listed_tagged: Mutex<HashMap<u8, Vec<Listed>>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl<C: ReplicaClient> FaultClient<C> {
    /// Faults by `plan`, drawn from `random`; delays pass on `clock`.
    pub fn new(inner: C, plan: FaultPlan, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        FaultClient {
            inner,
            plan: Mutex::new(plan),
            listed: Mutex::default(),
            listed_tagged: Mutex::default(),
            clock,
            random,
        }
    }

    /// Replaces the plan for the operations that start from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        *lock(&self.plan) = plan;
    }

    /// The client inside, without faults.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    fn hit(&self, probability: f64) -> bool {
        // No draw when nothing can happen: a plan without faults leaves the sequence alone.
        probability > 0.0 && self.random.unit() < probability
    }

    fn fault(&self, what: &str) -> Error {
        Error::new(ErrorKind::Transient, format!("injected fault at {}: {what}", self.url()))
    }

    async fn enter(&self) -> Result<FaultPlan> {
        let plan = *lock(&self.plan);
        if self.hit(plan.delay_probability) {
            self.clock.sleep(plan.delay).await;
        }
        if self.hit(plan.refuse) {
            return Err(self.fault("refused"));
        }
        Ok(plan)
    }

    fn reply<T>(&self, plan: FaultPlan, value: T) -> Result<T> {
        if self.hit(plan.lost_reply) { Err(self.fault("reply lost")) } else { Ok(value) }
    }

    /// Where a truncated read of `len` bytes stops.
    fn break_at(&self, len: usize) -> usize {
        (self.random.unit() * len as f64) as usize
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl<C: ReplicaClient> ReplicaClient for FaultClient<C> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        let plan = self.enter().await?;
        if self.hit(plan.stale_list) {
            let earlier = lock(&self.listed).get(&level).cloned().unwrap_or_default();
            return Ok(earlier.into_iter().filter(|f| f.id.min >= seek).collect());
        }
        let all = self.inner.list(level, Txid::NONE, metadata).await?;
        lock(&self.listed).insert(level, all.clone());
        Ok(all.into_iter().filter(|f| f.id.min >= seek).collect())
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        let plan = self.enter().await?;
        if self.hit(plan.stale_list) {
            let earlier = lock(&self.listed_tagged).get(&level).cloned().unwrap_or_default();
            return Ok(earlier.into_iter().filter(|f| f.info.id.min >= seek).collect());
        }
        let all = self.inner.list_tagged(level, Txid::NONE).await?;
        lock(&self.listed_tagged).insert(level, all.clone());
        Ok(all.into_iter().filter(|f| f.info.id.min >= seek).collect())
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        let plan = self.enter().await?;
        let data = self.inner.read(id, offset, len).await?;
        if self.hit(plan.truncated_read) { Err(self.fault("read cut")) } else { Ok(data) }
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        let plan = self.enter().await?;
        let mut piece = self.inner.read_piece(id, span, tag).await?;
        if self.hit(plan.truncated_read) {
            piece.bytes.truncate(self.break_at(piece.bytes.len()));
        }
        piece.checked(id, self.url(), span, tag)
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let plan = self.enter().await?;
        if !self.hit(plan.truncated_read) {
            return self.inner.read_stream(id, offset, len).await;
        }
        let data = self.inner.read(id, offset, len).await?;
        let part = data.slice(..self.break_at(data.len()));
        Ok(stream::iter([Ok(part), Err(self.fault("read cut"))]).boxed())
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        let plan = self.enter().await?;
        let info = self.inner.write(id, created_at_ms, body, mode).await?;
        self.reply(plan, info)
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        let plan = self.enter().await?;
        self.inner.delete(ids).await?;
        self.reply(plan, ())
    }

    async fn delete_all(&self) -> Result<()> {
        let plan = self.enter().await?;
        self.inner.delete_all().await?;
        self.reply(plan, ())
    }

    fn release_idle(&self) {
        self.inner.release_idle();
    }
}
