//! The settings of an s3 replica: URL, parameters, environment, provider.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use object_store::path::Path;

use super::location::{AccessPoint, Location};
use super::provider::Provider;
use crate::error::Result;
use crate::replica_client::params::{Name, Params, invalid};
use crate::replica_client::url::UrlParts;
use crate::replica_client::{Env, ReplicaOptions};

/// The smallest part that S3 takes; also the default.
pub(super) const MIN_PART_SIZE: u64 = 5 * 1024 * 1024;
/// More parts in flight than this only cost memory.
const MAX_CONCURRENCY: u64 = 64;
const DEFAULT_REGION: &str = "us-east-1";

const ENDPOINT: Name = Name("endpoint", "endpoint");
const REGION: Name = Name("region", "region");
const FORCE_PATH_STYLE: Name = Name("forcePathStyle", "force-path-style");
const SKIP_VERIFY: Name = Name("skipVerify", "skip-verify");
const SIGN_PAYLOAD: Name = Name("signPayload", "sign-payload");
const REQUIRE_CONTENT_MD5: Name = Name("requireContentMD5", "require-content-md5");
const CONCURRENCY: Name = Name("concurrency", "concurrency");
const PART_SIZE: Name = Name("partSize", "part-size");
const STORAGE_CLASS: Name = Name("storageClass", "storage-class");
const SSE_ALGORITHM: Name = Name("sseCustomerAlgorithm", "sse-customer-algorithm");
const SSE_KEY: Name = Name("sseCustomerKey", "sse-customer-key");
const SSE_KEY_MD5: Name = Name("sseCustomerKeyMD5", "sse-customer-key-md5");
const SSE_KMS_KEY_ID: Name = Name("sseKmsKeyId", "sse-kms-key-id");

/// Every parameter of an s3 replica.
pub(crate) const PARAMETERS: [Name; 13] = [
    ENDPOINT,
    REGION,
    FORCE_PATH_STYLE,
    SKIP_VERIFY,
    SIGN_PAYLOAD,
    REQUIRE_CONTENT_MD5,
    CONCURRENCY,
    PART_SIZE,
    STORAGE_CLASS,
    SSE_ALGORITHM,
    SSE_KEY,
    SSE_KEY_MD5,
    SSE_KMS_KEY_ID,
];

/// Encryption that the server is asked for.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Encryption {
    None,
    /// Base64 of the customer's 32-byte key.
    Customer(String),
    /// Id, ARN or alias of a KMS key.
    Kms(String),
}

/// Everything that an s3 replica needs, but for credentials.
#[derive(Clone)]
pub(crate) struct S3Config {
    pub(super) bucket: String,
    /// Normalised, never empty.
    pub(super) prefix: Path,
    pub(super) region: String,
    /// With its scheme; none for AWS itself.
    pub(super) endpoint: Option<String>,
    /// The host answers for the bucket by itself.
    pub(super) virtual_hosted: bool,
    pub(super) provider: Provider,
    pub(super) skip_verify: bool,
    pub(super) sign_payload: bool,
    pub(super) content_md5: bool,
    pub(super) part_size: usize,
    pub(super) concurrency: usize,
    pub(super) storage_class: Option<String>,
    pub(super) encryption: Encryption,
    pub(super) options: ReplicaOptions,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the customer's key nor the environment.
        f.write_str(&self.display_url())
    }
}

impl S3Config {
    /// The settings of the URL `parts` with `options` beside it.
    pub(crate) fn from_url(parts: &UrlParts, options: &ReplicaOptions) -> Result<S3Config> {
        let params = Params::new(&parts.query, &options.parameters)?;
        params.refuse_unknown("s3", &PARAMETERS)?;
        let location = Location::parse(parts)?;
        let prefix = parse_prefix(&location)?;

        let (endpoint, path_style) = endpoint_and_style(&params, &location, &*options.env)?;
        let provider = Provider::of(endpoint.as_deref());
        let encryption = parse_encryption(&params, endpoint.as_deref())?;
        let region = parse_region(&params, &location, endpoint.is_some(), &*options.env);
        let default_concurrency = provider.concurrency() as u64;
        let concurrency = params.positive(CONCURRENCY)?.unwrap_or(default_concurrency);
        if concurrency > MAX_CONCURRENCY {
            return Err(invalid(format!("s3: concurrency must be at most {MAX_CONCURRENCY}")));
        }
        let storage_class = params.text(STORAGE_CLASS).map(str::to_owned);
        if storage_class.as_ref().is_some_and(|c| !c.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(invalid("s3: storage class must be a word"));
        }
        let virtual_endpoint = endpoint_for_bucket(&location, endpoint, &region, path_style)?;
        Ok(S3Config {
            bucket: location.bucket,
            prefix,
            region,
            endpoint: virtual_endpoint,
            virtual_hosted: !path_style,
            provider,
            skip_verify: params.boolean(SKIP_VERIFY)?.unwrap_or(false),
            sign_payload: params.boolean(SIGN_PAYLOAD)?.unwrap_or(true),
            content_md5: params
                .boolean(REQUIRE_CONTENT_MD5)?
                .unwrap_or(provider.requires_content_md5()),
            part_size: parse_part_size(&params)?,
            concurrency: usize::try_from(concurrency).unwrap_or(1),
            storage_class,
            encryption,
            options: options.clone(),
        })
    }

