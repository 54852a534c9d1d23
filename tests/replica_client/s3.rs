//! Settings of S3 replicas as the server sees them, and bad settings.

use std::sync::Arc;
use std::time::Duration;

use litestream::ErrorKind;
use litestream::ltx::Txid;
use litestream::replica_client::{FixedEnv, ReplicaOptions, WriteMode, open};

use crate::mock::{Answer, Mock};
use crate::services::services;
use crate::support::{body, data, id, keys, s3_url, streamed, with_keys};

/// 32 zero bytes, percent-encoded base64.
const CUSTOMER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D";
const LIST_OF_NONE: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";

fn listing() -> Answer {
    Answer("200 OK", "Content-Type: application/xml\r\n", LIST_OF_NONE.to_owned())
}

#[tokio::test]
async fn r_71_small_objects_are_one_put() {
    let mock = Mock::start([]);
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    let small = data(1, 200);
    for (n, content) in [body(&small), streamed(&small, 64)].into_iter().enumerate() {
        let n = n as u64 + 1;
        client.write(&id(n, n), 1_500, content, WriteMode::Create).await.unwrap();
        let requests = mock.take();
        assert_eq!(requests.len(), 1, "{requests:?}");
        let put = &requests[0];
        assert!(put.line.starts_with("PUT /bkt/suite/"), "{}", put.line);
        assert!(put.line.contains("/0000/000000000000000"), "{}", put.line);
        assert_eq!(put.header("content-length"), "200");
        assert_eq!(put.header("if-none-match"), "*");
        assert_eq!(put.header("x-amz-meta-litestream-timestamp"), "1970-01-01T00:00:01.5Z");
        assert!(put.header("user-agent").starts_with("litestream "));
        assert_eq!(put.body, small);
    }
    client.write(&id(3, 3), 0, streamed(&small, 64), WriteMode::Overwrite).await.unwrap();
    let requests = mock.take();
    assert_eq!((requests.len(), requests[0].header("if-none-match")), (1, ""));
}

