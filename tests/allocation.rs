//! A stranger's question costs no memory: a test of its own program, since it counts every allocation.

#[path = "serving/mod.rs"]
mod serving;

use std::time::Instant;

use dhtget::dht::Network;
use dhtget::wire::krpc::{Body, Message};
use peak_alloc::PeakAlloc;
use serving::{KINDS, full_node, question, stranger, token};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[test]
fn questions_of_strangers_are_answered_without_allocating() {
    for network in [Network::Local, Network::Public] {
        answer_without_allocating(network);
    }
}

fn answer_without_allocating(network: Network) {
    let now = Instant::now();
    let mut node = full_node(now, network);
    assert!(node.table_sizes().0 > 200, "{:?}", node.table_sizes());
    for kind in KINDS {
        let asked = |n| {
            let from = stranger(network, n);
            (from, question(kind, n, &token(&mut node, now, from)))
        };
        let questions: Vec<_> = (0..300u32).map(asked).collect();
        let mut answers = 0;
        // The first round finds the store, the buffers and the table's copy as large as they need to be.
        for round in 0..3 {
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            for (from, bytes) in &questions {
                node.handle_datagram(now, *from, bytes);
                while let Some(answer) = node.poll_transmit() {
                    answers += 1;
                    assert!(answer.to == *from && answer.payload.len() <= 1024);
                    let is_reply =
                        matches!(Message::parse(&answer.payload), Ok(Message { body: Body::Reply(_), .. }));
                    assert!(is_reply, "{kind}");
                    node.recycle(answer.payload);
                }
            }
            // Whatever was allocated, though it were freed at once, shows in the peak.
            let most = MEMORY.peak_usage();
            assert!(round == 0 || most == before, "{kind}: {} bytes", most - before);
        }
        assert_eq!(answers, 900, "{kind}");
    }
}
