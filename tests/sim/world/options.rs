//! Every choice, fault and bound of a simulated network, in one place.
//!
//! Knows nothing of how it is carried out.

use std::time::Duration;

use dhtget::dht::Network;

/// A network and what happens to it. The same options give the same trace, byte for byte, whatever the number of
/// threads.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cores to run on. Worth it from some thousand nodes on; fewer keep one busy better than two.
    pub threads: usize,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Hosts that are up at the start.
    pub nodes: usize,
    /// Of which so many are up for ever, and the addresses that everyone starts from.
    pub routers: usize,
    /// The kind of network the nodes believe in.
    pub network: Network,
    /// The first hosts come up one by one within this time; all at once where it is zero.
    pub arrival: Duration,
    /// One-way delay between a host and the middle of the network: median of a log-normal distribution.
    pub access: Duration,
    /// The least that it is. Twice this is how far threads run ahead without looking at each other.
    pub access_min: Duration,
    /// Its shape: 0.5 puts one host in twenty beyond 2.3 times the median.
    pub access_sigma: f64,
    /// Added to each datagram at random, up to this.
    pub jitter: Duration,
    /// Share of datagrams lost.
    pub loss: f64,
    /// Share of hosts behind a NAT that lets in only whom they have sent to.
    pub nat: f64,
    /// How long a NAT remembers (RFC 4787 asks for two minutes, half of that is common).
    pub pinhole: Duration,
    /// Comings and goings, if any.
    pub churn: Option<Churn>,
    /// Share of hosts that announce a torrent of their own as long as they are up.
    pub sharers: f64,
    /// Time between two announces of one sharer.
    pub announce_every: Duration,
    /// Mean time between two searches of one host.
    pub search_every: Option<Duration>,
    /// What else befalls the network.
    pub faults: Vec<Fault>,
    /// Share of hosts that lie, and how. Routers do not.
    pub malice: Option<(f64, Malice)>,
}

/// Session lengths: Weibull with a shape below one, as found for six months of the KAD network by Steiner,
/// En-Najjary and Biersack ("Long Term Study of Peer Behavior in the KAD DHT", 2009): who has been there
/// for long stays for long, while a third of the sessions is over within half an hour.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// Half of the sessions are shorter.
    pub median: Duration,
    /// Shape of the Weibull distribution.
    pub shape: f64,
    /// Hosts that are away for each one that is up, averaged over a day.
    pub away: f64,
    /// Share that comes back as who it was, with its saved contacts; the others are strangers with a new
    /// address.
    pub returns: f64,
    /// How much more often hosts come up at the busiest hour than on average.
    pub swing: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { median: Duration::from_secs(3600), shape: 0.6, away: 1.0, returns: 0.5, swing: 0.5 }
    }
}

/// Something that befalls the network at a certain time from its start.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Two parts cannot reach each other for a while.
    Partition { at: Duration, lasts: Duration, share: f64 },
    /// A share of the hosts finds its clock this far ahead: laptops that slept.
    ClockJump { at: Duration, share: f64, ahead: Duration },
    /// Everybody restarts once within that time, keeps id and contacts, and is down for a moment.
    Upgrade { at: Duration, over: Duration, down: Duration },
    /// One host restarts now, as an upgrade makes each do.
    Restart { host: u32, down: Duration },
    /// A share of the hosts dies at the same moment, for good.
    Death { at: Duration, share: f64 },
}

impl Fault {
    /// When it begins.
    pub fn at(&self) -> Duration {
        match *self {
            Fault::Partition { at, .. }
            | Fault::ClockJump { at, .. }
            | Fault::Upgrade { at, .. }
            | Fault::Death { at, .. } => at,
            Fault::Restart { .. } => Duration::ZERO,
        }
    }
}

/// How a malicious host answers `find_node` and `get_peers`. In all else it is a real node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malice {
    /// Names the malicious hosts nearest to the target, under their own ids, and never a peer.
    Collude,
    /// Names malicious hosts under ids made up next to the target, which each of them then answers to.
    Invent,
    /// Names ids made up next to the target at addresses where nobody is.
    Phantom,
    /// Takes queries and never answers them; answers pings.
    Swallow,
    /// Names one address outside the network, under ids made up next to the target.
    Poison([u8; 4]),
    /// A quarter each of the first four.
    Mixed,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 1,
            seed: 1,
            nodes: 200,
            routers: 3,
            network: Network::Public,
            arrival: Duration::from_secs(60),
            access: Duration::from_millis(22),
            access_min: Duration::from_millis(10),
            access_sigma: 0.5,
            jitter: Duration::from_millis(10),
            loss: 0.0,
            nat: 0.0,
            pinhole: Duration::from_secs(60),
            churn: None,
            sharers: 0.25,
            announce_every: Duration::from_secs(20 * 60),
            search_every: Some(Duration::from_secs(3600)),
            faults: Vec::new(),
            malice: None,
        }
    }
}
