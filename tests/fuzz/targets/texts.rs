//! Replica URLs, names of the form `file:...`, and file names.

use std::sync::Arc;

use litestream::capture::segment;
use litestream::clock::SeededRandom;
use litestream::ltx::{
    Pos, Txid, crc64, file_name, format_timestamp, parse_file_name, parse_timestamp,
};
use litestream::moment;
use litestream::replica_client::url::{is_url, redact};
use litestream::replica_client::{FixedEnv, ReplicaOptions, open};

use super::extension::{raw_name, replica_name};

/// Opens and says all that can be said of the outcome.
fn told(url: &str) -> String {
    let env = Arc::new(FixedEnv::default());
    let random = Arc::new(SeededRandom::new(1));
    match open(url, &ReplicaOptions { env, random, ..Default::default() }) {
        Ok(client) => format!("{client:?} {} {}", client.url(), client.kind()),
        Err(e) => format!("{e} {e:?}"),
    }
}

/// Any text as a replica URL; user information and keys never come out.
pub fn urls(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let plain = redact(text);
    assert_eq!(redact(&plain), plain);
    assert!(!plain.contains(['?', '#']));
    assert_eq!(told(text), told(text));
    if !is_url(text) {
        assert!(open(text, &ReplicaOptions::default()).is_err());
    }
    // An input cannot hold a secret that is made of it.
    let secret = format!("{:016x}", crc64(bytes));
    // The host's part of the text may not end the secret's place.
    let rest = text.replace(['/', '?', '#'], "");
    let sse = format!("sseCustomerAlgorithm=AES256&sseCustomerKey={secret}");
    for url in [
        format!("s3://AKIA:{secret}@{text}"),
        format!("s3://AKIA:{secret}@{rest}/db"),
        format!("s3://bucket/db?{sse}&{rest}"),
        format!("s3://{rest}/db?{sse}"),
        format!("file://u:{secret}@{rest}/x?key={secret}"),
        format!("gs://u:{secret}@{rest}/x"),
        format!("s3://b/p?endpoint=http://u:{secret}@{rest}/"),
    ] {
        assert!(!redact(&url).contains(&secret), "{url}");
        assert!(!told(&url).contains(&secret), "{url}: {}", told(&url));
    }
}

/// Any bytes as a name that SQLite did not parse.
pub fn raw_names(bytes: &[u8]) {
    // SQLite's names are C strings.
    let name = bytes.split(|b| *b == 0).next().unwrap_or_default();
    if let Ok(text) = std::str::from_utf8(name) {
        replica_names(text);
    }
    let Ok(Some(raw)) = raw_name::parse(name) else { return };
    assert!(name.starts_with(b"file:"));
    assert!(!raw.path.is_empty() && !raw.path.contains('\0'));
    let path = raw.path.clone();
    raw.remember(path.as_bytes());
    let parameters = raw_name::take(path.as_bytes()).unwrap().parameters;
    assert!(raw_name::take(path.as_bytes()).is_none());
    assert!(parameters.iter().all(|(k, v)| !k.contains('\0') && !v.contains('\0')));
    if let Ok(flags) = raw_name::apply_mode(&parameters, 6) {
        // Parameters may only take rights away.
        assert!(flags & !6 == 0 || flags == 1);
    }
}

/// A name that is a replica's stays one, and its query is divided, not lost.
fn replica_names(name: &str) {
    assert_eq!(replica_name::is_url(name.as_bytes()), replica_name::as_url(name).is_some());
    let Some(url) = replica_name::as_url(name) else { return };
    assert!(is_url(&url), "{url}");
    assert_eq!(replica_name::as_url(&url).as_deref(), Some(&*url));
    for ours in [true, false] {
        let Ok((rest, parameters)) = replica_name::split(&url, |_| ours) else { continue };
        assert!(url.starts_with(rest.split('?').next().unwrap_or_default()));
        assert!(parameters.is_empty() || ours);
        assert!(!rest.contains('#') && (!ours || !rest.contains('?')));
    }
}

/// Any text as a file's name, a transaction id, a time.
pub fn file_names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((min, max)) = parse_file_name(text) {
        assert_eq!(file_name(min, max), text);
    }
    if let Ok(txid) = text.parse::<Txid>() {
        assert_eq!(txid.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(pos) = text.parse::<Pos>() {
        assert_eq!(pos.to_string(), text.to_ascii_lowercase());
    }
    if let Some((txid, generation)) = segment::parse_file_name(text) {
        assert_eq!(segment::file_name(txid, generation), text);
    }
    if let Ok(Some(moment)) = moment::parse(text, 1_795_402_800_000) {
        let again = moment::parse(&moment.text, 0).unwrap().unwrap();
        assert_eq!(again, moment);
    }
    if let Ok(ms) = parse_timestamp(text) {
        assert_eq!(parse_timestamp(&format_timestamp(ms)).unwrap(), ms);
    }
}
