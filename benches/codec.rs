//! Encoding and decoding of 4 KiB pages beside `lz4_flex` alone on the same
//! pages in the same run. The pages are half text, half noise.
//!
//! The ratios come from alternating rounds, so that both sides see the same
//! machine; criterion's own figures follow.
#![allow(missing_docs, clippy::print_stdout, reason = "a bench reports on stdout")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use litestream::ltx::{Decoder, Encoder, Header, PageForm, Txid};
use lz4_flex::block;

const PAGE: usize = 4096;
const PAGES: usize = 2048;
const ROUNDS: usize = 25;

/// Words in random order in front, random bytes behind, as a table with a
/// text and a blob column has them.
fn pages() -> Vec<Vec<u8>> {
    const WORDS: &str = "commit page frame wal index reader writer segment snapshot restore table \
                         customer order invoice street number active deleted updated created";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let page = |_| {
        let mut page = Vec::with_capacity(PAGE + 16);
        while page.len() < PAGE / 2 {
            page.extend_from_slice(words[(next() >> 33) as usize % words.len()].as_bytes());
            page.push(b' ');
        }
        page.resize_with(PAGE, || (next() >> 32) as u8);
        page
    };
    (0..PAGES).map(page).collect()
}

fn encode(pages: &[Vec<u8>], form: PageForm, out: Vec<u8>) -> Vec<u8> {
    let header = Header::new(PAGE as u32, PAGES as u32, Txid(1), Txid(1), 0);
    let mut encoder = Encoder::new(out, header, form).unwrap();
    for (i, page) in pages.iter().enumerate() {
        encoder.encode_page(i as u32 + 1, page).unwrap();
    }
    encoder.finish().unwrap().0
}

fn decode(file: &[u8], page: &mut [u8]) {
    let mut decoder = Decoder::new(file).unwrap();
    while let Some(pgno) = decoder.next_page(page).unwrap() {
        black_box(pgno);
    }
    decoder.finish().unwrap();
}

fn lz4_encode(pages: &[Vec<u8>], out: &mut [u8]) {
    for page in pages {
        black_box(block::compress_into(page, out).unwrap());
    }
}

fn lz4_decode(blocks: &[Vec<u8>], page: &mut [u8]) {
    for b in blocks {
        black_box(block::decompress_into(b, page).unwrap());
    }
}

fn best(best: &mut Duration, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    *best = (*best).min(start.elapsed());
}

fn ratios(pages: &[Vec<u8>], blocks: &[Vec<u8>], file: &[u8]) {
    let mut out = vec![0; block::get_maximum_output_size(PAGE)];
    let mut page = vec![0; PAGE];
    let mut sink = Vec::with_capacity(file.len() + PAGE);
    let mut times = [Duration::MAX; 4];
    let [ours_e, lz4_e, ours_d, lz4_d] = &mut times;
    for _ in 0..ROUNDS {
        best(lz4_e, || lz4_encode(pages, &mut out));
        best(ours_e, || {
            sink.clear();
            sink = encode(pages, PageForm::Block, std::mem::take(&mut sink));
        });
        best(lz4_d, || lz4_decode(blocks, &mut page));
        best(ours_d, || decode(file, &mut page));
    }
    let speed = |t: Duration| (PAGE * PAGES) as f64 / t.as_secs_f64() / 1e6;
    let [ours_e, lz4_e, ours_d, lz4_d] = times.map(speed);
    println!("compressed to {:.3}", file.len() as f64 / (PAGE * PAGES) as f64);
    for (name, ours, lz4, floor) in [("encode", ours_e, lz4_e, 0.8), ("decode", ours_d, lz4_d, 0.6)]
    {
        let ratio = ours / lz4;
        let verdict = if ratio >= floor { "ok" } else { "TOO SLOW" };
        println!(
            "{name}: {ours:.0} MB/s, lz4_flex alone {lz4:.0} MB/s, \
             ratio {ratio:.3} (at least {floor}): {verdict}"
        );
    }
}

fn codec(c: &mut Criterion) {
    let pages = pages();
    let blocks: Vec<Vec<u8>> = pages.iter().map(|p| block::compress(p)).collect();
    let [file, frames] = [PageForm::Block, PageForm::Frame].map(|f| encode(&pages, f, Vec::new()));
    ratios(&pages, &blocks, &file);

    let mut out = vec![0; block::get_maximum_output_size(PAGE)];
    let mut page = vec![0; PAGE];
    let mut group = c.benchmark_group("4 KiB pages");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes((PAGE * PAGES) as u64));
    group.bench_function("lz4_flex compress", |b| b.iter(|| lz4_encode(&pages, &mut out)));
    for (name, form) in [("block", PageForm::Block), ("frame", PageForm::Frame)] {
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| encode(&pages, form, Vec::with_capacity(file.len() + PAGE)));
        });
    }
    group.bench_function("lz4_flex decompress", |b| b.iter(|| lz4_decode(&blocks, &mut page)));
    for (name, file) in [("block", &file), ("frame", &frames)] {
        group.bench_function(format!("decode {name}"), |b| b.iter(|| decode(file, &mut page)));
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