#[tokio::test]
async fn r_80_unknown_options_are_refused() {
    for (url, name) in [
        ("s3://bkt/p?sseKmsKey=alias/x", "sseKmsKey"),
        ("s3://bkt/p?storageclass=GLACIER", "storageclass"),
        ("file:///tmp/x?sseCustomerKey=x", "sseCustomerKey"),
    ] {
        let error = open(url, &keys()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    for (name, value) in [("age-recipients", "x"), ("part_size", "6000000")] {
        let parameters = vec![(name.to_owned(), value.to_owned())];
        for url in ["s3://bkt/p", "file:///tmp/x"] {
            let options = ReplicaOptions { parameters: parameters.clone(), ..keys() };
            let error = open(url, &options).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }
}

#[tokio::test]
async fn unknown_schemes_are_refused() {
    let kind = |url: &str| open(url, &keys()).map(drop).unwrap_err().kind();
    assert_eq!(kind("s4://bkt/p"), ErrorKind::InvalidInput);
    assert_eq!(kind("gs://bkt/p"), ErrorKind::Unsupported);
    assert_eq!(kind("bkt/p"), ErrorKind::InvalidInput);
    assert_eq!(kind("s3:///p"), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn r_84_settings_reach_the_server() {
    let mock = Mock::start([]);
    let query = format!(
        "&storageClass=STANDARD_IA&signPayload=false&region=eu-test-7&sseCustomerKey={CUSTOMER_KEY}"
    );
    let client = open(&s3_url(&mock.endpoint(), &query), &keys()).unwrap();
    client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await.unwrap();
    let put = mock.take().remove(0);
    assert!(put.line.starts_with("PUT /bkt/suite/"), "path style: {}", put.line);
    assert_eq!(put.header("x-amz-storage-class"), "STANDARD_IA");
    assert_eq!(put.header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
    assert!(put.header("authorization").contains("/eu-test-7/s3/aws4_request"));
    assert!(put.header("authorization").contains("Credential=testkey/"));
    assert_eq!(put.header("x-amz-server-side-encryption-customer-algorithm"), "AES256");
    let md5 = put.header("x-amz-server-side-encryption-customer-key-md5");
    assert_eq!(md5, "cLyPS3KoaSFGi/joRB3OUQ==");
    let _ = client.read(&id(1, 1), 0, None).await;
    let get = mock.take().remove(0);
    assert_eq!(get.header("x-amz-server-side-encryption-customer-key-md5"), md5);
}

#[tokio::test]
async fn r_84_parts_and_keys_and_styles_reach_the_server() {
    let started = "<InitiateMultipartUploadResult><UploadId>u1</UploadId>\
                   </InitiateMultipartUploadResult>";
    let done = "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
    let xml = |text: &str| Answer("200 OK", "", text.to_owned());
    let answers = [xml(started), Answer::ok(), Answer::ok(), xml(done)];
    let mock = Mock::start(answers);
    let query = "&part-size=6000000&concurrency=1&sseKmsKeyId=alias/app&storage-class=GLACIER_IR";
    let client = open(&s3_url(&mock.endpoint(), query), &keys()).unwrap();
    let content = data(1, 7_000_000);
    client.write(&id(1, 1), 0, streamed(&content, 1 << 20), WriteMode::Overwrite).await.unwrap();
    let requests = mock.take();
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert_eq!(requests[0].header("x-amz-server-side-encryption"), "aws:kms");
    assert_eq!(requests[0].header("x-amz-server-side-encryption-aws-kms-key-id"), "alias/app");
    assert_eq!(requests[0].header("x-amz-storage-class"), "GLACIER_IR");
    assert_eq!(requests[0].header("x-amz-meta-litestream-timestamp"), "1970-01-01T00:00:00Z");
    let sizes: Vec<usize> = requests[1..3].iter().map(|r| r.body.len()).collect();
    assert_eq!(sizes, [6_000_000, 1_000_000]);

    let client = open(&s3_url(&mock.endpoint(), "&requireContentMD5=false"), &keys()).unwrap();
    client.delete(&[id(1, 1)]).await.unwrap();
    let delete = mock.take().remove(0);
    assert!(delete.line.starts_with("DELETE /bkt/suite/"), "{}", delete.line);

    let listed = "<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>";
    let mock = Mock::start([xml(listed)]);
    let client = open(&s3_url(&mock.endpoint(), "&requireContentMD5=true"), &keys()).unwrap();
    client.delete(&[id(1, 1)]).await.unwrap();
    let delete = mock.take().remove(0);
    assert!(delete.line.starts_with("POST /bkt?delete"), "{}", delete.line);
    assert!(!delete.header("content-md5").is_empty());
}

#[tokio::test]
async fn listings_ask_from_the_seek_on() {
    let mock = Mock::start([listing(), listing()]);
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    assert!(client.list(9, Txid::NONE, true).await.unwrap().is_empty());
    assert!(client.list(0, Txid(0x2a), false).await.unwrap().is_empty());
    let lines: Vec<String> = mock.take().into_iter().map(|r| r.line).collect();
    assert!(lines[0].contains("%2F0009%2F") && !lines[0].contains("start-after"), "{lines:?}");
    assert!(lines[1].contains("%2F0000%2F000000000000002a"), "{lines:?}");
}

#[tokio::test]
async fn idle_clients_hold_no_connection() {
    let mock = Mock::start([]);
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await.unwrap();
    assert_eq!(mock.open_connections(), 1);
    client.release_idle();
    for _ in 0..100 {
        if mock.open_connections() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the connection is still open");
}

#[tokio::test]
async fn redirects_name_the_region() {
    let redirect = Answer::error("301 Moved Permanently", "PermanentRedirect", "elsewhere");
    let wrong = Answer::error("400 Bad Request", "AuthorizationHeaderMalformed", "expecting 'x'");
    let mock = Mock::start([redirect, wrong]);
    let client = open(&s3_url(&mock.endpoint(), ""), &keys()).unwrap();
    for _ in 0..2 {
        let error = client.list(0, Txid::NONE, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("set the region parameter"), "{error}");
    }
    assert_eq!(mock.take().len(), 2, "what cannot help is not repeated");
}

#[tokio::test]
async fn refused_credentials_are_denied_and_hidden() {
    let seaweed = services().get("S3_SEAWEED");
    let ministack = services().get("S3_MINISTACK");
    for (endpoint, key, secret) in [
        (seaweed, "testkey", "wrong-s3cr3t"),
        (seaweed, "AKIDUNKNOWN", "wrong-s3cr3t"),
        (ministack, "AKIDUNKNOWN", "wrong-s3cr3t"),
    ] {
        let client = open(&s3_url(endpoint, ""), &with_keys(key, secret)).unwrap();
        let list = client.list(0, Txid::NONE, false).await.map(drop);
        let file = id(1, 1);
        let write = client.write(&file, 0, body(&data(1, 10)), WriteMode::Create);
        let errors = [
            list,
            write.await.map(drop),
            client.read(&id(1, 1), 0, None).await.map(drop),
            client.delete(&[id(1, 1)]).await,
        ];
        for error in errors.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            let texts = format!("{error} {error:?} {client:?} {}", client.url());
            assert!(!texts.contains("s3cr3t") && !texts.contains("AKIDUNKNOWN"), "{texts}");
            assert!(texts.contains("\"bkt\"") && texts.contains("AWS_ACCESS_KEY_ID"), "{texts}");
        }
    }
}

#[tokio::test]
async fn profiles_sign_for_a_real_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let text = "[app]\naws_access_key_id = testkey\naws_secret_access_key = testsecret\n";
    std::fs::write(&file, text).unwrap();
    let profile = |name: &str| ReplicaOptions {
        env: Arc::new(FixedEnv::new([
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
            ("AWS_PROFILE", name),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ])),
        ..ReplicaOptions::default()
    };
    let url = s3_url(services().get("S3_SEAWEED"), "");
    let client = open(&url, &profile("app")).unwrap();
    client.write(&id(1, 1), 0, body(&data(1, 10)), WriteMode::Create).await.unwrap();
    let error = open(&url, &profile("other")).unwrap().list(0, Txid::NONE, false).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("no AWS credentials found"), "{error}");
}

#[tokio::test]
async fn a_missing_bucket_is_an_error_everywhere() {
    for server in ["S3_MINISTACK", "S3_SEAWEED"] {
        let url = s3_url(services().get(server), "").replace("s3://bkt/", "s3://no-such-bucket/");
        let client = open(&url, &keys()).unwrap();
        let file = id(1, 1);
        let write = client.write(&file, 0, body(&data(1, 10)), WriteMode::Create);
        let errors = [
            client.list(0, Txid::NONE, false).await.map(drop),
            write.await.map(drop),
            client.read(&id(1, 1), 0, None).await.map(drop),
        ];
        for error in errors.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{server}: {error}");
            assert!(error.to_string().contains("\"no-such-bucket\""), "{error}");
        }
    }
}

#[tokio::test]
async fn secrets_stay_out_of_every_text() {
    let mock = Mock::start([Answer::error("400 Bad Request", "Odd", "you sent testsecret")]);
    let query = format!("&sseCustomerKey={CUSTOMER_KEY}");
    let client = open(&s3_url(&mock.endpoint(), &query), &keys()).unwrap();
    let error = client.list(0, Txid::NONE, false).await.unwrap_err();
    let texts = format!("{error} {error:?} {client:?} {} {:?}", client.url(), keys());
    for secret in ["testsecret", "testkey", "AAAAAAAA"] {
        assert!(!texts.contains(secret), "{texts}");
    }
    assert!(texts.contains("Odd"), "{texts}");
}
