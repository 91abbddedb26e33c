//! dhtget: a trackerless BitTorrent DHT node and client.

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
