//! From code that writes to a stream that an upload reads, with a bounded
//! number of bytes between them.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};
use crate::replica_client::ByteStream;

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between writer and reader.
const CHUNKS_MAX: usize = 8;

/// The writing half.
pub struct ChunkWriter {
    chunk: BytesMut,
    out: mpsc::Sender<Result<Bytes>>,
}

impl ChunkWriter {
    /// Runs `produce` on a blocking thread; what it writes comes out of the
    /// stream, and its error ends the stream as an error.
    pub fn stream(
        produce: impl FnOnce(&mut ChunkWriter) -> Result<()> + Send + 'static,
    ) -> ByteStream {
        let (out, incoming) = mpsc::channel(CHUNKS_MAX);
        tokio::task::spawn_blocking(move || {
            let mut writer = ChunkWriter { chunk: BytesMut::with_capacity(CHUNK_BYTES), out };
            let done = produce(&mut writer)
                .and_then(|()| writer.flush().map_err(|e| upload_ended().with_source(e)));
            if let Err(e) = done {
                // A reader that is gone needs no error.
                let _ = writer.out.blocking_send(Err(e));
            }
        });
        let chunks = futures_util::stream::unfold(incoming, |mut incoming| async move {
            incoming.recv().await.map(|chunk| (chunk, incoming))
        });
        // An upload in parts asks again after the end, for the next part.
        Box::pin(chunks.fuse())
    }
}

fn upload_ended() -> Error {
    Error::new(ErrorKind::Transient, "the upload ended early")
}

impl Write for ChunkWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.chunk.len();
        let n = room.min(buf.len());
        self.chunk.extend_from_slice(&buf[..n]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.chunk, BytesMut::with_capacity(CHUNK_BYTES));
        self.out
            .blocking_send(Ok(full.freeze()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended early"))
    }
}
