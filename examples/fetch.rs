//! Fetches a magnet link with the library: `fetch MAGNET [--into FOLDER] [--network FILE] [--peer HOST:PORT]`.
//!
//! A current-thread runtime is enough and the fastest. Everything else a transfer can do is in `dhtget::client`.

use std::path::PathBuf;

use dhtget::client::{Client, ClientConfig, Job, Placement, Source, TransferEvent};
use dhtget::driver::bootstrap;
use dhtget::network::PrivateNetwork;
use dhtget::wire::magnet::Magnet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut magnet, mut dir, mut network, mut peers) = (None, PathBuf::from("."), None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--into" => dir = value()?.into(),
            "--network" => network = Some(PrivateNetwork::parse(&std::fs::read_to_string(value()?)?)?),
            "--peer" => peers.push(value()?),
            text => magnet = Some(text.parse::<Magnet>()?),
        }
    }
    let magnet = magnet.ok_or("usage: fetch MAGNET [--into FOLDER] [--network FILE] [--peer HOST:PORT]")?;

    let mut config = ClientConfig::default();
    match network {
        Some(network) => config.enter(network, false)?,
        None => config.bootstrap = bootstrap::default_nodes(),
    }
    let client = Client::start(config).await?;
    peers.extend(magnet.peers.iter().map(ToString::to_string));
    let placement = Placement::Folder { dir, name: None, overwrite: false };
    let source = Source::Hash(magnet.hash);
    let mut transfer = client.add(Job { source, placement, peers, seed: false, super_seed: false });
    let mut failure = None;
    while let Some(event) = transfer.next().await {
        match event {
            TransferEvent::Metadata(info) => eprintln!("{}: {} bytes", info.name(), info.layout().total()),
            TransferEvent::Complete => eprintln!("complete, every piece verified"),
            TransferEvent::Failed(error) => failure = Some(error),
            _ => {}
        }
    }
    transfer.stop().await;
    client.shutdown().await;
    failure.map_or(Ok(()), |error| Err(error.into()))
}