    /// The replica's URL for people: no key, but the endpoint if it is not AWS.
    pub(super) fn display_url(&self) -> String {
        let mut url = format!("s3://{}/{}", self.bucket, self.prefix);
        if let (Some(endpoint), false) = (&self.endpoint, self.provider == Provider::Aws) {
            url.push_str(&format!("?endpoint={endpoint}"));
        }
        url
    }
}

fn parse_prefix(location: &Location) -> Result<Path> {
    let prefix = Path::parse(&location.path)
        .map_err(|e| invalid(format!("s3 replica path is not usable: {e}")))?;
    if prefix.as_ref().is_empty() {
        return Err(invalid(format!(
            "path required for s3 replica URL: use s3://{}/PATH, where PATH is this database's own",
            location.bucket
        )));
    }
    Ok(prefix)
}

fn endpoint_and_style(
    params: &Params,
    location: &Location,
    env: &dyn Env,
) -> Result<(Option<String>, bool)> {
    let given = match params.text(ENDPOINT) {
        Some(endpoint) => Some(endpoint.to_owned()),
        None if location.endpoint.is_none() && location.access_point.is_none() => {
            env.filled("LITESTREAM_S3_ENDPOINT")
        }
        None => None,
    };
    // An endpoint that somebody chose means path style, one from the host does not.
    let implied = given.is_some() || location.path_style;
    let endpoint = match given {
        Some(endpoint) => Some(endpoint_with_scheme(&endpoint)?),
        None => location.endpoint.clone(),
    };
    // A certificate for *.s3.amazonaws.com does not cover a bucket with dots.
    let dotted = endpoint.is_none() && location.bucket.contains('.');
    let forced = Provider::of(endpoint.as_deref()).forces_path_style() || dotted;
    let explicit = params.boolean(FORCE_PATH_STYLE)?;
    Ok((endpoint, explicit.unwrap_or(implied || forced)))
}

/// Adds `http://` to local names without a scheme and `https://` to others.
fn endpoint_with_scheme(endpoint: &str) -> Result<String> {
    let lower = endpoint.to_ascii_lowercase();
    let with_scheme = if lower.starts_with("http://") || lower.starts_with("https://") {
        endpoint.to_owned()
    } else if endpoint.contains("://") {
        return Err(invalid("s3 endpoint must be an http or https URL"));
    } else if is_local_name(&lower) {
        format!("http://{endpoint}")
    } else {
        format!("https://{endpoint}")
    };
    if with_scheme.contains('@') {
        return Err(invalid("s3 endpoint must not hold credentials"));
    }
    let parsed = ::url::Url::parse(&with_scheme)
        .map_err(|e| invalid(format!("invalid s3 endpoint {endpoint:?}: {e}")))?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(invalid(format!("invalid s3 endpoint {endpoint:?}: it must not have a query")));
    }
    Ok(with_scheme.trim_end_matches('/').to_owned())
}

/// Names that Litestream takes for local. 172.2 stands for 172.20 to 172.29
/// there, and so does it here.
fn is_local_name(endpoint: &str) -> bool {
    let host = endpoint.split(['/', ':']).next().unwrap_or_default();
    const PREFIXES: [&str; 9] = [
        "192.168.", "10.", "172.16.", "172.17.", "172.18.", "172.19.", "172.2", "172.30.",
        "172.31.",
    ];
    host == "localhost"
        || host == "127.0.0.1"
        || PREFIXES.iter().any(|p| host.starts_with(p))
        || host.ends_with(".local")
        || host.ends_with(".localhost")
}

