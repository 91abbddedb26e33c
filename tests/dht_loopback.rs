//! Nodes on real sockets, all on loopback.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::{Config, LookupStats, Network};
use dhtget::driver::state::StateFolder;
use dhtget::driver::{Dht, PeerSearch, PingError, SearchEvent, listen};
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::item::Item;

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

        let pong = newcomer.ping(all[5].1).await.unwrap();
        assert_eq!(pong.version, Some(*b"dg\0\x01"));
        let saved = newcomer.shutdown().await.unwrap();
        assert!(saved.contacts.len() >= 8);
        assert_eq!(newcomer.ping(start).await, Err(PingError::Stopped));
        assert!(newcomer.get_peers(hash).next().await.is_none());
    };
    tokio::time::timeout(Duration::from_secs(30), test).await.unwrap();
}

/// What strangers announced and put is worth more than the run that was told.
#[tokio::test]
async fn a_restarted_node_still_has_what_it_was_given() {
    let test = async {
        let dir = tempfile::tempdir().unwrap();
        let state = || StateFolder::open(dir.path(), None);
        let (hash, item) = (Id160([7; 20]), Item::Immutable { value: b"5:hello".to_vec() });
        let (node, addr) = spawn(1, vec![]);
        let (giver, _) = spawn(2, vec![addr.to_string()]);
        let _ = giver.status().wait_for(|s| s.nodes_v4 == 1).await;
        assert_eq!(finish(giver.get_peers_and_announce(hash, 7777, true)).await.1.announced_to, 1);
        assert_eq!(finish(giver.put_item(item.clone(), None).unwrap()).await.1.announced_to, 1);
        state().store(&node.shutdown().await.unwrap());
        drop((node, giver));

        let sockets = listen::listen(Some("127.0.0.1:0".parse().unwrap())).unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], sockets.port));
        let config = Config { network: Network::Local, ..Config::default() };
        let saved = state().load(&mut Rng::from_u64(1)).unwrap();
        let again = Dht::spawn(config, sockets.udp, [3; 32], Some(saved), vec![]).unwrap();
        let (asker, _) = spawn(4, vec![addr.to_string()]);
        assert_eq!(finish(asker.get_peers(hash)).await.0, ["127.0.0.1:7777".parse().unwrap()]);
        let mut search = asker.get_item(item.target(), b"");
        assert_eq!(search.next().await, Some(SearchEvent::Item(item)));
        drop(again);
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

/// A stranger who asks fifty questions at a time, until told to stop; how many were answered.
fn flood(target: SocketAddr, stop: &std::sync::atomic::AtomicBool) -> usize {
    let query =
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe";
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut answered, mut buffer) = (0, [0; 2048]);
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        (0..50).for_each(|_| drop(stranger.send_to(query, target)));
        for _ in 0..50 {
            match stranger.recv(&mut buffer) {
                Ok(length) => {
                    answered += usize::from(buffer[..length].ends_with(b"1:t2:aa1:v4:dg\0\x011:y1:re"));
                }
                Err(_) => break,
            }
        }
    }
    answered
}

#[tokio::test]
async fn a_flooded_node_goes_on_with_its_own_work() {
    let (a, start) = spawn(1, vec![]);
    let (b, flooded) = spawn(2, vec![start.to_string()]);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || flood(flooded, &stop))
        })
        .collect();
    let test = async {
        for round in 0..5u8 {
            let hash = Id160([round; 20]);
            let (_, stats, _) = finish(b.get_peers_and_announce(hash, 99, false)).await;
            assert_eq!(stats.announced_to, 1, "{stats:?}");
            assert!(!finish(a.get_peers(hash)).await.0.is_empty());
            assert!(b.ping(start).await.is_ok() && a.ping(flooded).await.is_ok());
        }
        while b.status().borrow().queries_in < 5000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), test).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let answered: usize = strangers.into_iter().map(|s| s.join().unwrap()).sum();
    outcome.unwrap();
    assert!(answered > 1000, "{answered}");
}
