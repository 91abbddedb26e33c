//! `dhtget lookup`: prints the peers that the DHT knows for a torrent, the moment they arrive.
//!
//! Owns when to search again and when to give up. Must not dial any of the peers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::error::{CliError, Code};
use super::get::goodbye;
use super::json::Event;
use super::node;
use super::plan::LookupPlan;
use super::pointer;
use super::progress::{count, seconds};
use super::report::Reporter;
use super::signals::Signals;
use crate::client::Client;
use crate::dht::LookupStats;
use crate::driver::clock;
use crate::driver::udp::{DhtStatus, SearchEvent};
use crate::id::InfoHash;

/// Joining may take this long: DNS, then two time-outs of routers that are down.
const JOIN_LIMIT: Duration = Duration::from_secs(30);
/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// Addresses remembered to print each one once.
const MAX_PEERS: usize = 100_000;

/// Looks up the target of `plan`.
pub async fn run(plan: &LookupPlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    let client = Client::start(plan.client.clone()).await?;
    reporter.tell(&Event::Started {
        command: "lookup",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: plan.target.torrent().map(|t| t.hash.to_string()),
        port: Some(client.port()),
    });
    let result = match pointer::settle(&client, &plan.target, reporter, signals).await {
        Err(error) => Err(error),
        Ok(torrent) => tokio::select! {
            biased;
            stop = signals.next() => Err(stop),
            result = ask(&client, torrent.hash, plan.scrape, reporter) => result,
        },
    };
    reporter.clear();
    goodbye(client, Vec::new()).await;
    result
}

async fn ask(client: &Client, hash: InfoHash, scrape: bool, reporter: &mut Reporter) -> Result<(), CliError> {
    if scrape {
        count_swarm(client, hash, reporter).await
    } else {
        search_until_joined(client, hash, reporter).await
    }
}

/// Until the own neighbourhood is known, or at least somebody when that takes too long.
pub async fn joined(client: &Client, reporter: &mut Reporter) -> Result<(), CliError> {
    let deadline = clock::now() + JOIN_LIMIT;
    let status = client.dht().status();
    let mut tick = interval(TICK / 10);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = status.borrow().clone();
        if now.bootstrapped {
            return Ok(());
        }
        if clock::now() >= deadline {
            return if now.nodes_v4 + now.nodes_v6 > 0 { Ok(()) } else { Err(unreachable(&now)) };
        }
        reporter.node(clock::now(), &now, &node::words(&now));
    }
}

/// How many share it, without asking any of them (BEP 33).
async fn count_swarm(client: &Client, hash: InfoHash, reporter: &mut Reporter) -> Result<(), CliError> {
    joined(client, reporter).await?;
    let mut search = client.dht().scrape(hash);
    let mut counted = (0, 0);
    while let Some(event) = search.next().await {
        match event {
            SearchEvent::Scrape { seeds, leechers } => counted = (seeds, leechers),
            SearchEvent::Done(stats) => {
                let (seeds, leechers) = counted;
                reporter.clear();
                reporter.tell(&Event::Scrape { seeds, leechers, answered: stats.answered });
                let (s, l) = (count(seeds as usize, "seed"), count(leechers as usize, "leecher"));
                data(&format!("{s}, {l}"), reporter)?;
                let nodes = count(stats.answered as usize, "node");
                reporter.note(&format!("addresses, estimated from the filters of {nodes} (BEP 33)"));
                return Ok(());
            }
            _ => {}
        }
    }
    Err(CliError::new(Code::Unknown, "the DHT node is busy: the swarm was not counted"))
}

/// Searches as soon as one node is known, and again if that was before the node had joined: a search
/// from a nearly empty table may end without having met the right neighbourhood.
async fn search_until_joined(
    client: &Client,
    hash: InfoHash,
    reporter: &mut Reporter,
) -> Result<(), CliError> {
    let deadline = clock::now() + JOIN_LIMIT;
    let status = client.dht().status();
    let mut seen = BTreeSet::new();
    let mut total = LookupStats::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let before = status.borrow().clone();
        let nodes = before.nodes_v4 + before.nodes_v6;
        if nodes > 0 {
            let stats = search(client, hash, &mut seen, reporter).await?;
            total.hops = total.hops.max(stats.hops);
            total.asked += stats.asked;
            total.answered += stats.answered;
            total.elapsed += stats.elapsed;
            if !seen.is_empty() || before.bootstrapped {
                return summary(&total, seen.len(), reporter);
            }
        }
        if clock::now() >= deadline {
            return if total.answered > 0 { summary(&total, 0, reporter) } else { Err(unreachable(&before)) };
        }
        reporter.node(clock::now(), &before, &node::words(&before));
        tick.tick().await;
    }
}

async fn search(
    client: &Client,
    hash: InfoHash,
    seen: &mut BTreeSet<SocketAddr>,
    reporter: &mut Reporter,
) -> Result<LookupStats, CliError> {
    let mut search = client.dht().get_peers(hash);
    while let Some(event) = search.next().await {
        match event {
            SearchEvent::Peers(peers) => {
                for peer in peers {
                    if seen.len() < MAX_PEERS && seen.insert(peer) {
                        print(peer, reporter)?;
                    }
                }
            }
            SearchEvent::Progress { asked, answered } => {
                let nodes = count(asked as usize, "node");
                let words =
                    format!("{nodes} asked, {answered} answered, {} found", count(seen.len(), "peer"));
                reporter.step(clock::now(), &words);
            }
            SearchEvent::Done(stats) => return Ok(stats),
            SearchEvent::Item(_) | SearchEvent::Scrape { .. } => {}
        }
    }
    Ok(LookupStats::default())
}

fn print(peer: SocketAddr, reporter: &Reporter) -> Result<(), CliError> {
    let address = peer.to_string();
    printed(reporter.data(&address).and_then(|()| reporter.event(&Event::Peer { address })))
}

/// Writes a line of data.
pub fn data(line: &str, reporter: &Reporter) -> Result<(), CliError> {
    printed(reporter.data(line))
}

/// What became of data on stdout.
pub fn printed(result: std::io::Result<()>) -> Result<(), CliError> {
    match result {
        // Whoever read us has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| CliError::new(Code::Unknown, format!("stdout: {e}"))),
    }
}

fn summary(stats: &LookupStats, peers: usize, reporter: &Reporter) -> Result<(), CliError> {
    let LookupStats { hops, asked, answered, elapsed, .. } = *stats;
    reporter.tell(&Event::Lookup { peers, asked, answered, hops, lookup_s: elapsed.as_secs_f64() });
    let asked_words = format!("{} asked, {answered} answered", count(asked as usize, "node"));
    if peers == 0 {
        let message = format!("no peer is known: {asked_words}, none has seen this hash");
        return Err(CliError::new(Code::NotFound, message).hint("nobody announces it now; try again later"));
    }
    reporter.clear();
    let (peers, hops) = (count(peers, "peer"), count(hops as usize, "hop"));
    reporter.note(&format!("{peers}: {asked_words}, {hops}, {}", seconds(elapsed)));
    Ok(())
}

pub fn unreachable(status: &DhtStatus) -> CliError {
    let why = node::trouble(status).unwrap_or_else(|| "no bootstrap node answered".to_owned());
    let hint = match status.sealed {
        Some(_) => "has this machine the network's key, and is UDP let through? `dhtget network check` tells",
        None => "is UDP blocked here? --bootstrap HOST:PORT names a node that you know",
    };
    CliError::new(Code::NotFound, format!("the DHT is out of reach: {why}")).hint(hint)
}
