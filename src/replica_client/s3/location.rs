//! What the host of an s3 URL says: bucket, region, endpoint, path style.

use crate::error::Result;
use crate::replica_client::params::invalid;
use crate::replica_client::url::{UrlParts, clean_path, redact};

/// An s3 URL taken apart, before any parameter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub bucket: String,
    /// Prefix of the replica; empty when the URL has none.
    pub path: String,
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub path_style: bool,
    pub access_point: Option<AccessPoint>,
}

/// An S3 access point, by its ARN.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AccessPoint {
    pub partition: String,
    pub region: String,
    pub account: String,
    pub name: String,
}

impl AccessPoint {
    /// The host that serves the access point.
    pub(super) fn endpoint(&self) -> String {
        let AccessPoint { name, account, region, .. } = self;
        let domain = if self.partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://{name}-{account}.s3-accesspoint.{region}.{domain}")
    }
}

impl Location {
    /// Takes apart the URL whose pieces are `parts`.
    pub(super) fn parse(parts: &UrlParts) -> Result<Location> {
        if parts.user_info.is_some() {
            return Err(invalid(
                "an s3 replica URL must not hold credentials: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY or use an AWS profile",
            ));
        }
        if parts.host.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("arn:")) {
            return parse_arn(parts);
        }
        let mut location = parse_host(&parts.host);
        if location.bucket.is_empty() {
            return Err(invalid("bucket required for s3 replica URL"));
        }
        if !location.bucket.bytes().all(is_bucket_byte) {
            return Err(invalid(format!("invalid s3 bucket name {:?}", location.bucket)));
        }
        location.path = parts.relative_path()?;
        Ok(location)
    }
}

fn is_bucket_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._".contains(&b)
}

fn parse_host(host: &str) -> Location {
    let located = |bucket: &str, region: &str, endpoint: Option<String>, path_style| Location {
        bucket: bucket.to_owned(),
        region: (!region.is_empty()).then(|| region.to_owned()),
        endpoint,
        path_style,
        ..Location::default()
    };
    if let Some(rest) = host.strip_suffix(".amazonaws.com") {
        if let Some(bucket) = rest.strip_suffix(".s3") {
            return located(bucket, "", None, false);
        }
        if let Some((bucket, region)) = rest.rsplit_once(".s3.") {
            return located(bucket, region, None, false);
        }
    }
    if let Some((bucket, region)) =
        host.strip_suffix(".digitaloceanspaces.com").and_then(|r| r.rsplit_once('.'))
    {
        let endpoint = format!("https://{region}.digitaloceanspaces.com");
        return located(bucket, region, Some(endpoint), false);
    }
    if let Some((bucket, region)) =
        host.strip_suffix(".backblazeb2.com").and_then(|r| r.rsplit_once(".s3."))
    {
        let endpoint = format!("https://s3.{region}.backblazeb2.com");
        return located(bucket, region, Some(endpoint), true);
    }
    if let Some(bucket) = host.strip_suffix(".s3.filebase.com") {
        return located(bucket, "", Some("https://s3.filebase.com".to_owned()), false);
    }
    if let Some((bucket, region)) =
        host.strip_suffix(".scw.cloud").and_then(|r| r.rsplit_once(".s3."))
    {
        return located(bucket, region, Some(format!("https://s3.{region}.scw.cloud")), false);
    }
    if host.contains(':') && !host.contains(".com") {
        let (bucket, server) = host.split_once('.').unwrap_or(("", host));
        return located(bucket, "us-east-1", Some(format!("http://{server}")), true);
    }
    located(host, "", None, false)
}

/// `arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME[/KEY]`; the first slash of the
/// URL's path is the one after `accesspoint`.
fn parse_arn(parts: &UrlParts) -> Result<Location> {
    let bad = || {
        invalid(format!(
            "invalid s3 access point arn: {} (expected \
             arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/PATH)",
            redact(&format!("s3://{}{}", parts.host, parts.path))
        ))
    };
    let fields: Vec<&str> = parts.host.split(':').collect();
    let [_, partition, service, region, account, kind] = fields.as_slice() else {
        return Err(bad());
    };
    let path = parts.path.strip_prefix('/').unwrap_or_default();
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    let named = [name, region, account]
        .iter()
        .all(|f| !f.is_empty() && f.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    if !kind.eq_ignore_ascii_case("accesspoint") || !service.eq_ignore_ascii_case("s3") || !named {
        return Err(bad());
    }
    let key = crate::replica_client::params::decode(key)?;
    Ok(Location {
        bucket: format!("{}/{name}", parts.host),
        path: clean_path(&key).trim_start_matches('/').to_owned(),
        region: Some((*region).to_owned()),
        access_point: Some(AccessPoint {
            partition: partition.to_ascii_lowercase(),
            region: (*region).to_owned(),
            account: (*account).to_owned(),
            name: name.to_owned(),
        }),
        ..Location::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Location> {
        Location::parse(&UrlParts::split(url)?)
    }

    #[test]
    fn hosts_name_bucket_region_endpoint_and_style() {
        for (host, bucket, region, endpoint, path_style) in [
            ("b", "b", "", "", false),
            ("b.s3.amazonaws.com", "b", "", "", false),
            ("b.c.s3.eu-west-1.amazonaws.com", "b.c", "eu-west-1", "", false),
            (
                "b.ams3.digitaloceanspaces.com",
                "b",
                "ams3",
                "https://ams3.digitaloceanspaces.com",
                false,
            ),
            (
                "b.s3.us-west-002.backblazeb2.com",
                "b",
                "us-west-002",
                "https://s3.us-west-002.backblazeb2.com",
                true,
            ),
            ("b.s3.filebase.com", "b", "", "https://s3.filebase.com", false),
            ("b.s3.fr-par.scw.cloud", "b", "fr-par", "https://s3.fr-par.scw.cloud", false),
            ("b.localhost:9000", "b", "us-east-1", "http://localhost:9000", true),
            ("b.127.0.0.1:9000", "b", "us-east-1", "http://127.0.0.1:9000", true),
        ] {
            let found = parse(&format!("s3://{host}/a//b/../c/")).unwrap();
            assert_eq!(found.bucket, bucket, "{host}");
            assert_eq!(found.region.unwrap_or_default(), region, "{host}");
            assert_eq!(found.endpoint.unwrap_or_default(), endpoint, "{host}");
            assert_eq!(found.path_style, path_style, "{host}");
            assert_eq!(found.path, "a/c");
        }
    }

    #[test]
    fn access_points_are_served_by_their_own_host() {
        let url = "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/app/db/x?region=r";
        let found = parse(url).unwrap();
        assert_eq!(found.path, "db/x");
        assert_eq!(found.region.as_deref(), Some("eu-west-1"));
        assert_eq!(
            found.access_point.unwrap().endpoint(),
            "https://app-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"
        );
        for url in
            ["s3://arn:aws:s3:r:1:accesspoint/", "s3://arn:aws:s3:r:1:bucket/x", "s3://arn:x/"]
        {
            assert!(parse(url).unwrap_err().to_string().starts_with("invalid s3 access point arn"));
        }
    }

    #[test]
    fn missing_buckets_and_credentials_are_refused() {
        let text = |url: &str| parse(url).unwrap_err().to_string();
        assert_eq!(text("s3:///path"), "bucket required for s3 replica URL");
        assert_eq!(text("s3://localhost:9000/x"), "bucket required for s3 replica URL");
        assert!(!text("s3://key:topsecret@bucket/x").contains("topsecret"));
        assert!(text("s3://bad bucket/x").contains("invalid s3 bucket name"));
    }
}
