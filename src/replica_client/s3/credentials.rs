//! AWS credentials: keys from the environment, else the AWS provider chain
//! (profiles, SSO, web identity, container and instance roles).

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider};
use reqsign_core::{Context, FileRead, HttpSend, ProvideCredential};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::os;
use crate::replica_client::{Env, ReplicaOptions};

/// Credentials are asked for anew this long before they expire.
const REFRESH_BEFORE: Duration = Duration::from_secs(5 * 60);
/// One request of the chain; an instance role's server answers at once or is not there.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The connection to such a server.
const CHAIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Hands out credentials and remembers them until they expire. `Debug` shows
/// none of it.
pub(super) struct Credentials {
    fixed: Option<Arc<AwsCredential>>,
    env: Arc<dyn Env>,
    clock: Arc<dyn Clock>,
    /// Held while the chain runs: one run serves all who wait.
    cached: tokio::sync::Mutex<Option<Cached>>,
    /// What may not appear in a message.
    secrets: Mutex<Vec<String>>,
}

struct Cached {
    credential: Arc<AwsCredential>,
    /// Unix milliseconds; none for keys that last.
    refresh_at_ms: Option<i64>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// The keys of `options`, else credentials by its environment, which is read now.
    pub(super) fn new(options: &ReplicaOptions) -> Credentials {
        let given = options.keys.as_ref().map(|keys| AwsCredential {
            key_id: keys.id.clone(),
            secret_key: keys.secret.clone(),
            token: None,
        });
        let fixed = given.or_else(|| keys_from_env(&*options.env)).map(Arc::new);
        let credentials = Credentials {
            fixed: fixed.clone(),
            env: options.env.clone(),
            clock: options.clock.clone(),
            cached: tokio::sync::Mutex::default(),
            secrets: Mutex::default(),
        };
        if let Some(fixed) = fixed {
            credentials.remember_secrets(&fixed);
        }
        credentials
    }

    /// Texts that must not appear in a message.
    pub(super) fn secrets(&self) -> Vec<String> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops what is remembered: a server refused it.
    pub(super) fn forget(&self) {
        // Whoever holds the lock is about to replace it.
        if let Ok(mut cached) = self.cached.try_lock() {
            *cached = None;
        }
    }

    fn remember_secrets(&self, credential: &AwsCredential) {
        let mut secrets = vec![credential.secret_key.clone(), credential.key_id.clone()];
        secrets.extend(credential.token.clone());
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

    async fn get(&self) -> Result<Arc<AwsCredential>> {
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        let mut cached = self.cached.lock().await;
        let now = self.clock.now_ms();
        if let Some(c) = cached.as_ref().filter(|c| c.refresh_at_ms.is_none_or(|t| now < t)) {
            return Ok(c.credential.clone());
        }
        let fresh = self.run_chain().await?;
        self.remember_secrets(&fresh.credential);
        let credential = fresh.credential.clone();
        *cached = Some(fresh);
        Ok(credential)
    }

    async fn run_chain(&self) -> Result<Cached> {
        let context = Context::new()
            .with_env(ChainEnv(self.env.clone()))
            .with_file_read(ChainFiles)
            .with_http_send(ChainHttp);
        let chain = DefaultCredentialProvider::builder().no_env().no_process().build();
        match chain.provide_credential(&context).await {
            Ok(Some(found)) => Ok(cached_from(found)),
            // The chain's own errors can quote files that hold keys.
            Ok(None) | Err(_) => Err(Error::new(
                ErrorKind::Denied,
                "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 AWS_PROFILE with ~/.aws/credentials, or run where a role is attached",
            )),
        }
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.get()
            .await
            .map_err(|e| object_store::Error::Generic { store: "S3", source: Box::new(e) })
    }
}

fn keys_from_env(env: &dyn Env) -> Option<AwsCredential> {
    let pair = |id: &str, secret: &str| Some((env.filled(id)?, env.filled(secret)?));
    if let Some((key_id, secret_key)) = pair("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") {
        let token = env.filled("AWS_SESSION_TOKEN");
        return Some(AwsCredential { key_id, secret_key, token });
    }
    let (key_id, secret_key) = pair("LITESTREAM_ACCESS_KEY_ID", "LITESTREAM_SECRET_ACCESS_KEY")?;
    Some(AwsCredential { key_id, secret_key, token: None })
}

fn cached_from(found: Credential) -> Cached {
    let early = i64::try_from(REFRESH_BEFORE.as_millis()).unwrap_or(0);
    Cached {
        refresh_at_ms: found.expires_in.map(|t| t.as_second().saturating_mul(1_000) - early),
        credential: Arc::new(AwsCredential {
            key_id: found.access_key_id,
            secret_key: found.secret_access_key,
            token: found.session_token,
        }),
    }
}

#[derive(Debug)]
struct ChainEnv(Arc<dyn Env>);

impl reqsign_core::Env for ChainEnv {
    fn var(&self, key: &str) -> Option<String> {
        self.0.var(key)
    }

