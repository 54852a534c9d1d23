//! A replica client as a database holds it: counted, and with a name that
//! tells storage places apart.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::DbConfig;
use crate::error::Result;
use crate::ltx::Txid;
use crate::replica_client::{
    self, Body, ByteStream, CountingClient, FileId, FileInfo, Listed, Piece, ReplicaClient,
    ReplicaOptions, RequestCounts, Span, Tag, WriteMode,
};

/// A counted client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) client: Arc<dyn ReplicaClient>,
    pub(crate) counts: Arc<RequestCounts>,
    identity: String,
}

impl Client {
    /// Opens the replica of `config`.
    pub(crate) fn open(config: &DbConfig) -> Result<Client> {
        let options = ReplicaOptions {
            parameters: config.replica_parameters.clone(),
            keys: config.replica_keys.clone(),
            ..ReplicaOptions::default()
        };
        let inner = replica_client::open(&config.replica_url, &options)?;
        let endpoint = config
            .replica_parameters
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("endpoint"))
            .map_or("", |(_, value)| value.as_str());
        let identity = format!("{} {endpoint}", inner.url());
        let counts = Arc::new(RequestCounts::default());
        let client: Arc<dyn ReplicaClient> =
            Arc::new(CountingClient::new(inner, Arc::clone(&counts)));
        Ok(Client { client, counts, identity })
    }

    /// Tells one place in storage from another.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    pub(crate) fn url(&self) -> &str {
        self.client.url()
    }
}

#[async_trait]
impl ReplicaClient for Client {
    fn kind(&self) -> &'static str {
        self.client.kind()
    }

    fn url(&self) -> &str {
        self.client.url()
    }

    async fn list(&self, level: u8, seek: Txid, metadata: bool) -> Result<Vec<FileInfo>> {
        self.client.list(level, seek, metadata).await
    }

    async fn list_tagged(&self, level: u8, seek: Txid) -> Result<Vec<Listed>> {
        self.client.list_tagged(level, seek).await
    }

    async fn read(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<Bytes> {
        self.client.read(id, offset, len).await
    }

    async fn read_piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        self.client.read_piece(id, span, tag).await
    }

    async fn read_stream(&self, id: &FileId, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        self.client.read_stream(id, offset, len).await
    }

    async fn write(
        &self,
        id: &FileId,
        created_at_ms: i64,
        body: Body,
        mode: WriteMode,
    ) -> Result<FileInfo> {
        self.client.write(id, created_at_ms, body, mode).await
    }

    async fn delete(&self, ids: &[FileId]) -> Result<()> {
        self.client.delete(ids).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.client.delete_all().await
    }

    fn release_idle(&self) {
        self.client.release_idle();
    }
}
