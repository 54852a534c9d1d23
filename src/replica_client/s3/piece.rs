//! Parts of objects of one version: conditional ranged GETs.

use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use super::{Failure, REQUEST_TIMEOUT, S3Client, gather};
use crate::error::{Error, ErrorKind, Result};
use crate::replica_client::piece::replaced;
use crate::replica_client::{FileId, Piece, Span, Tag};

impl S3Client {
    /// [`super::ReplicaClient::read_piece`].
    pub(super) async fn piece(&self, id: &FileId, span: Span, tag: Option<&Tag>) -> Result<Piece> {
        let (store, key) = (self.store()?, self.key(id));
        let options =
            GetOptions { range: range_of(span), if_match: condition(tag), ..GetOptions::default() };
        let request = tokio::time::timeout(REQUEST_TIMEOUT, store.get_opts(&key, options));
        let result = match request.await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => {
                return Err(match Failure::of(&e) {
                    failure if failure.status == Some(412) => replaced(id, &self.url),
                    failure if failure.status == Some(416) => self.too_short(id),
                    failure => self.failed("read", &key, failure),
                });
            }
            Err(_) => return Err(self.timed_out("read", &key, REQUEST_TIMEOUT)),
        };
        let (size, tag_found) = (result.meta.size, tag_of(&result.meta));
        if tag.is_some_and(|tag| *tag != tag_found) {
            // A server that ignores conditions: the body need not be read.
            return Err(replaced(id, &self.url));
        }
        let (_, wanted) = span.within(size);
        let bytes = gather(self.body(id, result), wanted).await?;
        Piece { bytes, size, tag: tag_found }.checked(id, &self.url, span, tag)
    }

    /// None of the bytes asked for exist.
    fn too_short(&self, id: &FileId) -> Error {
        let text = format!("{id} at {} is empty or ends before the part asked for", self.url);
        Error::new(ErrorKind::Corrupt, text)
    }
}

fn range_of(span: Span) -> Option<GetRange> {
    match span {
        Span::Whole => None,
        Span::Prefix(len) => Some(GetRange::Bounded(0..len)),
        Span::Suffix(len) => Some(GetRange::Suffix(len)),
        Span::Range { offset, len } => Some(GetRange::Bounded(offset..offset.saturating_add(len))),
    }
}

/// The `If-Match` of a tag. Weak ones never match; their answers are compared.
fn condition(tag: Option<&Tag>) -> Option<String> {
    tag.map(|tag| tag.as_str().to_owned()).filter(|text| text.starts_with('"'))
}

/// The ETag; of servers that send none, time and size.
fn tag_of(meta: &ObjectMeta) -> Tag {
    match &meta.e_tag {
        Some(text) => Tag::new(text.as_str()),
        None => Tag::new(format!("{}-{}", meta.last_modified.timestamp_millis(), meta.size)),
    }
}