/// The endpoint that object_store wants: for virtual-hosted requests the
/// bucket is part of it.
fn endpoint_for_bucket(
    location: &Location,
    endpoint: Option<String>,
    region: &str,
    path_style: bool,
) -> Result<Option<String>> {
    if let Some(point) = &location.access_point {
        return access_point_endpoint(point, endpoint.is_some(), path_style).map(Some);
    }
    // China's regions have a domain of their own, which object_store does not know.
    let china =
        || region.starts_with("cn-").then(|| format!("https://s3.{region}.amazonaws.com.cn"));
    let Some(endpoint) = endpoint.or_else(china) else { return Ok(None) };
    if path_style {
        return Ok(Some(endpoint));
    }
    let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
    if host.split([':', '/']).next().unwrap_or_default().parse::<IpAddr>().is_ok() {
        return Err(invalid(format!(
            "s3: virtual-hosted requests need an endpoint with a name, not {host}; drop \
             forcePathStyle=false"
        )));
    }
    Ok(Some(format!("{scheme}://{}.{host}", location.bucket)))
}

fn access_point_endpoint(point: &AccessPoint, other: bool, path_style: bool) -> Result<String> {
    if other || path_style {
        return Err(invalid("s3: an access point takes neither an endpoint nor path style"));
    }
    Ok(point.endpoint())
}

fn parse_region(params: &Params, location: &Location, has_endpoint: bool, env: &dyn Env) -> String {
    let given = params.text(REGION).map(str::to_owned).or_else(|| location.region.clone());
    let from_env = || match has_endpoint {
        true => None,
        false => env.filled("AWS_REGION").or_else(|| env.filled("AWS_DEFAULT_REGION")),
    };
    given.or_else(from_env).unwrap_or_else(|| DEFAULT_REGION.to_owned())
}

fn parse_part_size(params: &Params) -> Result<usize> {
    let size = params.positive(PART_SIZE)?.unwrap_or(MIN_PART_SIZE);
    // S3's own upper bound for a part.
    const MAX_PART_SIZE: u64 = 5 << 30;
    if size < MIN_PART_SIZE {
        return Err(invalid(format!("s3: part size must be at least {MIN_PART_SIZE} bytes")));
    }
    match usize::try_from(size) {
        Ok(size) if size as u64 <= MAX_PART_SIZE => Ok(size),
        _ => Err(invalid(format!("s3: part size must be at most {MAX_PART_SIZE} bytes"))),
    }
}

fn parse_encryption(params: &Params, endpoint: Option<&str>) -> Result<Encryption> {
    let customer = params.text(SSE_KEY);
    let kms = params.text(SSE_KMS_KEY_ID);
    if customer.is_some() && kms.is_some() {
        return Err(invalid(
            "s3: cannot use both sse-customer-key and sse-kms-key-id; they are mutually exclusive",
        ));
    }
    let algorithm = params.text(SSE_ALGORITHM);
    let md5 = params.text(SSE_KEY_MD5);
    if let Some(key) = customer {
        check_customer_key(key, algorithm, md5)?;
        require_private_transport(endpoint)?;
        return Ok(Encryption::Customer(key.to_owned()));
    }
    if algorithm.is_some() || md5.is_some() {
        return Err(invalid("s3: sse-customer-algorithm and -md5 need sse-customer-key"));
    }
    Ok(kms.map_or(Encryption::None, |id| Encryption::Kms(id.to_owned())))
}

fn check_customer_key(key: &str, algorithm: Option<&str>, md5: Option<&str>) -> Result<()> {
    if let Some(other) = algorithm.filter(|a| *a != "AES256") {
        return Err(invalid(format!("s3: sse-customer-algorithm must be AES256, got {other:?}")));
    }
    // Decoding errors quote the byte that is wrong, which is part of the key.
    let bytes = BASE64_STANDARD
        .decode(key)
        .map_err(|_| invalid("s3: sse-customer-key must be valid base64"))?;
    if bytes.len() != 32 {
        return Err(invalid(format!(
            "s3: sse-customer-key must be 256-bit (32 bytes) when decoded, got {} bytes",
            bytes.len()
        )));
    }
    let digest = BASE64_STANDARD.encode(Md5::digest(&bytes));
    match md5 {
        Some(given) if given != digest => {
            Err(invalid("s3: sse-customer-key-md5 is not the MD5 of sse-customer-key"))
        }
        _ => Ok(()),
    }
}

fn require_private_transport(endpoint: Option<&str>) -> Result<()> {
    let host = match endpoint.map(::url::Url::parse) {
        Some(Ok(url)) if url.scheme() == "http" => url.host_str().unwrap_or_default().to_owned(),
        _ => return Ok(()),
    };
    let local = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    if local {
        return Ok(());
    }
    Err(invalid(
        "s3: sse-customer-key requires HTTPS endpoint (HTTP only allowed for \
         localhost/private networks)",
    ))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
