//! The routing table, and the closest nodes of a full one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::Config;
use dhtget::dht::config::{K, Network};
use dhtget::dht::table::Table;
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;

fn main() {
    divan::main();
}

const NETWORKS: [Network; 2] = [Network::Public, Network::Local];

fn config(network: Network) -> Config {
    Config { network, ..Config::default() }
}

/// Nodes near and far: each second one shares a longer prefix with us, so that deep buckets fill.
fn contacts(own: Id160, count: u32) -> Vec<Contact> {
    let mut rng = Rng::from_u64(1);
    let contact = |n: u32| {
        let shared = if n.is_multiple_of(2) { 0 } else { rng.below(40) };
        let ip = (0x0800_0000 + n * 257).to_be_bytes();
        Contact { id: own.random_with_prefix(shared, &mut rng), addr: SocketAddr::from((ip, 6881)) }
    };
    (0..count).map(contact).collect()
}

fn table(config: &Config, own: Id160, contacts: &[Contact], now: Instant) -> Table {
    let mut table = Table::new(own, now);
    contacts.iter().for_each(|c| table.on_answer(now, *c, Duration::from_millis(50), config));
    table
}

#[divan::bench(args = NETWORKS)]
fn insert_1000(bencher: divan::Bencher<'_, '_>, network: Network) {
    let (own, now, config) = (Id160([9; 20]), Instant::now(), config(network));
    let contacts = contacts(own, 1000);
    bencher.counter(contacts.len()).bench_local(|| table(&config, own, &contacts, now).len());
}

#[divan::bench]
fn closest_8_of_a_full_table(bencher: divan::Bencher<'_, '_>) {
    let (own, now, config) = (Id160([9; 20]), Instant::now(), config(Network::Local));
    let table = table(&config, own, &contacts(own, 20_000), now);
    let mut rng = Rng::from_u64(2);
    let targets: Vec<_> = (0..1000).map(|_| Id160::random(&mut rng)).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % targets.len();
        table.closest(&targets[at], K)
    });
}

#[divan::bench]
fn closest_8_near_ourselves(bencher: divan::Bencher<'_, '_>) {
    let (own, now, config) = (Id160([9; 20]), Instant::now(), config(Network::Local));
    let table = table(&config, own, &contacts(own, 20_000), now);
    bencher.bench_local(|| table.closest(divan::black_box(&own), K));
}
