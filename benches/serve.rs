//! What a stranger's question costs a node with a well-filled table, from datagram to datagram.

#[path = "../tests/serving/mod.rs"]
mod serving;

use std::time::Instant;

use dhtget::dht::Network;
use serving::{KINDS, full_node, question, stranger, token};

fn main() {
    divan::main();
}

#[divan::bench(args = KINDS)]
fn handle_datagram(bencher: divan::Bencher<'_, '_>, kind: &str) {
    let now = Instant::now();
    let mut node = full_node(now, Network::Local);
    let asked = |n| {
        let from = stranger(Network::Local, n);
        (from, question(kind, n, &token(&mut node, now, from)))
    };
    let questions: Vec<_> = (0..256u32).map(asked).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % questions.len();
        let (from, bytes) = &questions[at];
        node.handle_datagram(now, *from, divan::black_box(bytes));
        let answer = node.poll_transmit();
        let length = answer.as_ref().map_or(0, |a| a.payload.len());
        answer.into_iter().for_each(|a| node.recycle(a.payload));
        length
    });
}
