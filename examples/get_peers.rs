//! Looks up who shares a torrent: `get_peers INFOHASH [--bootstrap HOST:PORT,...] [--announce PORT]
//! [--listen ADDR:PORT] [--stay SECONDS]`. Peers go to stdout as they arrive, the rest to stderr.

use std::time::Duration;

use dhtget::dht::Config;
use dhtget::driver::{Dht, SearchEvent, bootstrap, clock, listen};
use dhtget::id::InfoHash;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let started = clock::now();
    let (mut hash, mut nodes, mut announce) = (None, bootstrap::default_nodes(), None);
    let (mut listen_on, mut stay) = (None, 0);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--bootstrap" => nodes = bootstrap::parse_argument(&value()?)?,
            "--announce" => announce = Some(value()?.parse()?),
            "--listen" => listen_on = Some(value()?.parse()?),
            "--stay" => stay = value()?.parse()?,
            text => hash = Some(text.parse::<InfoHash>()?),
        }
    }
    let hash = hash.ok_or("usage: get_peers INFOHASH [--bootstrap HOST:PORT,...] [--announce PORT]")?;

    let sockets = listen::listen(listen_on)?;
    let dht = Dht::spawn(Config::default(), sockets.udp, clock::entropy_seed()?, None, nodes)?;
    let mut search = match announce {
        Some(port) => dht.get_peers_and_announce(hash, port, false),
        None => dht.get_peers(hash),
    };
    while let Some(event) = search.next().await {
        match event {
            SearchEvent::Peers(peers) => {
                eprintln!("{:?}: {} peers", started.elapsed(), peers.len());
                peers.iter().for_each(|peer| println!("{peer}"));
            }
            SearchEvent::Done(stats) => eprintln!("{:?}: {stats:?}", started.elapsed()),
            _ => {}
        }
    }
    tokio::time::sleep(Duration::from_secs(stay)).await;
    eprintln!("{:?}", *dht.status().borrow());
    dht.shutdown().await;
    Ok(())
}