    fn vars(&self) -> HashMap<String, String> {
        self.0.vars().into_iter().collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        self.0.filled("HOME").map(PathBuf::from)
    }
}

#[derive(Debug)]
struct ChainFiles;

impl FileRead for ChainFiles {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || os::read(Path::new(&path))).await;
        match read {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(e)) => Err(reqsign_core::Error::unexpected(e.to_string())),
            Err(e) => Err(reqsign_core::Error::unexpected(e.to_string())),
        }
    }
}

#[derive(Debug)]
struct ChainHttp;

impl HttpSend for ChainHttp {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        send(request).await.map_err(|e| {
            reqsign_core::Error::unexpected(format!(
                "credential request failed: {}",
                e.without_url()
            ))
        })
    }
}

/// One request on a connection of its own: credentials are asked for rarely,
/// and nothing may stay open between.
async fn send(
    request: http::Request<Bytes>,
) -> std::result::Result<http::Response<Bytes>, reqwest::Error> {
    let client = reqwest::Client::builder()
        .connect_timeout(CHAIN_CONNECT_TIMEOUT)
        .timeout(CHAIN_TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()?;
    let (parts, body) = request.into_parts();
    let mut answer = client
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(body)
        .send()
        .await?;
    let mut response = http::Response::new(Bytes::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    *response.body_mut() = answer.bytes().await?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica_client::{AccessKeys, FixedEnv};

    fn credentials(env: &[(&str, &str)]) -> Credentials {
        Credentials::new(&ReplicaOptions {
            env: Arc::new(FixedEnv::new(env.iter().copied())),
            ..ReplicaOptions::default()
        })
    }

    #[tokio::test]
    async fn environment_keys_come_in_pairs_and_aws_first() {
        let env = [
            ("AWS_ACCESS_KEY_ID", "only-half"),
            ("LITESTREAM_ACCESS_KEY_ID", "lk"),
            ("LITESTREAM_SECRET_ACCESS_KEY", "ls"),
        ];
        let got = credentials(&env).get().await.unwrap();
        assert_eq!((got.key_id.as_str(), got.secret_key.as_str()), ("lk", "ls"));
        let mut env = env.to_vec();
        env.extend([("AWS_SECRET_ACCESS_KEY", "as"), ("AWS_SESSION_TOKEN", "at")]);
        let got = credentials(&env).get().await.unwrap();
        assert_eq!((got.key_id.as_str(), got.token.as_deref()), ("only-half", Some("at")));
    }

    #[tokio::test]
    async fn given_keys_beat_the_environment() {
        let env = [("AWS_ACCESS_KEY_ID", "ek"), ("AWS_SECRET_ACCESS_KEY", "es")];
        let keys = AccessKeys { id: "gk".into(), secret: "gs".into() };
        let found = Credentials::new(&ReplicaOptions {
            keys: Some(keys),
            env: Arc::new(FixedEnv::new(env)),
            ..ReplicaOptions::default()
        });
        let got = found.get().await.unwrap();
        assert_eq!((got.key_id.as_str(), got.secret_key.as_str()), ("gk", "gs"));
        assert!(found.secrets().contains(&"gs".to_owned()));
    }

    #[tokio::test]
    async fn profiles_are_read_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        let text = b"[prod]\naws_access_key_id = pk\naws_secret_access_key = ps\n";
        os::write_atomic(&file, text, &os::Access::PRIVATE).unwrap();
        let found = credentials(&[
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
            ("AWS_PROFILE", "prod"),
        ]);
        let got = found.get().await.unwrap();
        assert_eq!((got.key_id.as_str(), got.secret_key.as_str()), ("pk", "ps"));
        assert!(found.secrets().contains(&"ps".to_owned()));
    }

    #[tokio::test]
    async fn without_any_the_error_says_what_to_set() {
        let none = credentials(&[("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")]);
        let error = none.get().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"));
    }
}
