//! A private DHT on loopback with some life in it, to look at a node in company:
//!
//! ```sh
//! cargo run --release --example private_network -- 60     # prints an address to start from
//! dhtget node --listen 127.0.0.1:0 --bootstrap THAT_ADDRESS --no-state --status
//! ```
//!
//! Nodes announce and search at random; now and then one leaves without a word and another one comes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dhtget::dht::{Config, Network};
use dhtget::driver::listen::{UdpSockets, udp_socket};
use dhtget::driver::{Dht, clock};
use dhtget::id::Id160;
use dhtget::rng::Rng;

/// Torrents that are talked about.
const HASHES: usize = 400;
/// Between two wishes of somebody.
const EACH: Duration = Duration::from_millis(60);
/// Between two departures.
const CHURN: Duration = Duration::from_secs(15);

fn start(rng: &mut Rng, bootstrap: Vec<String>) -> io::Result<(Dht, SocketAddr)> {
    let socket = udp_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let addr = socket.local_addr()?;
    let config = Config { network: Network::Local, ..Config::default() };
    let sockets = UdpSockets { v4: Some(socket), v6: None };
    Ok((Dht::spawn(config, sockets, rng.child(), None, bootstrap)?, addr))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let size = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut rng = Rng::from_seed(clock::entropy_seed()?);
    let (first, entry) = start(&mut rng, Vec::new())?;
    println!("{entry}");
    let mut nodes = vec![first];
    for _ in 1..size {
        nodes.push(start(&mut rng, vec![entry.to_string()])?.0);
    }
    let hashes: Vec<Id160> = (0..HASHES).map(|_| Id160::random(&mut rng)).collect();
    let mut churn = tokio::time::interval(CHURN);
    let mut wishes = tokio::time::interval(EACH);
    loop {
        tokio::select! {
            _ = wishes.tick() => {
                let node = &nodes[rng.below(nodes.len())];
                // A few torrents are much more popular than the rest.
                let hash = hashes[rng.below(HASHES).min(rng.below(HASHES))];
                let port = 1024 + rng.below(60_000) as u16;
                let announces = rng.chance(0.25);
                let mut search =
                    if announces { node.get_peers_and_announce(hash, port, false) } else { node.get_peers(hash) };
                tokio::spawn(async move { while search.next().await.is_some() {} });
            }
            _ = churn.tick() => {
                // The first one stays: it is the address to start from.
                let at = 1 + rng.below(nodes.len() - 1);
                nodes[at] = start(&mut rng, vec![entry.to_string()])?.0;
            }
        }
    }
}
