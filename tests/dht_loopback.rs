//! Nodes on real sockets, all on loopback.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::{Config, LookupStats, Network};
use dhtget::driver::{Dht, PeerSearch, PingError, SearchEvent, listen};
use dhtget::id::Id160;

fn spawn(seed: u8, bootstrap: Vec<String>) -> (Dht, SocketAddr) {
    let sockets = listen::listen(Some("127.0.0.1:0".parse().unwrap())).unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], sockets.port));
    let config = Config { network: Network::Local, ..Config::default() };
    (Dht::spawn(config, sockets.udp, [seed; 32], None, bootstrap).unwrap(), addr)
}

async fn finish(mut search: PeerSearch) -> (Vec<SocketAddr>, LookupStats, Option<Duration>) {
    let (start, mut peers, mut first) = (Instant::now(), Vec::new(), None);
    while let Some(event) = search.next().await {
        match event {
            SearchEvent::Peers(more) => {
                first.get_or_insert(start.elapsed());
                peers.extend(more);
            }
            SearchEvent::Done(stats) => return (peers, stats, first),
            _ => {}
        }
    }
    panic!("ended without Done");
}

#[tokio::test]
async fn twenty_nodes_announce_and_find() {
    let test = async {
        let (first, start) = spawn(0, vec![]);
        let mut all: Vec<_> = (1..20).map(|n| spawn(n, vec![start.to_string()])).collect();
        all.push((first, start));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let hash = Id160([7; 20]);
        let (_, stats, _) = finish(all[3].0.get_peers_and_announce(hash, 7777, false)).await;
        assert!(stats.announced_to >= 8, "{stats:?}");

        // A newcomer with nothing but the address of one node.
        let (newcomer, _) = spawn(99, vec![start.to_string()]);
        let (peers, stats, time) = finish(newcomer.get_peers(hash)).await;
        println!("first peer after {time:?}, {stats:?}");
        assert_eq!(peers, ["127.0.0.1:7777".parse().unwrap()]);
        assert!(time < Some(Duration::from_millis(500)));

        let pong = newcomer.ping(all[5].1).await.unwrap();
        assert_eq!(pong.version, Some(*b"dg\0\x01"));
        let saved = newcomer.shutdown().await.unwrap();
        assert!(saved.contacts.len() >= 8);
        assert_eq!(newcomer.ping(start).await, Err(PingError::Stopped));
        assert!(newcomer.get_peers(hash).next().await.is_none());
    };
    tokio::time::timeout(Duration::from_secs(30), test).await.unwrap();
}

#[tokio::test]
async fn ipv6_alone_works_and_a_silent_start_is_named() {
    let test = async {
        let bind = || listen::listen(Some("[::1]:0".parse().unwrap()));
        let (Ok(a), Ok(b)) = (bind(), bind()) else { return println!("no IPv6 here") };
        // A socket that never answers.
        let silent = std::net::UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
        let start = format!("[::1]:{}", a.port);
        let config = || Config { network: Network::Local, ..Config::default() };
        let a = Dht::spawn(config(), a.udp, [1; 32], None, vec![]).unwrap();
        let b = Dht::spawn(config(), b.udp, [2; 32], None, vec![start, silent.to_string()]).unwrap();
        let hash = Id160([3; 20]);
        let (_, stats, _) = finish(b.get_peers_and_announce(hash, 99, false)).await;
        assert_eq!((stats.announced_to, stats.answered), (1, 1));
        let (peers, ..) = finish(a.get_peers(hash)).await;
        assert_eq!(peers, ["[::1]:99".parse().unwrap()]);
        let mut status = b.status();
        status.wait_for(|s| s.nodes_v6 == 1 && s.unanswering == [silent]).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(30), test).await.unwrap();
}

#[tokio::test]
async fn sixty_four_nodes_that_start_at_once_serve_as_soon_as_they_have_joined() {
    let test = async {
        let begin = Instant::now();
        let (first, start) = spawn(0, vec![]);
        let mut all: Vec<_> = (1..64).map(|n| spawn(n, vec![start.to_string()]).0).collect();
        for node in &all {
            node.status().wait_for(|s| s.bootstrapped && s.nodes_v4 >= 16).await.unwrap();
        }
        println!("all joined after {:?}", begin.elapsed());
        all.push(first);
        for (n, node) in all.iter().enumerate().take(10) {
            let (_, stats, _) = finish(node.get_peers_and_announce(Id160([n as u8; 20]), 7777, false)).await;
            assert!(stats.announced_to >= 8, "{stats:?}");
        }
        for (n, node) in all.iter().skip(30).enumerate().take(10) {
            let (peers, ..) = finish(node.get_peers(Id160([n as u8; 20]))).await;
            assert_eq!(peers.len(), 1, "after {:?}", begin.elapsed());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), test).await.unwrap();
}

#[tokio::test]
async fn a_name_resolves_while_the_search_is_under_way_and_mistakes_are_shown() {
    let test = async {
        let (_first, start) = spawn(0, vec![]);
        let names = vec![format!("localhost:{}", start.port()), "nonsense".into()];
        let (second, _) = spawn(1, names);
        let (_, stats, _) = finish(second.get_peers(Id160([1; 20]))).await;
        assert_eq!(stats.answered, 1);
        let mut status = second.status();
        let status = status.wait_for(|s| s.bootstrapped && s.unresolved.is_empty()).await.unwrap().clone();
        assert!(status.bad_bootstrap[0].contains("nonsense"), "{status:?}");
    };
    tokio::time::timeout(Duration::from_secs(30), test).await.unwrap();
}
