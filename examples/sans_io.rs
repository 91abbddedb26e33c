//! Two DHT nodes in one loop, without a socket: the contract of every machine of this crate.
//!
//! One mutation (a datagram, a deadline, a wish), then drain every poll, then the next mutation.

use std::net::SocketAddr;
use std::time::Instant;

use dhtget::dht::{Config, Event, Network, Node};
use dhtget::id::Id160;

fn main() {
    let mut now = Instant::now();
    let config = Config { network: Network::Local, ..Config::default() };
    let addrs: [SocketAddr; 2] = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
    let mut nodes = [Node::new(config.clone(), [1; 32], now), Node::new(config, [2; 32], now)];

    // A wish: node 1 starts from node 0 and announces that it listens at port 7000.
    let hash = Id160([0xab; 20]);
    nodes[1].add_bootstrap(now, [addrs[0]]);
    nodes[1].announce(now, hash, 7000).expect("no search is under way yet");

    for _ in 0..1000 {
        // Drain both: what one transmits is the next mutation of the other.
        let mut quiet = true;
        for (me, you) in [(0, 1), (1, 0)] {
            while let Some(transmit) = nodes[me].poll_transmit() {
                quiet = false;
                nodes[you].handle_datagram(now, addrs[me], &transmit.payload);
            }
            while let Some(event) = nodes[me].poll_event() {
                println!("node {me}: {event:?}");
                if matches!(event, Event::Done { .. }) {
                    return;
                }
            }
        }
        // Nothing to send: time passes until the next deadline, which says why it is set.
        if quiet {
            let next = nodes.iter().filter_map(Node::poll_timeout).min_by_key(|(at, _)| *at);
            let Some((at, reason)) = next else { return };
            println!("waiting {:?} for {reason:?}", at - now);
            now = at;
            nodes.iter_mut().for_each(|node| node.handle_timeout(now));
        }
    }
}
