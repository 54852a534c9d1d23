//! TLS and deadlines of S3 replicas.

use std::process::Command;
use std::time::Duration;

use litestream::ErrorKind;
use litestream::ltx::Txid;
use litestream::replica_client::{WriteMode, open};

use crate::mock::Mock;
use crate::support::{body, data, id, keys, s3_url};

#[tokio::test]
async fn certificates_are_verified() {
    let mock = Mock::start_tls();
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    let error = client.list(0, Txid::NONE, false).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    assert!(mock.take().is_empty());
}

#[tokio::test]
async fn r_84_skip_verify_is_applied() {
    let mock = Mock::start_tls();
    let client = open(&s3_url(&mock.endpoint(), "&skipVerify=true"), &keys()).unwrap();
    client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await.unwrap();
    assert_eq!(mock.take().len(), 1);
}

/// The certificate files are read from the environment of the process, so this
/// runs the next test in another one.
#[test]
fn own_certificates_are_trusted() {
    let certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/replica_client/localhost.crt");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s3_transport::child_with_own_certificate", "--ignored"])
        .env("SSL_CERT_FILE", certificate)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
#[ignore = "run by own_certificates_are_trusted"]
async fn child_with_own_certificate() {
    let mock = Mock::start_tls();
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await.unwrap();
    assert_eq!(mock.take().len(), 1);
}

/// Time is paused: it jumps to the next timer whenever nothing else can run.
#[tokio::test(start_paused = true)]
async fn servers_that_never_answer_are_given_up() {
    let mock = Mock::start_silent();
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    let before = tokio::time::Instant::now();
    let file = id(1, 1);
    let small = client.write(&file, 0, body(&data(1, 10)), WriteMode::Create).await.map(drop);
    let long = tokio::time::Instant::now();
    let large = client.write(&file, 0, body(&data(1, 8 << 20)), WriteMode::Create).await.map(drop);
    let longer = tokio::time::Instant::now();
    let list = client.list(0, Txid::NONE, false).await.map(drop);
    let read = client.read(&file, 0, None).await.map(drop);
    for error in [small, large, list, read].into_iter().map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    }
    // Three attempts each, of at most 30 s and 30 s + 8 MiB at 64 KiB/s.
    assert!(long - before <= Duration::from_secs(3 * 30 + 2));
    assert!(longer - long <= Duration::from_secs(3 * (30 + 128) + 2));
    assert!(longer - long > long - before);
}
