//! `dhtget ping` and `dhtget sample`: ask one DHT node whether it is there, and what it knows.
//!
//! Owns a node that only asks and leaves nothing behind.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::{CliError, Code};
use super::json::Event;
use super::lookup;
use super::report::Reporter;
use super::signals::Signals;
use crate::dht;
use crate::driver::clock;
use crate::driver::listen::{UdpSockets, udp_socket};
use crate::driver::udp::{Dht, PingError, PingReply};
use crate::id::Id160;
use crate::network::PrivateNetwork;
use crate::rng::Rng;
use crate::wire::allow::AllowList;
use crate::wire::magnet::HostPort;

/// Pings `address`, each of its addresses in turn until one answers.
pub async fn run(
    address: &HostPort,
    network: Option<&PrivateNetwork>,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    reporter.tell(&Event::Started {
        command: "ping",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: None,
        port: None,
    });
    tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = ping(address, network, reporter) => result,
    }
}

async fn ping(
    address: &HostPort,
    network: Option<&PrivateNetwork>,
    reporter: &Reporter,
) -> Result<(), CliError> {
    let addrs = resolve(address).await?;
    let dht = asking_node(network, Vec::new())
        .map_err(|e| CliError::new(Code::Unknown, format!("no UDP socket: {e}")))?;
    let mut last = PingError::Timeout;
    for addr in addrs {
        match dht.ping(addr).await {
            Ok(reply) => return print(addr, &reply, reporter),
            Err(error) => last = error,
        }
    }
    let code = if last == PingError::Timeout { Code::Timeout } else { Code::Unknown };
    let hint = match network.is_some_and(PrivateNetwork::is_keyed) {
        true => "a member answers on UDP to whoever has its key; `dhtget network check` tells what is wrong",
        false => "a node answers on UDP; is the port right, and does a firewall let it through?",
    };
    Err(CliError::new(code, format!("{address}: {last}")).hint(hint))
}

/// Asks `address` which torrents it has peers of (BEP 51).
pub async fn sample(
    address: &HostPort,
    network: Option<&PrivateNetwork>,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    reporter.tell(&Event::Started { command: "sample", version, info_hash: None, port: None });
    tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = sample_of(address, network, reporter) => result,
    }
}

async fn sample_of(
    address: &HostPort,
    network: Option<&PrivateNetwork>,
    reporter: &Reporter,
) -> Result<(), CliError> {
    let addrs = resolve(address).await?;
    let dht = asking_node(network, Vec::new())
        .map_err(|e| CliError::new(Code::Unknown, format!("no UDP socket: {e}")))?;
    let mut rng =
        Rng::from_seed(clock::entropy_seed().map_err(|e| CliError::new(Code::Unknown, e.to_string()))?);
    for addr in addrs {
        let Ok(sample) = dht.sample_infohashes(addr, Id160::random(&mut rng)).await else { continue };
        let hashes: Vec<String> = sample.hashes.iter().map(ToString::to_string).collect();
        if !hashes.is_empty() {
            lookup::data(&hashes.join("\n"), reporter)?;
        }
        let (shown, interval) = (hashes.len(), sample.interval);
        reporter.note(&format!(
            "{shown} of {} info-hashes; the same ones for {} s",
            sample.num,
            interval.as_secs()
        ));
        let address = addr.to_string();
        reporter.tell(&Event::Samples { address, hashes, num: sample.num, interval_s: interval.as_secs() });
        return Ok(());
    }
    Err(CliError::new(Code::Timeout, format!("{address}: no answer with samples within 5 seconds"))
        .hint("not every node knows the question (BEP 51); `dhtget ping` tells whether it is there"))
}

async fn resolve(address: &HostPort) -> Result<Vec<SocketAddr>, CliError> {
    let addrs = tokio::net::lookup_host((address.host(), address.port())).await.map_err(|e| {
        CliError::new(Code::Unknown, format!("{address} does not resolve: {e}"))
            .hint("check the name, or give the IP address")
    })?;
    Ok(addrs.collect())
}

/// A node that asks, and lets itself be remembered by nobody; `entries` is where it starts from.
pub fn asking_node(network: Option<&PrivateNetwork>, entries: Vec<String>) -> std::io::Result<Dht> {
    let v4 = udp_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let v6 = udp_socket(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let sockets = match (v4, v6) {
        (Err(error), Err(_)) => return Err(error),
        (v4, v6) => UdpSockets { v4: v4.ok(), v6: v6.ok() },
    };
    let allow = network.and_then(|n| AllowList::parse(&n.allow).ok()).unwrap_or_default();
    let config =
        dht::Config { network: dht::Network::Local, read_only: true, allow, ..dht::Config::default() };
    let keys = network.and_then(|network| network.keys.clone());
    Dht::spawn_sealed(config, sockets, clock::entropy_seed()?, None, entries, keys)
}

fn print(addr: SocketAddr, reply: &PingReply, reporter: &Reporter) -> Result<(), CliError> {
    let version = reply.version.map(version_text);
    let shown = version.as_deref().unwrap_or("unknown");
    let rtt_ms = reply.rtt.as_secs_f64() * 1000.0;
    let event = Event::Pong {
        address: addr.to_string(),
        id: reply.id.to_string(),
        rtt_s: reply.rtt.as_secs_f64(),
        version: version.clone(),
    };
    let line = format!("id {}, rtt {rtt_ms:.1} ms, version {shown}", reply.id);
    let printed = reporter.data(&line).and_then(|()| reporter.event(&event));
    printed.map_err(|e| CliError::of_stdout(&e))
}

/// `v` is two letters and two numbers by habit (BEP 20); a stranger's bytes stay harmless.
pub fn version_text(version: [u8; 4]) -> String {
    let [a, b, major, minor] = version;
    if a.is_ascii_graphic() && b.is_ascii_graphic() {
        format!("{}{} {major}.{minor}", char::from(a), char::from(b))
    } else {
        version.map(|byte| format!("{byte:02x}")).concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_readable_and_harmless() {
        assert_eq!(version_text(*b"LT\x02\x01"), "LT 2.1");
        assert_eq!(version_text(*b"\x1b[2J"), "1b5b324a");
    }
}
