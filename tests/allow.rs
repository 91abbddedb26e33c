//! A network with an allow-list, on real sockets: 127.0.0.0/24 belongs to it, the rest of loopback does not.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

mod runtime;

use std::io::ErrorKind::WouldBlock;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use dhtget::client::{Client, ClientConfig, Job, Placement, Source};
use dhtget::id::Id160;
use dhtget::wire::allow::AllowList;
use dhtget::wire::peer::{HANDSHAKE_LEN, Handshake, Reserved};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const HASH: Id160 = Id160([7; 20]);
const INSIDE: [u8; 4] = [127, 0, 0, 9];
const OUTSIDE: [u8; 4] = [127, 1, 0, 9];
const PATIENCE: Duration = Duration::from_secs(30);

async fn closed(bootstrap: Vec<String>) -> Client {
    let config = ClientConfig {
        listen: Some(([127, 0, 0, 1], 0).into()),
        bootstrap,
        private_network: true,
        allow: AllowList::parse(&["127.0.0.0/24".to_owned()]).unwrap(),
        ..ClientConfig::default()
    };
    Client::start(config).await.unwrap()
}

fn job(peers: Vec<String>) -> Job {
    let (source, placement) = (Source::Hash(HASH), Placement::Nowhere);
    Job { source, placement, peers, seed: false, super_seed: false }
}

fn hello() -> Vec<u8> {
    let mut hello = Vec::new();
    let peer_id = Id160([8; 20]);
    Handshake { reserved: Reserved::OURS, info_hash: HASH, peer_id }.emit(&mut hello);
    hello
}

async fn connect(from: impl Into<IpAddr>, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
    socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
}

#[test]
fn a_datagram_from_outside_is_not_answered() {
    runtime::run_within(PATIENCE, async {
        let client = closed(Vec::new()).await;
        let socket = |ip: [u8; 4]| UdpSocket::bind((IpAddr::from(ip), 0)).unwrap();
        let (inside, outside) = (socket(INSIDE), socket(OUTSIDE));
        let node = SocketAddr::from(([127, 0, 0, 1], client.port()));
        // A question, one that is broken, and an answer to nothing; then one that will be answered, which says
        // that the others have been looked at.
        for bytes in [
            &b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"[..],
            b"d1:ade1:q9:find_node1:t2:aa1:y1:qe",
            b"d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:re",
        ] {
            outside.send_to(bytes, node).unwrap();
        }
        inside.send_to(b"d1:ad2:id20:bbcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", node).unwrap();
        let mut status = client.dht().status();
        status.wait_for(|s| s.queries_in == 1).await.unwrap();
        [&inside, &outside].into_iter().for_each(|s| s.set_nonblocking(true).unwrap());
        let mut buffer = [0; 2048];
        while inside.recv(&mut buffer).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(outside.recv(&mut buffer).unwrap_err().kind(), WouldBlock);
        client.shutdown().await;
    });
}

#[test]
fn a_connection_from_outside_is_closed_without_a_byte() {
    runtime::run_within(PATIENCE, async {
        let client = closed(Vec::new()).await;
        let transfer = client.add(job(Vec::new()));
        let mut answer = [0; HANDSHAKE_LEN];
        let mut inside = connect(INSIDE, client.port()).await;
        inside.write_all(&hello()).await.unwrap();
        inside.read_exact(&mut answer).await.unwrap();
        let mut outside = connect(OUTSIDE, client.port()).await;
        // It may be closed before this is through.
        let _ = outside.write_all(&hello()).await;
        assert!(matches!(outside.read(&mut answer).await, Ok(0) | Err(_)));
        transfer.stop().await;
        client.shutdown().await;
    });
}

#[test]
fn nobody_outside_is_asked_or_dialled_whoever_names_him() {
    runtime::run_within(PATIENCE, async {
        let listen = async |ip: [u8; 4]| TcpListener::bind((IpAddr::from(ip), 0)).await.unwrap();
        let (inside, outside) = (listen(INSIDE).await, listen(OUTSIDE).await);
        let name = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        // Whoever is asked as a node hears it at the same port.
        let heard = UdpSocket::bind(outside.local_addr().unwrap()).unwrap();
        heard.set_nonblocking(true).unwrap();
        let client = closed(vec![name(&outside)]).await;
        assert!(client.dht().status().borrow().bad_bootstrap[0].contains("127.0.0.0/24"));
        client.dht().add_contact(outside.local_addr().unwrap());
        assert!(client.dht().ping(outside.local_addr().unwrap()).await.is_err());
        let transfer = client.add(job(vec![name(&outside), name(&inside)]));
        let (mut peer, _) = inside.accept().await.unwrap();
        peer.read_exact(&mut [0; HANDSHAKE_LEN]).await.unwrap();
        let outside = outside.into_std().unwrap();
        assert_eq!(outside.accept().unwrap_err().kind(), WouldBlock);
        assert_eq!(heard.recv(&mut [0; 2048]).unwrap_err().kind(), WouldBlock);
        transfer.stop().await;
        client.shutdown().await;
    });
}
