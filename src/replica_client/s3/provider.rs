//! Which S3 provider an endpoint belongs to, and what it needs.

/// Providers with defaults of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Aws,
    Tigris,
    Hetzner,
    DigitalOcean,
    Backblaze,
    Filebase,
    Scaleway,
    CloudflareR2,
    /// A host with a port: MinIO and the many servers like it.
    MinioLike,
    Supabase,
    Google,
    /// An endpoint that none of the tests knows.
    Other,
}

/// Hosts whose name decides, whatever port follows.
const KNOWN: [&str; 9] = [
    ".amazonaws.com",
    ".digitaloceanspaces.com",
    ".backblazeb2.com",
    ".filebase.com",
    ".scw.cloud",
    ".r2.cloudflarestorage.com",
    "tigris.dev",
    "t3.storage.dev",
    ".supabase.co",
];

impl Provider {
    /// The provider of `endpoint` (with its scheme); AWS without one.
    pub(crate) fn of(endpoint: Option<&str>) -> Provider {
        let Some(endpoint) = endpoint else { return Provider::Aws };
        let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default().trim().to_ascii_lowercase();
        let ends = |suffix: &str| host.ends_with(suffix);
        if host == "fly.storage.tigris.dev" || host == "t3.storage.dev" {
            Provider::Tigris
        } else if ends(".your-objectstorage.com") {
            Provider::Hetzner
        } else if ends(".digitaloceanspaces.com") {
            Provider::DigitalOcean
        } else if ends(".backblazeb2.com") {
            Provider::Backblaze
        } else if host == "s3.filebase.com" {
            Provider::Filebase
        } else if ends(".scw.cloud") {
            Provider::Scaleway
        } else if ends(".r2.cloudflarestorage.com") {
            Provider::CloudflareR2
        } else if ends(".supabase.co") {
            Provider::Supabase
        } else if is_google(&host) {
            Provider::Google
        } else if host.contains(':') && !KNOWN.iter().any(|k| host.contains(k)) {
            Provider::MinioLike
        } else {
            Provider::Other
        }
    }

    /// Path-style requests unless the user chose otherwise.
    pub(crate) fn forces_path_style(self) -> bool {
        matches!(
            self,
            Provider::Backblaze | Provider::Filebase | Provider::MinioLike | Provider::Supabase
        )
    }

    /// Bulk deletion carries Content-MD5 unless the user chose otherwise.
    pub(crate) fn requires_content_md5(self) -> bool {
        self != Provider::Tigris
    }

    /// Parts of one upload that travel at once.
    pub(crate) fn concurrency(self) -> usize {
        if self == Provider::CloudflareR2 { 2 } else { 5 }
    }
}

/// `storage.googleapis.com`, `BUCKET.storage.googleapis.com`,
/// `storage.REGION.rep.googleapis.com` and their like.
fn is_google(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default().trim_end_matches('.');
    let labels: Vec<&str> = name.split('.').collect();
    let storage = |label: &str| label.split('-').any(|part| part == "storage");
    match labels.as_slice() {
        [first, middle @ .., "googleapis", "com"] => {
            labels.iter().all(|l| !l.is_empty())
                && storage(first)
                && middle.first().is_none_or(|second| !storage(second))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_name_their_provider() {
        for (endpoint, provider) in [
            ("https://t3.storage.dev", Provider::Tigris),
            ("https://fsn1.your-objectstorage.com", Provider::Hetzner),
            ("https://ams3.digitaloceanspaces.com", Provider::DigitalOcean),
            ("https://s3.eu-central-003.backblazeb2.com", Provider::Backblaze),
            ("https://S3.FILEBASE.com", Provider::Filebase),
            ("https://s3.fr-par.scw.cloud", Provider::Scaleway),
            ("https://abc.r2.cloudflarestorage.com", Provider::CloudflareR2),
            ("http://127.0.0.1:9000", Provider::MinioLike),
            ("https://x.supabase.co", Provider::Supabase),
            ("https://storage.googleapis.com", Provider::Google),
            ("https://storage.me-central2.rep.googleapis.com:443", Provider::Google),
            ("https://storage.storage.googleapis.com", Provider::Other),
            ("https://minio.example.com", Provider::Other),
        ] {
            assert_eq!(Provider::of(Some(endpoint)), provider, "{endpoint}");
        }
        assert_eq!(Provider::of(None), Provider::Aws);
    }
}
