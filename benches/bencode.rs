//! Reading and writing bencode: a DHT reply, and the info dictionary of 10,000 files.

use bytes::Bytes;
use dhtget::wire::bencode::{Limits, Value, Writer};
use dhtget::wire::metainfo::Info;
use divan::counter::BytesCount;

fn main() {
    divan::main();
}

fn find_node_reply() -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    w.begin_dict().bytes(b"r").begin_dict().bytes(b"id").bytes(&[1; 20]).bytes(b"nodes").bytes(&[2; 8 * 26]);
    w.end().bytes(b"t").bytes(b"aa").bytes(b"y").bytes(b"r").end();
    out
}

fn info_of_10000_files() -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    w.begin_dict().bytes(b"files").begin_list();
    for file in 0..10_000 {
        w.begin_dict().bytes(b"length").int(100_000).bytes(b"path").begin_list();
        w.bytes(b"a folder").bytes(format!("file {file:05}.dat").as_bytes()).end().end();
    }
    w.end().bytes(b"name").bytes(b"n").bytes(b"piece length").int(1 << 20);
    w.bytes(b"pieces").bytes(&vec![3; 20 * 1_000_000_000usize.div_ceil(1 << 20)]).end();
    out
}

#[divan::bench]
fn parse_find_node_reply(bencher: divan::Bencher<'_, '_>) {
    let bytes = find_node_reply();
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| {
        let value = Value::parse(divan::black_box(&bytes), Limits::MESSAGE).ok()?;
        value.get(b"r")?.get(b"nodes")?.bytes().map(<[u8]>::len)
    });
}

#[divan::bench]
fn parse_info_of_10000_files(bencher: divan::Bencher<'_, '_>) {
    let bytes = info_of_10000_files();
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench_local(|| Value::parse(divan::black_box(&bytes), Limits::TORRENT).map(|v| v.dict().count()));
}

/// With its SHA-1, safe paths and layout.
#[divan::bench]
fn check_info_of_10000_files(bencher: divan::Bencher<'_, '_>) {
    let bytes = Bytes::from(info_of_10000_files());
    let info = || Info::parse(bytes.clone());
    assert!(info().is_ok());
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(info);
}

#[divan::bench]
fn write_find_node_reply(bencher: divan::Bencher<'_, '_>) {
    bencher.bench_local(find_node_reply);
}
