//! From what object_store and the server say to one of our errors.
//!
//! A server's answer can quote the access key and the canonical request; only
//! its error code and message are passed on, with every credential cut out.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, ErrorKind};

/// Longest text of a server that is passed on, in characters.
const MAX_SERVER_TEXT: usize = 300;

/// A failed request, taken apart.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// HTTP status, if the server answered.
    pub status: Option<u16>,
    /// S3 error code; HEAD answers have none.
    pub code: String,
    message: String,
    /// An error of ours from below object_store, such as missing credentials.
    ours: Option<(ErrorKind, String)>,
    transport: Option<HttpErrorKind>,
    raw: String,
}

impl Failure {
    /// Takes `error` apart.
    pub(super) fn of(error: &object_store::Error) -> Failure {
        let raw = chain_text(error);
        let mut failure = Failure {
            status: number_after(&raw, "status code: "),
            code: element(&raw, "Code"),
            message: element(&raw, "Message"),
            ..Failure::default()
        };
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(http) = e.downcast_ref::<HttpError>() {
                failure.transport = Some(http.kind());
            }
            if let Some(own) = e.downcast_ref::<Error>() {
                failure.ours = Some((own.kind(), own.to_string()));
            }
            cause = e.source();
        }
        failure.raw = raw;
        failure
    }

    /// The bucket that the request named does not exist.
    pub(super) fn is_no_such_bucket(&self) -> bool {
        self.code == "NoSuchBucket"
    }

    /// The request was for another region than the bucket's.
    fn is_wrong_region(&self) -> bool {
        matches!(self.status, Some(301 | 307))
            || matches!(self.code.as_str(), "PermanentRedirect" | "AuthorizationHeaderMalformed")
            || self.raw.contains("redirect without LOCATION")
    }

    fn is_refused(&self) -> bool {
        const CODES: [&str; 6] = [
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidToken",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "AccessDenied",
        ];
        matches!(self.status, Some(401 | 403)) || CODES.contains(&self.code.as_str())
    }

    /// What the caller can do about it.
    pub(super) fn kind(&self) -> ErrorKind {
        if let Some((kind, _)) = &self.ours {
            return *kind;
        }
        if self.is_refused() {
            return ErrorKind::Denied;
        }
        if self.is_no_such_bucket() || self.is_wrong_region() {
            return ErrorKind::InvalidInput;
        }
        match self.status {
            Some(404) => ErrorKind::NotFound,
            Some(304 | 412) => ErrorKind::AlreadyExists,
            // 409: another conditional request for the key is under way.
            Some(408 | 409 | 429) => ErrorKind::Transient,
            Some(400) if self.code == "RequestTimeout" => ErrorKind::Transient,
            Some(400) => ErrorKind::InvalidInput,
            Some(405 | 501) => ErrorKind::Unsupported,
            Some(507) => ErrorKind::Full,
            Some(500..) => ErrorKind::Transient,
            _ if self.transport.is_some() => ErrorKind::Transient,
            _ => ErrorKind::Internal,
        }
    }

    /// What happened, for people.
    fn detail(&self) -> String {
        if let Some((_, text)) = &self.ours {
            return text.clone();
        }
        if let Some(status) = self.status {
            let mut text = format!("HTTP {status}");
            for part in [&self.code, &self.message] {
                if !part.is_empty() {
                    text.push(' ');
                    text.push_str(part);
                }
            }
            return text;
        }
        // object_store puts the request before the reason.
        let reason = self.raw.rsplit(" - ").next().unwrap_or(&self.raw);
        reason.to_owned()
    }

    fn advice(&self, bucket: &str, region: &str) -> String {
        if self.ours.is_some() {
            return String::new();
        }
        if self.is_wrong_region() {
            return format!(
                "; bucket {bucket:?} is not in region {region:?}: set the region parameter"
            );
        }
        if self.is_no_such_bucket() {
            return format!("; create bucket {bucket:?} or correct the replica URL");
        }
        if self.code == "RequestTimeTooSkewed" {
            return "; set this machine's clock".to_owned();
        }
        if self.is_refused() {
            return format!(
                "; check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 AWS_PROFILE) and that they may list, get, put and delete in bucket {bucket:?}"
            );
        }
        if self.raw.contains("certificate") {
            return "; set SSL_CERT_FILE to the server's CA or, for tests, skipVerify".to_owned();
        }
        String::new()
    }

    /// The error for `action` on `object` (a URL without credentials).
    pub(super) fn into_error(
        self,
        action: &str,
        object: &str,
        bucket: &str,
        region: &str,
        secrets: &[String],
    ) -> Error {
        let kind = self.kind();
        let detail = scrub(&shorten(&self.detail()), secrets);
        let advice = self.advice(bucket, region);
        Error::new(kind, format!("cannot {action} {object}: {detail}{advice}"))
    }
}

fn chain_text(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let part = e.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = e.source();
    }
    text
}

fn number_after(text: &str, mark: &str) -> Option<u16> {
    let (_, rest) = text.split_once(mark)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn element(text: &str, name: &str) -> String {
    let inner = || {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner.to_owned())
    };
    inner().unwrap_or_default()
}

fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SERVER_TEXT).collect()
}

/// Cuts every one of `secrets` out of `text`; shorter ones than any real key
/// would only garble it.
fn scrub(text: &str, secrets: &[String]) -> String {
    const SHORTEST: usize = 4;
    secrets
        .iter()
        .filter(|s| s.len() >= SHORTEST)
        .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        Failure::of(&object_store::Error::Generic { store: "S3", source: text.into() })
    }

    fn answer(status: &str, code: &str) -> Failure {
        failure(&format!(
            "Error performing PUT http://h/b/k - Server returned non-2xx status code: {status}: \
             <Error><Code>{code}</Code><Message>for AKIDX</Message></Error>"
        ))
    }

    #[test]
    fn answers_have_their_kinds() {
        for (status, code, kind) in [
            ("404 Not Found", "NoSuchKey", ErrorKind::NotFound),
            ("404 Not Found", "NoSuchBucket", ErrorKind::InvalidInput),
            ("403 Forbidden", "AccessDenied", ErrorKind::Denied),
            ("400 Bad Request", "ExpiredToken", ErrorKind::Denied),
            ("400 Bad Request", "AuthorizationHeaderMalformed", ErrorKind::InvalidInput),
            ("409 Conflict", "ConditionalRequestConflict", ErrorKind::Transient),
            ("412 Precondition Failed", "PreconditionFailed", ErrorKind::AlreadyExists),
            ("429 Too Many Requests", "SlowDown", ErrorKind::Transient),
            ("503 Service Unavailable", "SlowDown", ErrorKind::Transient),
            ("501 Not Implemented", "NotImplemented", ErrorKind::Unsupported),
        ] {
            assert_eq!(answer(status, code).kind(), kind, "{status} {code}");
        }
    }

    #[test]
    fn texts_name_the_object_and_hide_keys() {
        let error = answer("403 Forbidden", "InvalidAccessKeyId").into_error(
            "write",
            "s3://b/k",
            "b",
            "r",
            &["AKIDX".to_owned()],
        );
        let text = error.to_string();
        assert!(text.starts_with("cannot write s3://b/k: HTTP 403 InvalidAccessKeyId for ***;"));
        assert!(text.contains("AWS_ACCESS_KEY_ID"));
    }

    #[test]
    fn redirects_name_the_region_parameter() {
        let text = "Error - Received redirect without LOCATION, this normally indicates x";
        let error = failure(text).into_error("list", "s3://b/p", "b", "us-east-1", &[]);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("set the region parameter"));
    }
}
