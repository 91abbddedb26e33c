//! `dhtget network check`: asks every node that a network's file names who answers, how fast, with which version and
//! clock, and says what to mend.
//!
//! Owns the questions and the findings; docs/PRIVATE_NETWORKS.md lists them. Must not change anything.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::choose::{self, Chosen};
use super::known_members;
use crate::cli::error::{CliError, Code};
use crate::cli::json::{Event, NetworkNodeEvent};
use crate::cli::lookup::printed;
use crate::cli::ping::{asking_node, version_text};
use crate::cli::plan::Env;
use crate::cli::progress::count;
use crate::cli::report::Reporter;
use crate::cli::signals::Signals;
use crate::driver::sealed::{Probe, probe};
use crate::driver::udp::{Dht, PingReply, SearchEvent, apart, look_up};
use crate::driver::{clock, listen};
use crate::id::Id160;
use crate::network::{PrivateNetwork, date};
use crate::rng::Rng;
use crate::wire::allow::AllowList;

/// Nodes that are asked, beyond those which the file names as entry points.
const MAX_OTHERS: usize = 8;
/// Addresses of one name that are asked.
const MAX_ADDRESSES: usize = 4;
/// Time for a name to resolve.
const RESOLVE: Duration = Duration::from_secs(5);
/// Time for a connection and its handshake.
const CONNECT: Duration = Duration::from_secs(3);
/// Difference of clocks that is worth a word, in microseconds: half of what members bear.
const SKEW_US: i64 = 150_000_000;
/// Answers to a search that stands for a network's size.
const SEARCH: Duration = Duration::from_secs(5);

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    what: String,
    mend: &'static str,
}

/// One address, as it was found.
struct Seen {
    entry: String,
    addr: SocketAddr,
    /// The file names it as an entry point.
    is_bootstrap: bool,
    pong: Option<PingReply>,
    /// It answers those who have no key.
    open: bool,
    tcp: Probe,
}

/// Checks the network that `value` means.
pub async fn run(
    value: &OsStr,
    env: &Env,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let Chosen { network, .. } = choose::find(value, env)?;
    tokio::select! {
        biased;
        stop = signals.next() => Err(stop),
        result = check(&network, env, reporter) => result,
    }
}

async fn check(network: &PrivateNetwork, env: &Env, reporter: &mut Reporter) -> Result<(), CliError> {
    let no_socket = |e: std::io::Error| CliError::new(Code::Unknown, format!("no UDP socket: {e}"));
    let (targets, mut findings) = targets(network, env).await;
    findings.extend(of_the_file(network, &listen::local_ips(None)));
    let entries = targets.iter().map(|(_, addr, _)| addr.to_string()).collect();
    let dht = asking_node(Some(network), entries).map_err(no_socket)?;
    // In a keyed network, whoever answers a bare question is no member.
    let bare = asking_node(None, Vec::new()).map_err(no_socket)?;
    let mut asked = tokio::task::JoinSet::new();
    for (entry, addr, is_bootstrap) in targets {
        let (dht, bare, keys) = (dht.clone(), bare.clone(), network.keys.clone());
        asked.spawn(async move {
            let (pong, tcp) = tokio::join!(dht.ping(addr), probe(addr, keys.clone(), CONNECT));
            let pong = pong.ok();
            let open = pong.is_none() && keys.is_some() && bare.ping(addr).await.is_ok();
            Seen { entry, addr, is_bootstrap, pong, open, tcp }
        });
    }
    let mut seen = asked.join_all().await;
    seen.sort_by(|a, b| (!a.is_bootstrap, &a.entry, a.addr).cmp(&(!b.is_bootstrap, &b.entry, b.addr)));
    let answered = seen.iter().filter(|node| node.pong.is_some()).count();
    // Where somebody listens to us, the clock that differs is another's.
    let our_clock = dht.status().borrow().our_clock_us.filter(|_| answered == 0);
    for node in &seen {
        printed(reporter.data(&line(node)))?;
        printed(reporter.event(&Event::NetworkNode(event(node))))?;
        findings.extend(of_a_node(node, network, our_clock.is_some()));
    }
    if let Some(ahead_us) = our_clock {
        findings.push(Finding {
            what: format!("this machine's clock is wrong: a member's is {} it", apart(ahead_us)),
            mend: "set the clock of this machine (NTP); members that differ by more than five minutes do not hear each other",
        });
    }
    if answered > 0 {
        let (asked, alive) = breadth(&dht).await;
        reporter.note(&format!("a search asked {}, {alive} answered", count(asked as usize, "node")));
    }
    for finding in &findings {
        reporter.note(&format!("{}\n  mend: {}", finding.what, finding.mend));
        reporter.tell(&Event::NetworkFinding { what: &finding.what, mend: finding.mend });
    }
    verdict(network, &seen, answered, findings.len(), reporter)
}

