//! dhtget: a trackerless BitTorrent DHT node and client.
//!
//! - To fetch or share torrents: [`client::Client`] (`examples/fetch.rs` is the whole of it).
//! - To run a DHT node on sockets: [`driver::Dht`] (`examples/get_peers.rs`).
//! - To put the machines on sockets, or a simulation, of your own: [`dht::Node`], [`swarm::Swarm`], [`peer::Connection`]
//!   (`examples/sans_io.rs` has the contract in one loop).
//! - To read and write the messages alone: [`wire`].
//!
//! The floors, lowest first; each knows those above it in this list only: [`id`] and [`rng`], [`wire`], [`network`] (keys and
//! files of private networks), the machines [`dht`], [`peer`] and [`swarm`], [`driver`] (sockets, disk, clock), [`client`],
//! [`web`] and [`cli`]. The machines have no socket, file, clock or randomness of their own.

pub mod cli;
pub mod client;
pub mod dht;
pub mod driver;
pub mod id;
pub mod network;
pub mod peer;
pub mod rng;
pub mod swarm;
pub mod web;
pub mod wire;
