//! From code that writes to a stream that an upload reads, with a bounded
//! number of bytes between them.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};
use crate::replica_client::ByteStream;
use crate::tasks;

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between writer and reader.
const CHUNKS_MAX: usize = 8;

/// The writing half.
pub struct ChunkWriter {
    chunk: BytesMut,
    /// `None` says that the writer came to its end; a channel that closes
    /// without it is an error, never a short file.
    out: mpsc::Sender<Option<Result<Bytes>>>,
}

impl ChunkWriter {
    /// Runs `produce` on a blocking thread; what it writes comes out of the
    /// stream, and its error ends the stream as an error.
    pub fn stream(
        produce: impl FnOnce(&mut ChunkWriter) -> Result<()> + Send + 'static,
    ) -> ByteStream {
        let (out, incoming) = mpsc::channel(CHUNKS_MAX);
        tasks::spawn_blocking(move || {
            let mut writer = ChunkWriter { chunk: BytesMut::with_capacity(CHUNK_BYTES), out };
            let done = produce(&mut writer)
                .and_then(|()| writer.flush().map_err(|e| upload_ended().with_source(e)));
            // A reader that is gone needs neither end nor error.
            let end = match done {
                Ok(()) => None,
                Err(e) => Some(Err(e)),
            };
            tasks::send(&writer.out, end);
        });
        let chunks = futures_util::stream::unfold(Some(incoming), |incoming| async move {
            let mut incoming = incoming?;
            match incoming.recv().await {
                Some(Some(Ok(chunk))) => Some((Ok(chunk), Some(incoming))),
                Some(Some(Err(e))) => Some((Err(e), None)),
                Some(None) => None,
                None => Some((Err(upload_ended()), None)),
            }
        });
        // An upload in parts asks again after the end, for the next part.
        Box::pin(chunks.fuse())
    }
}

impl ChunkWriter {
    /// Whether the next chunk has to wait for the reader, who may take nothing for
    /// long. A reader that is gone is waited for no longer.
    pub(crate) fn is_full(&self) -> bool {
        self.out.capacity() == 0 && !self.out.is_closed()
    }
}

fn upload_ended() -> Error {
    Error::new(ErrorKind::Transient, "the file was cut short while it was written; trying again")
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
        if tasks::send(&self.out, Some(Ok(full.freeze()))) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended early"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    fn collect(
        produce: impl FnOnce(&mut ChunkWriter) -> Result<()> + Send + 'static,
    ) -> Result<usize> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        runtime.unwrap().block_on(async {
            let chunks: Vec<Bytes> = ChunkWriter::stream(produce).try_collect().await?;
            Ok(chunks.iter().map(Bytes::len).sum())
        })
    }

    fn write(out: &mut ChunkWriter, len: usize) -> Result<()> {
        out.write_all(&vec![1; len]).map_err(|e| upload_ended().with_source(e))
    }

    #[test]
    fn everything_written_comes_out() {
        let len = CHUNK_BYTES * CHUNKS_MAX * 3 + 1;
        assert_eq!(collect(move |out| write(out, len)).unwrap(), len);
        assert_eq!(collect(|_| Ok(())).unwrap(), 0);
    }

    #[test]
    fn an_error_or_a_panic_is_never_a_short_file() {
        let failed = collect(|out| {
            write(out, CHUNK_BYTES)?;
            Err(Error::new(ErrorKind::Corrupt, "bad page"))
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Corrupt);
        let panicked = collect(|out| {
            write(out, CHUNK_BYTES)?;
            std::panic::resume_unwind(Box::new("cut"));
        });
        assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Transient);
    }
}
