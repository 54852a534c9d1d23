//! The HTTP client and the store on it, built at first use and dropped when idle.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{ClientOptions, RetryConfig};

use super::config::{Encryption, S3Config};
use super::credentials::Credentials;
use super::provider::Provider;
use crate::error::{Error, ErrorKind, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("litestream rust/", env!("CARGO_PKG_VERSION"));

/// The store of one replica, while it is in use.
pub(super) struct Connection {
    store: Mutex<Option<Arc<AmazonS3>>>,
}

impl Connection {
    /// Not connected yet.
    pub(super) fn new() -> Connection {
        Connection { store: Mutex::new(None) }
    }

    /// The store, built if need be.
    pub(super) fn get(
        &self,
        config: &S3Config,
        credentials: &Arc<Credentials>,
    ) -> Result<Arc<AmazonS3>> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*store {
            return Ok(store.clone());
        }
        let built = Arc::new(build(config, credentials)?);
        *store = Some(built.clone());
        Ok(built)
    }

    /// Lets go of the store; its sockets close with the last request on them.
    pub(super) fn release(&self) {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Installs ring as TLS provider unless the process has one already.
pub(super) fn install_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing the race to another thread is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

fn build(config: &S3Config, credentials: &Arc<Credentials>) -> Result<AmazonS3> {
    install_tls();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_credentials(credentials.clone())
        .with_virtual_hosted_style_request(config.virtual_hosted)
        .with_unsigned_payload(!config.sign_payload)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // DeleteObjects always carries Content-MD5; without it keys go one by one.
        .with_disable_bulk_delete(!config.content_md5)
        .with_client_options(client_options(config))
        // Repetition is ours: a create must know whether it was repeated.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match &config.encryption {
        Encryption::None => builder,
        Encryption::Customer(key) => builder.with_ssec_encryption(key),
        Encryption::Kms(id) => builder.with_sse_kms_encryption(id),
    };
    builder.build().map_err(|e| {
        let text = format!("cannot set up {}: {e}", config.display_url());
        Error::new(ErrorKind::InvalidInput, text)
    })
}

fn client_options(config: &S3Config) -> ClientOptions {
    let http = config.endpoint.as_ref().is_some_and(|e| e.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(USER_AGENT))
        .with_allow_http(http)
        .with_connect_timeout(CONNECT_TIMEOUT)
        // Each operation has a deadline by its size; one for all would cut
        // long transfers or never end short ones.
        .with_timeout_disabled()
        .with_allow_invalid_certificates(config.skip_verify);
    if http || config.skip_verify {
        // Reading the system's certificates costs more than the whole client.
        options = options.with_no_system_certificates(true);
    }
    if config.provider == Provider::Tigris {
        let consistent = HeaderName::from_static("x-tigris-consistent");
        let headers = [(consistent, HeaderValue::from_static("true"))];
        options = options.with_default_headers(HeaderMap::from_iter(headers));
    }
    options
}
