//! Reading and writing datagrams of the DHT.

use dhtget::id::Id160;
use dhtget::wire::krpc::{Body, Message, Method, Query, Reply, Want};

fn main() {
    divan::main();
}

const NODES: [u8; 8 * 26] = [7; 8 * 26];

/// Fifty peers, as many as a reply of 1 KiB holds beside its nodes.
fn values() -> Vec<u8> {
    [b"l".as_slice(), &b"6:\x08\x08\x08\x08\x1a\xe1".repeat(50), b"e"].concat()
}

fn message<'a>(kind: &str, values: &'a [u8]) -> Message<'a> {
    let id = Id160([1; 20]);
    let reply = Reply { id, nodes: &NODES, ..Reply::default() };
    let body = match kind {
        "ping" => Body::Query(Query { id, want: Want::default(), method: Method::Ping }),
        "find_node reply" => Body::Reply(reply),
        _ => Body::Reply(Reply { token: Some(b"12345678"), values, ..reply }),
    };
    Message { transaction: b"abcd", version: Some(*b"dg\0\x01"), ip: None, read_only: false, body }
}

const KINDS: [&str; 3] = ["ping", "find_node reply", "get_peers reply with 50 values"];

#[divan::bench(args = KINDS)]
fn emit(bencher: divan::Bencher<'_, '_>, kind: &str) {
    let values = values();
    let message = message(kind, &values);
    let mut out = Vec::with_capacity(1500);
    bencher.bench_local(|| {
        out.clear();
        divan::black_box(&message).emit(&mut out);
        out.len()
    });
}

/// With every contact and peer in it read.
#[divan::bench(args = KINDS)]
fn parse(bencher: divan::Bencher<'_, '_>, kind: &str) {
    let values = values();
    let mut bytes = Vec::new();
    message(kind, &values).emit(&mut bytes);
    bencher.bench_local(|| match Message::parse(divan::black_box(&bytes)) {
        Ok(Message { body: Body::Reply(reply), .. }) => reply.contacts().count() + reply.peers().count(),
        other => usize::from(other.is_ok()),
    });
}
