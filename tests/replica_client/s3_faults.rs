//! S3 replicas behind a proxy that loses, breaks and refuses.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use litestream::ltx::Txid;
use litestream::replica_client::{ReplicaClient, WriteMode, open};
use litestream::{ErrorKind, Result};

use crate::services::services;
use crate::support::{body, data, id, keys, s3_url, streamed};

/// The proxy with its rules; one test at a time has it.
struct Proxy(#[expect(dead_code)] MutexGuard<'static, ()>);

impl Proxy {
    fn take() -> Proxy {
        static LOCK: Mutex<()> = Mutex::new(());
        Proxy(LOCK.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the rules and clears the counters.
    fn rules(&self, rules: &str) {
        let answer =
            admin(&format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{rules}", rules.len()));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// The value of a counter since the rules were set.
    fn counter(&self, name: &str) -> u64 {
        let answer = admin("GET / HTTP/1.1\r\n\r\n");
        let Some((_, rest)) = answer.rsplit_once(&format!("\"{name}\": ")) else { return 0 };
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    fn client(&self) -> Arc<dyn ReplicaClient> {
        open(&s3_url(services().get("S3_FAULT"), ""), &keys()).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.rules("{}");
    }
}

fn admin(request: &str) -> String {
    let mut stream = TcpStream::connect(services().get("FAULT_ADMIN")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_whose_answer_was_lost_succeeds() {
    let proxy = Proxy::take();
    let client = proxy.client();
    let content = data(1, 5_000);
    for (n, body) in [(1, body(&content)), (2, streamed(&content, 999))] {
        proxy.rules(r#"{"http":[{"match":"PUT ","drop_response":true,"n":1}]}"#);
        let written = client.write(&id(n, n), 77, body, WriteMode::Create).await.unwrap();
        assert_eq!((written.size, written.created_at_ms), (5_000, 77));
        assert_eq!(proxy.counter("responses_dropped"), 1);
        assert_eq!(proxy.counter("requests"), 3, "PUT, PUT again, GET to compare");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_lost_to_another_writer_says_so() {
    let proxy = Proxy::take();
    let client = proxy.client();
    client.write(&id(1, 1), 0, body(&data(9, 5_000)), WriteMode::Create).await.unwrap();
    proxy.rules(r#"{"http":[{"match":"PUT ","drop_response":true,"n":1}]}"#);
    for other in [data(1, 5_000), data(9, 4_999)] {
        let error = client.write(&id(1, 1), 0, body(&other), WriteMode::Create).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_is_sat_out() {
    let proxy = Proxy::take();
    let client = proxy.client();
    proxy.rules(r#"{"http":[{"match":" /bkt","status":503,"n":2}]}"#);
    client.write(&id(1, 1), 0, body(&data(1, 50)), WriteMode::Create).await.unwrap();
    proxy.rules(r#"{"http":[{"match":" /bkt","status":503,"n":2}]}"#);
    assert_eq!(client.list(0, Txid::NONE, false).await.unwrap().len(), 1);
    assert_eq!(proxy.counter("status_503"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_outages_are_reported_and_pass() {
    let proxy = Proxy::take();
    let client = proxy.client();
    proxy.rules(r#"{"refuse":true}"#);
    let results: [Result<()>; 3] = [
        client.write(&id(1, 1), 0, body(&data(1, 50)), WriteMode::Create).await.map(drop),
        client.list(0, Txid::NONE, false).await.map(drop),
        client.read(&id(1, 1), 0, None).await.map(drop),
    ];
    for error in results.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("s3://bkt/suite/"), "{error}");
    }
    proxy.rules("{}");
    client.write(&id(1, 1), 0, body(&data(1, 50)), WriteMode::Create).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_breaks_off_is_resumed() {
    let proxy = Proxy::take();
    let client = proxy.client();
    let content = data(3, 3 << 20);
    client.write(&id(1, 1), 0, body(&content), WriteMode::Create).await.unwrap();
    proxy.rules(r#"{"http":[{"match":"GET ","truncate":1000000,"n":1}]}"#);
    assert!(client.read(&id(1, 1), 0, None).await.unwrap() == content);
    proxy.rules(r#"{"http":[{"match":"GET ","truncate":1000000,"n":2}]}"#);
    let stream = client.read_stream(&id(1, 1), 5, None).await.unwrap();
    assert!(crate::support::collect(stream).await.unwrap() == content.slice(5..));
    assert_eq!(proxy.counter("requests"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_sent_again() {
    let proxy = Proxy::take();
    let client = proxy.client();
    let content = data(3, 12 << 20);
    proxy.rules(
        r#"{"http":[{"match":"partNumber=2","status":500,"n":1},
                    {"match":"partNumber=3","drop_response":true,"n":1}]}"#,
    );
    client.write(&id(1, 1), 0, streamed(&content, 1 << 20), WriteMode::Create).await.unwrap();
    assert_eq!(proxy.counter("status_500"), 1);
    assert_eq!(proxy.counter("responses_dropped"), 1);
    assert!(client.read(&id(1, 1), 0, None).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_whose_answer_was_lost_succeeds() {
    let proxy = Proxy::take();
    let client = proxy.client();
    let content = data(4, 6 << 20);
    proxy.rules(r#"{"http":[{"match":"?uploadId=","drop_response":true,"n":1}]}"#);
    client.write(&id(1, 1), 0, streamed(&content, 1 << 20), WriteMode::Create).await.unwrap();
    assert_eq!(proxy.counter("responses_dropped"), 1);
    assert!(client.read(&id(1, 1), 0, None).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_upload_is_aborted() {
    let proxy = Proxy::take();
    let client = proxy.client();
    // The answer to the abort shows that it was asked for.
    proxy.rules(
        r#"{"http":[{"match":"partNumber=2","status":403,"code":"AccessDenied"},
                    {"match":"DELETE ","status":503}]}"#,
    );
    let content = streamed(&data(4, 12 << 20), 1 << 20);
    let error = client.write(&id(1, 1), 0, content, WriteMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!((proxy.counter("status_403"), proxy.counter("status_503")), (1, 1));
    assert!(client.list(0, Txid::NONE, false).await.unwrap().is_empty());
}
