//! A look at the replica before a database without local state is opened.

use std::path::Path;
use std::time::Duration;

use crate::config::DbConfig;
use crate::db::{Client, local_state_exists};
use crate::error::{Error, ErrorKind, Result};
use crate::history::newest;
use crate::log::Level;
use crate::ltx::{HEADER_SIZE, Header, Txid};
use crate::os::disk;
use crate::replica_client::ReplicaClient;
use crate::store::Store;
use crate::tasks;

/// How long an open waits for storage to say what it holds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What storage holds: its newest TXID and page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub txid: Txid,
    pub page_size: u32,
}

/// Fails the open when the replica is configured wrongly or already holds a
/// chain that a newly created file cannot continue. A replica that cannot be
/// reached does not fail it.
pub(crate) fn check(
    store: &std::sync::Arc<Store>,
    path: &Path,
    config: &DbConfig,
    client: &Client,
    will_create: bool,
) -> Result<Option<Found>> {
    if !will_create && local_state_exists(path, config)? {
        return Ok(None);
    }
    let answer = store
        .block_on(async {
            let found = tasks::timeout(PROBE_TIMEOUT, look(client)).await;
            client.release_idle();
            found
        })?
        .unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Transient, format!("{} does not answer", client.url())))
        });
    match answer {
        // Made meanwhile: its process found storage empty, and what is there now is its own.
        Ok(Some(_)) if will_create && is_made(path)? => check(store, path, config, client, false),
        Ok(Some(found)) if will_create => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "{} does not exist, and {} already holds a database (TXID {}). To read that, open \
                 it with mode=ro or role=replica; to get it back, run: litestream restore -o {} {}",
                path.display(),
                client.url(),
                found.txid,
                path.display(),
                client.url()
            ),
        )),
        Ok(found) => Ok(found),
        Err(e) if matches!(e.kind(), ErrorKind::Transient | ErrorKind::Corrupt) => {
            store.log(Level::Warn, &format!("{}: {e}; going on without", path.display()));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Whether a database is at `path`, more than an empty file.
fn is_made(path: &Path) -> Result<bool> {
    Ok(disk::stat(path)?.is_some_and(|s| s.size > 0))
}

async fn look(client: &Client) -> Result<Option<Found>> {
    let Some(file) = newest(&*client.client, Txid(0)).await? else { return Ok(None) };
    let bytes = client.read(&file.id, 0, Some(HEADER_SIZE as u64)).await?;
    let header = Header::decode(&bytes)?;
    Ok(Some(Found { txid: file.id.max, page_size: header.page_size }))
}
