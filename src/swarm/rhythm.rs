//! When a transfer looks for peers again, and when it announces itself again.
//!
//! Owns the waits between searches. Must not know how a search is done, nor whom it found beyond their number.

use std::time::{Duration, Instant};

/// The first repeat of a search while nobody is connected; doubles each time.
const LONELY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between searches while nobody is connected.
const LONELY_MAX: Duration = Duration::from_secs(30);
/// The longest wait in the first minutes: most swarms that come up do so while somebody watches.
const LONELY_EARLY: Duration = Duration::from_secs(8);
/// How long that is.
const EARLY: Duration = Duration::from_secs(3 * 60);
/// The wait while a download has peers.
const FETCHING: Duration = Duration::from_secs(5 * 60);
/// A seed announces again this often: within the 30 minutes that announces live in some nodes.
const SEEDING: Duration = Duration::from_secs(20 * 60);

/// The wait in a private network while nobody is there who has anything: a swarm that appears is found within a
/// second, whatever a lost datagram costs.
const PRIVATE_LONELY: Duration = Duration::from_millis(500);
/// The same after an hour: whoever appears hears of us by himself, since we are announced.
const PRIVATE_PATIENT: Duration = Duration::from_secs(2);
/// When that begins.
const PRIVATE_WATCHED: Duration = Duration::from_secs(60 * 60);
/// The wait for each one else who waits, where that is more: the nodes closest to the swarm are searched for a
/// thousand times a second by all of them together, however many they are: about a hundredth of a core each.
const PRIVATE_EACH: Duration = Duration::from_millis(1);
/// The wait in a private network while a download has peers.
const PRIVATE_FETCHING: Duration = Duration::from_secs(5);
/// The same for each peer that was found: two hundred searches a second.
const PRIVATE_EACH_FETCHING: Duration = Duration::from_millis(5);
/// The longest that either becomes.
const PRIVATE_MAX: Duration = Duration::from_secs(30);
/// A seed's wait in a private network: nodes that are nearer to the torrent come with every machine that starts.
const PRIVATE_SEEDING: Duration = Duration::from_secs(2 * 60);
/// How often one who waits there announces himself: he searches far more often, and his announce lives for an hour.
const PRIVATE_ANNOUNCE: Duration = Duration::from_secs(20);

/// How a transfer stands when its search has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// It has everything.
    pub is_seeding: bool,
    /// Peers that are connected.
    pub connected: usize,
    /// Of these, the ones that have something we lack.
    pub interesting: usize,
    /// The announce is held by somebody, or none is wanted.
    pub is_announced: bool,
    /// Peers that the search found.
    pub found: usize,
}

/// The waits of one transfer.
#[derive(Clone, Debug)]
pub struct Rhythm {
    is_private: bool,
    begun: Instant,
    wait: Duration,
    announced: Option<Instant>,
}

impl Rhythm {
    /// Of a transfer that begins now, in a private network or the public one.
    pub fn new(now: Instant, is_private: bool) -> Self {
        Self { is_private, begun: now, wait: LONELY_FIRST, announced: None }
    }

    /// Whether the search that begins now is to announce us, too.
    pub fn announces(&mut self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < PRIVATE_ANNOUNCE;
        let announces = !(self.is_private && self.announced.is_some_and(recent));
        if announces {
            self.announced = Some(now);
        }
        announces
    }

    /// The network is another one than before: the next search announces us.
    pub fn on_change(&mut self) {
        self.announced = None;
    }

    /// A search has ended; how long to wait for the next.
    pub fn pause(&mut self, now: Instant, standing: Standing) -> Duration {
        let since = now.saturating_duration_since(self.begun);
        if !standing.is_announced {
            // The next search shall try again.
            self.announced = None;
        }
        if self.is_private { private_pause(since, standing) } else { self.public_pause(since, standing) }
    }

    fn public_pause(&mut self, since: Duration, standing: Standing) -> Duration {
        let pause = match (standing.connected, standing.is_announced) {
            (_, true) if standing.is_seeding => SEEDING,
            (1.., true) => FETCHING,
            _ => self.wait,
        };
        self.wait = (self.wait * 2).min(if since < EARLY { LONELY_EARLY } else { LONELY_MAX });
        pause
    }
}

fn private_pause(since: Duration, standing: Standing) -> Duration {
    let found = u32::try_from(standing.found).unwrap_or(u32::MAX);
    let (least, each) = match (standing.is_announced, standing.interesting) {
        (true, _) if standing.is_seeding => return PRIVATE_SEEDING,
        (true, 1..) => (PRIVATE_FETCHING, PRIVATE_EACH_FETCHING),
        _ if since < PRIVATE_WATCHED => (PRIVATE_LONELY, PRIVATE_EACH),
        _ => (PRIVATE_PATIENT, PRIVATE_EACH),
    };
    least.max(each.saturating_mul(found)).min(PRIVATE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn in_public_the_waits_double_while_nobody_is_there() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(now, false);
        let mut waits = Vec::new();
        let mut at = now;
        while at < now + secs(400) {
            assert!(rhythm.announces(at));
            let wait = rhythm.pause(at, Standing { is_announced: true, ..Standing::default() });
            waits.push(wait.as_secs());
            at += wait;
        }
        assert_eq!(waits[..5], [1, 2, 4, 8, 8]);
        assert_eq!(waits[waits.len() - 3..], [30, 30, 30]);
        let standing = Standing { connected: 1, is_announced: true, ..Standing::default() };
        assert_eq!(rhythm.pause(at, standing), FETCHING);
        assert_eq!(rhythm.pause(at, Standing { is_announced: false, ..standing }), LONELY_MAX);
        assert_eq!(rhythm.pause(at, Standing { is_seeding: true, ..standing }), SEEDING);
    }

    #[test]
    fn in_private_one_who_waits_looks_each_second_and_a_thousand_not_more_together() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(now, true);
        let waits = |found| Standing { found, is_announced: true, connected: 5, ..Standing::default() };
        for found in [0, 10, 490] {
            assert_eq!(rhythm.pause(now, waits(found)), PRIVATE_LONELY);
        }
        for found in [1000_usize, 2000, 4096] {
            let questions = found as f64 / rhythm.pause(now, waits(found)).as_secs_f64();
            assert!(questions <= 1001.0, "{found}: {questions}");
        }
        assert_eq!(rhythm.pause(now + secs(7200), waits(1)), PRIVATE_PATIENT);
        let fetching = |found| Standing { interesting: 3, ..waits(found) };
        assert_eq!(rhythm.pause(now, fetching(2)), PRIVATE_FETCHING);
        assert_eq!(rhythm.pause(now, fetching(4000)), secs(20));
        assert_eq!(rhythm.pause(now, Standing { is_seeding: true, ..waits(2) }), PRIVATE_SEEDING);
    }

    #[test]
    fn in_private_not_every_search_announces_but_every_change_does() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(now, true);
        assert!(rhythm.announces(now) && !rhythm.announces(now + secs(19)));
        assert!(rhythm.announces(now + secs(20)) && !rhythm.announces(now + secs(21)));
        rhythm.on_change();
        assert!(rhythm.announces(now + secs(22)) && !rhythm.announces(now + secs(23)));
        // Nobody holds it.
        rhythm.pause(now + secs(23), Standing::default());
        assert!(rhythm.announces(now + secs(24)));
    }
}