fn verdict(
    network: &PrivateNetwork,
    seen: &[Seen],
    answered: usize,
    findings: usize,
    reporter: &Reporter,
) -> Result<(), CliError> {
    let name = &network.name;
    if answered == 0 && !(seen.is_empty() && network.lan) {
        return Err(CliError::new(Code::NotFound, format!("nobody of the network `{name}` answers")).hint(
            "start a node on a machine that the file names: `dhtget node --network FILE --listen ADDR:PORT`",
        ));
    }
    if seen.iter().any(|node| node.is_bootstrap && node.pong.is_none()) {
        return Err(CliError::new(Code::Unknown, format!("not every entry point of `{name}` answers")).hint(
            "newcomers enter more slowly, or not at all when the others fail; see above what to mend",
        ));
    }
    let words = if findings == 0 { "nothing to mend".to_owned() } else { count(findings, "finding") };
    reporter.note(&format!("`{name}`: {} of {} answer, {words}", answered, count(seen.len(), "node")));
    Ok(())
}

/// Whom to ask: entry points with all their addresses, members that the invite named, members met before.
async fn targets(network: &PrivateNetwork, env: &Env) -> (Vec<(String, SocketAddr, bool)>, Vec<Finding>) {
    let (mut targets, mut findings, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
    let entries =
        network.bootstrap.iter().map(|e| (e, true)).chain(network.members.iter().map(|e| (e, false)));
    for (entry, is_bootstrap) in entries {
        let found = tokio::time::timeout(RESOLVE, look_up(entry)).await;
        match found.unwrap_or_else(|_| Err("no answer within five seconds".to_owned())) {
            Ok(addrs) => {
                for addr in addrs.into_iter().take(MAX_ADDRESSES).filter(|addr| known.insert(*addr)) {
                    targets.push((entry.clone(), addr, is_bootstrap));
                }
            }
            Err(why) => findings.push(Finding {
                what: format!("{entry} does not resolve: {why}"),
                mend: "mend the name in DNS, or put the machine's address into the network's file",
            }),
        }
    }
    let members = known_members(network, env).into_iter().filter(|addr| known.insert(*addr));
    targets.extend(members.take(MAX_OTHERS).map(|addr| (addr.to_string(), addr, false)));
    (targets, findings)
}

/// What can be said without asking anyone.
fn of_the_file(network: &PrivateNetwork, ours: &[IpAddr]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |what: String, mend| findings.push(Finding { what, mend });
    match network.bootstrap.len() {
        0 if !network.lan => find(
            "no entry point: newcomers depend on the members that an invite names".to_owned(),
            "add `bootstrap` nodes to the network's file",
        ),
        1 => find(
            "one entry point: when it is down, newcomers find nobody but members that an invite names"
                .to_owned(),
            "run a second node and add it to `bootstrap`",
        ),
        _ => {}
    }
    let allow = AllowList::parse(&network.allow).unwrap_or_default();
    if !network.is_keyed() && network.allow.is_empty() {
        find(
            "an open network without `allow`: one member that also knows the public network can join the two"
                .to_owned(),
            "add `allow = [\"10.0.0.0/8\"]`, with your ranges, to every member's file",
        );
    }
    if !ours.is_empty() && !ours.iter().any(|ip| allow.allows(*ip)) {
        find(
            "this machine has no address within `allow`: members will not talk to it".to_owned(),
            "add this machine's range to `allow`, or use an address within it",
        );
    }
    let now_s = clock::unix_time().as_secs();
    if let Some(old) = network.keys.as_ref().and_then(|keys| keys.old.as_ref()) {
        match now_s < old.until_s {
            true => find(
                format!(
                    "the key is being changed: all members need the new file before {}",
                    date::written(old.until_s)
                ),
                "hand out the new file or a new invite in time",
            ),
            false => find(
                format!("an old key is kept that was of use until {}", date::written(old.until_s)),
                "remove `old-key` and `old-key-until` from the file",
            ),
        }
    }
    findings
}

fn of_a_node(node: &Seen, network: &PrivateNetwork, our_clock_is_wrong: bool) -> Option<Finding> {
    let who = if node.entry == node.addr.to_string() {
        node.entry.clone()
    } else {
        format!("{} ({})", node.entry, node.addr)
    };
    let finding = |what: String, mend| Some(Finding { what, mend });
    if let Some(pong) = &node.pong {
        let ahead_us = pong.ahead_us.unwrap_or(0);
        if ahead_us.abs() > SKEW_US {
            return finding(
                format!("the clock of {who} is {} this machine's", apart(ahead_us)),
                "set the clocks (NTP); members that differ by more than five minutes do not hear each other",
            );
        }
        return match node.tcp {
            Probe::Open => None,
            _ => finding(
                format!("{who} answers on UDP, and takes no connections on TCP"),
                "let TCP through on the same port: payload and metadata go over it",
            ),
        };
    }
    if node.open {
        return finding(
            format!("{who} is a node of an open network or of the public one: it answers without a key"),
            "start it with --network and this network's file",
        );
    }
    match (&node.tcp, network.is_keyed()) {
        (Probe::Open, _) => finding(
            format!("{who} takes connections on TCP and does not answer on UDP"),
            "let UDP through on the same port: the DHT lives on it",
        ),
        (Probe::Foreign, true) if our_clock_is_wrong => None,
        (Probe::Foreign, true) => finding(
            format!("somebody listens at {who} and does not know this key"),
            "is it another network's node, or has one side missed a change of keys? Compare `id` and hand out the file anew; \
             or a clock is more than five minutes off",
        ),
        (Probe::Foreign, false) => finding(
            format!(
                "somebody listens at {who} and does not speak plain BitTorrent: a node of a keyed network, or no node"
            ),
            "use the file of the network that it belongs to",
        ),
        (Probe::Refused, _) => {
            finding(format!("nothing listens at {who}"), "start the node there, or mend its port in the file")
        }
        (Probe::Silent, _) => finding(
            format!("{who} does not answer at all"),
            "is the machine up? Does a firewall drop UDP and TCP to this port?",
        ),
        (Probe::Unreachable(why), _) => {
            finding(format!("{who} cannot be reached: {why}"), "is there a route, and is the address right?")
        }
    }
}

/// Nodes that a search for something random asks, and how many of them answer.
async fn breadth(dht: &Dht) -> (u32, u32) {
    let Ok(seed) = clock::entropy_seed() else { return (0, 0) };
    let mut search = dht.get_peers(Id160::random(&mut Rng::from_seed(seed)));
    let mut last = (0, 0);
    let whole = async {
        while let Some(event) = search.next().await {
            match event {
                SearchEvent::Progress { asked, answered } => last = (asked, answered),
                SearchEvent::Done(stats) => return last = (stats.asked, stats.answered),
                _ => {}
            }
        }
    };
    // What was found by then is what is said.
    let _ = tokio::time::timeout(SEARCH, whole).await;
    last
}

fn line(node: &Seen) -> String {
    let name = if node.entry == node.addr.to_string() { String::new() } else { format!(" ({})", node.entry) };
    let tcp = match &node.tcp {
        Probe::Open => "TCP open",
        Probe::Foreign => "TCP does not know the key",
        Probe::Refused => "TCP refused",
        Probe::Silent => "TCP silent",
        Probe::Unreachable(_) => "TCP unreachable",
    };
    let udp = match &node.pong {
        None => "no answer".to_owned(),
        Some(pong) => {
            let version = pong.version.map_or_else(|| "unknown version".to_owned(), version_text);
            let clock =
                pong.ahead_us.map(|us| format!(", clock {:+.3} s", us as f64 / 1e6)).unwrap_or_default();
            format!("answers in {:.1} ms, {version}{clock}", pong.rtt.as_secs_f64() * 1000.0)
        }
    };
    format!("{}{name}\t{udp}\t{tcp}", node.addr)
}

fn event(node: &Seen) -> NetworkNodeEvent {
    let pong = node.pong.as_ref();
    NetworkNodeEvent {
        entry: node.entry.clone(),
        address: node.addr.to_string(),
        bootstrap: node.is_bootstrap,
        answers: pong.is_some(),
        rtt_s: pong.map(|p| p.rtt.as_secs_f64()),
        version: pong.and_then(|p| p.version).map(version_text),
        clock_ahead_s: pong.and_then(|p| p.ahead_us).map(|us| us as f64 / 1e6),
        tcp: node.tcp == Probe::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn network(keyed: bool) -> PrivateNetwork {
        let mut network = PrivateNetwork::new("corp", keyed, &mut Rng::from_u64(1)).unwrap();
        network.bootstrap = vec!["10.0.0.5:1".into(), "10.0.0.6:1".into()];
        network
    }

    fn seen(pong: Option<i64>, open: bool, tcp: Probe) -> Seen {
        let addr: SocketAddr = "10.0.0.5:1".parse().unwrap();
        let reply = |ahead| PingReply {
            id: NodeId::default(),
            rtt: Duration::from_millis(1),
            version: Some(*b"dg\x00\x01"),
            ahead_us: Some(ahead),
        };
        Seen { entry: addr.to_string(), addr, is_bootstrap: true, pong: pong.map(reply), open, tcp }
    }

    #[test]
    fn each_state_of_a_node_has_its_mend() {
        let why = || Probe::Unreachable("no route".into());
        for (node, keyed, words) in [
            (seen(Some(5), false, Probe::Open), true, None),
            (seen(Some(200_000_000), false, Probe::Open), true, Some("clock of")),
            (seen(Some(5), false, Probe::Silent), true, Some("no connections on TCP")),
            (seen(None, true, Probe::Foreign), true, Some("without a key")),
            (seen(None, false, Probe::Open), true, Some("does not answer on UDP")),
            (seen(None, false, Probe::Foreign), true, Some("does not know this key")),
            (seen(None, false, Probe::Foreign), false, Some("keyed network")),
            (seen(None, false, Probe::Refused), true, Some("nothing listens")),
            (seen(None, false, Probe::Silent), true, Some("not answer at all")),
            (seen(None, false, why()), true, Some("cannot be reached: no route")),
        ] {
            let found = of_a_node(&node, &network(keyed), false).map(|finding| finding.what);
            let as_it_should = match (&found, words) {
                (Some(found), Some(words)) => found.contains(words),
                (found, words) => found.is_none() && words.is_none(),
            };
            assert!(as_it_should, "{found:?} {words:?}");
        }
    }

    #[test]
    fn a_file_is_looked_at_before_anyone_is_asked() {
        let ours = ["10.0.0.7".parse().unwrap()];
        let of_the_file = |network: &PrivateNetwork| of_the_file(network, &ours);
        assert!(of_the_file(&network(true)).is_empty());
        let mut weak = network(false);
        weak.bootstrap.pop();
        weak.allow = vec!["192.0.2.0/24".into()];
        let found: Vec<String> = of_the_file(&weak).into_iter().map(|f| f.what).collect();
        assert!(found.iter().any(|f| f.contains("one entry point")), "{found:?}");
        assert!(found.iter().any(|f| f.contains("no address within `allow`")), "{found:?}");
        weak.allow.clear();
        assert!(of_the_file(&weak).iter().any(|f| f.what.contains("without `allow`")));
        let mut changing = network(true);
        changing.rotate(Some(u64::MAX / 2), &mut Rng::from_u64(2));
        assert!(of_the_file(&changing)[0].what.contains("being changed"));
        changing.rotate(Some(5), &mut Rng::from_u64(2));
        assert!(of_the_file(&changing)[0].mend.contains("remove"));
    }
}
