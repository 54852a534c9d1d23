use std::sync::Arc;

use super::*;
use crate::replica_client::FixedEnv;

/// 32 zero bytes.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const KEY_MD5: &str = "cLyPS3KoaSFGi/joRB3OUQ==";

fn config_with(url: &str, beside: &[(&str, &str)], env: &[(&str, &str)]) -> Result<S3Config> {
    let options = ReplicaOptions {
        parameters: beside.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        env: Arc::new(FixedEnv::new(env.iter().copied())),
        ..ReplicaOptions::default()
    };
    S3Config::from_url(&UrlParts::split(url)?, &options)
}

fn config(url: &str) -> Result<S3Config> {
    config_with(url, &[], &[])
}

fn refused(url: &str) -> String {
    match config(url) {
        Ok(_) => panic!("{url} was accepted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn aws_is_the_default() {
    let c = config("s3://bucket/app/db").unwrap();
    assert_eq!((c.endpoint.as_deref(), c.region.as_str()), (None, "us-east-1"));
    assert!(c.virtual_hosted && c.sign_payload && c.content_md5 && !c.skip_verify);
    assert_eq!((c.part_size as u64, c.concurrency), (MIN_PART_SIZE, 5));
    assert_eq!(c.display_url(), "s3://bucket/app/db");
}

#[test]
fn endpoints_get_a_scheme_and_path_style() {
    for (given, endpoint) in [
        ("localhost:9000", "http://localhost:9000"),
        ("172.20.1.1", "http://172.20.1.1"),
        ("nas.local", "http://nas.local"),
        ("minio.example.com/", "https://minio.example.com"),
        ("http://minio.example.com", "http://minio.example.com"),
    ] {
        let c = config(&format!("s3://b/p?endpoint={given}")).unwrap();
        assert_eq!(c.endpoint.as_deref(), Some(endpoint), "{given}");
        assert!(!c.virtual_hosted, "{given}");
    }
    let c = config("s3://b/p?endpoint=https://minio.example.com&force-path-style=no").unwrap();
    assert_eq!(c.endpoint.as_deref(), Some("https://b.minio.example.com"));
    assert!(c.virtual_hosted);
    let c = config("s3://b.ams3.digitaloceanspaces.com/p").unwrap();
    assert_eq!(c.endpoint.as_deref(), Some("https://b.ams3.digitaloceanspaces.com"));
}

#[test]
fn aws_hosts_fit_bucket_and_region() {
    assert!(!config("s3://my.dotted.bucket/p").unwrap().virtual_hosted);
    let c = config("s3://b/p?region=cn-north-1").unwrap();
    assert_eq!(c.endpoint.as_deref(), Some("https://b.s3.cn-north-1.amazonaws.com.cn"));
    assert_eq!(c.display_url(), "s3://b/p");
}

#[test]
fn what_stands_beside_the_url_wins() {
    let url = "s3://b/p?region=from-url&partSize=6000000&part-size=7000000";
    let c = config_with(url, &[("region", "beside")], &[]).unwrap();
    assert_eq!((c.region.as_str(), c.part_size), ("beside", 6_000_000));
}

#[test]
fn the_environment_fills_gaps() {
    let env = [("LITESTREAM_S3_ENDPOINT", "localhost:1"), ("AWS_REGION", "eu-west-3")];
    let c = config_with("s3://b/p", &[], &env).unwrap();
    assert_eq!(c.endpoint.as_deref(), Some("http://localhost:1"));
    assert_eq!(c.region, "us-east-1");
    let c = config_with("s3://b/p", &[], &env[1..]).unwrap();
    assert_eq!(c.region, "eu-west-3");
    let c = config_with("s3://b.s3.fr-par.scw.cloud/p", &[], &env).unwrap();
    assert_eq!(c.region, "fr-par");
}

#[test]
fn providers_have_their_defaults() {
    let c = config("s3://b/p?endpoint=https://x.r2.cloudflarestorage.com").unwrap();
    assert_eq!(c.concurrency, 2);
    let c = config("s3://b/p?endpoint=https://t3.storage.dev").unwrap();
    assert!(!c.content_md5);
    let c = config("s3://b/p?endpoint=https://t3.storage.dev&requireContentMD5=true").unwrap();
    assert!(c.content_md5);
    assert!(!config("s3://b.s3.filebase.com/p").unwrap().virtual_hosted);
}

#[test]
fn a_path_is_asked_for() {
    for url in ["s3://bucket", "s3://bucket/", "s3://bucket/a/.."] {
        assert!(refused(url).contains("use s3://bucket/PATH"), "{url}");
    }
}

#[test]
fn r_80_unknown_options_are_refused() {
    assert!(refused("s3://b/p?sseCustomerKy=x").contains("\"sseCustomerKy\""));
    assert!(refused("s3://b/p?partSize=5MB").contains("must be a positive integer"));
    assert!(refused("s3://b/p?skipVerify=maybe").contains("must be true or false"));
    assert!(refused("s3://b/p?partSize=1000").contains("at least 5242880"));
    assert!(refused("s3://b/p?sseCustomerAlgorithm=AES256").contains("need sse-customer-key"));
    let beside = config_with("s3://b/p", &[("ageRecipients", "x")], &[]);
    assert!(beside.err().unwrap().to_string().contains("\"ageRecipients\""));
}

#[test]
fn encryption_settings_are_checked() {
    let key = KEY.replace('=', "%3D");
    assert!(
        config(&format!("s3://b/p?sseCustomerKey={key}")).unwrap().encryption
            == Encryption::Customer(KEY.to_owned())
    );
    assert!(
        config("s3://b/p?sse-kms-key-id=alias/x").unwrap().encryption
            == Encryption::Kms("alias/x".to_owned())
    );
    config(&format!("s3://b/p?sseCustomerKey={key}&sseCustomerKeyMD5={KEY_MD5}")).unwrap();
    for (query, text) in [
        (format!("sseCustomerKey={key}&sseKmsKeyId=k"), "mutually exclusive"),
        (format!("sseCustomerKey={key}&sseCustomerAlgorithm=DES"), "must be AES256, got \"DES\""),
        (format!("sseCustomerKey={key}&sseCustomerKeyMD5=x"), "is not the MD5"),
        ("sseCustomerKey=c2hvcnQ%3D".to_owned(), "got 5 bytes"),
        ("sseCustomerKey=s3cr3t!".to_owned(), "must be valid base64"),
        (format!("sseCustomerKey={key}&endpoint=http://h.example.com"), "requires HTTPS"),
    ] {
        let error = refused(&format!("s3://b/p?{query}"));
        assert!(error.contains(text), "{error}");
        assert!(!error.contains("s3cr3t") && !error.contains(KEY), "{error}");
    }
    config(&format!("s3://b/p?sseCustomerKey={key}&endpoint=http://10.0.0.1:9000")).unwrap();
}
