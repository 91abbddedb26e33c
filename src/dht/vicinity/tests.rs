use super::*;

const SECRET: [u8; 32] = [1; 32];
const S: Duration = Duration::from_secs(1);

/// Links in virtual time: what is said on one reaches all who are on it, at once.
struct Lan {
    start: Instant,
    now: Instant,
    nodes: Vec<Vicinity>,
    /// Whom each has found, and when.
    found: Vec<BTreeMap<SocketAddr, Instant>>,
    /// Which of them hear each other.
    side: Vec<u8>,
    said: Vec<(Instant, usize, Vec<u8>)>,
}

impl Lan {
    fn new() -> Self {
        let start = Instant::now();
        let (nodes, found, side, said) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { start, now: start, nodes, found, side, said }
    }

    fn add(&mut self, secret: [u8; 32]) -> usize {
        let n = self.nodes.len();
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let mut node = Vicinity::new(LanIdentity::new(secret), 6881, seed);
        node.set_links(self.now, &[Link { index: 1, addresses: vec![ip(n)] }]);
        self.nodes.push(node);
        self.found.push(BTreeMap::new());
        self.side.push(0);
        n
    }

    /// Delivers what is to be said now.
    fn drain(&mut self) {
        loop {
            let mut said = Vec::new();
            for (n, node) in self.nodes.iter_mut().enumerate() {
                while let Some((link, bytes)) = node.poll_transmit() {
                    assert_eq!(link, 1);
                    said.push((self.now, n, bytes));
                }
                while let Some(addr) = node.poll_found() {
                    self.found[n].entry(addr).or_insert(self.now);
                }
            }
            if said.is_empty() {
                return;
            }
            for (_, from, bytes) in &said {
                for (n, node) in self.nodes.iter_mut().enumerate() {
                    if self.side[n] == self.side[*from] {
                        node.handle_datagram(self.now, 1, bytes);
                    }
                }
            }
            self.said.extend(said);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            let next = self.nodes.iter().filter_map(Vicinity::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let now = self.now;
            self.nodes
                .iter_mut()
                .filter(|n| n.poll_timeout().is_some_and(|at| at <= now))
                .for_each(|n| n.handle_timeout(now));
        }
        self.now = end;
    }

    fn found_after(&self, n: usize, of: usize) -> Option<Duration> {
        self.found[n].get(&SocketAddr::new(ip(of), 6881)).map(|at| *at - self.start)
    }
}

fn ip(n: usize) -> IpAddr {
    IpAddr::from([10, 0, (n / 250) as u8, (n % 250) as u8 + 1])
}

#[test]
fn two_that_start_together_find_each_other_at_once() {
    let mut lan = Lan::new();
    let (a, b) = (lan.add(SECRET), lan.add(SECRET));
    lan.run(S);
    assert!(lan.found_after(a, b).unwrap() <= FIRST_WITHIN);
    assert!(lan.found_after(b, a).unwrap() <= FIRST_WITHIN);
    assert_eq!((lan.found[a].len(), lan.found[b].len()), (1, 1), "nobody finds himself");
}

#[test]
fn one_that_comes_later_is_found_by_all_and_finds_all() {
    let mut lan = Lan::new();
    for _ in 0..5 {
        lan.add(SECRET);
    }
    lan.run(S * 100);
    lan.start = lan.now;
    let late = lan.add(SECRET);
    lan.run(S);
    for n in 0..late {
        assert!(lan.found_after(n, late).unwrap() <= FIRST_WITHIN);
        assert!(lan.found_after(late, n).unwrap() <= FIRST_WITHIN + ANSWER_AFTER + ANSWER_WITHIN);
    }
}

/// Not even members are to be seen as such by a stranger who listens.
#[test]
fn a_question_names_nobody_else_and_gets_no_answer_of_ones_own() {
    let mut lan = Lan::new();
    for _ in 0..3 {
        lan.add(SECRET);
    }
    lan.run(S / 2);
    let heard = |n: usize| {
        lan.said.iter().filter(move |(_, from, _)| *from == n).filter_map(|(.., b)| Heard::parse(b))
    };
    for n in 0..3 {
        let questions: Vec<_> =
            heard(n).filter_map(|h| if let Heard::Question(q) = h { Some(q) } else { None }).collect();
        assert_eq!(questions[0].known, [lan.nodes[n].nonce]);
    }
    let mut alone = Lan::new();
    alone.add(SECRET);
    alone.run(S * 10);
    let adverts =
        alone.said.iter().filter(|(.., b)| matches!(Heard::parse(b), Some(Heard::Advert(_)))).count();
    assert_eq!((adverts, alone.said.len()), (2, 5), "two words, three questions");
}

#[test]
fn another_network_is_neither_found_nor_remembered() {
    let mut lan = Lan::new();
    let (a, b) = (lan.add(SECRET), lan.add([2; 32]));
    lan.run(S * 600);
    assert!(lan.found[a].is_empty() && lan.found[b].is_empty());
    assert!(lan.nodes[a].members.is_empty() && lan.nodes[b].members.is_empty());
}

/// A newcomer among two hundred: a few dozen voices at most, not two hundred.
#[test]
fn a_crowd_does_not_answer_in_chorus() {
    let mut lan = Lan::new();
    for _ in 0..200 {
        lan.add(SECRET);
    }
    lan.run(S * 300);
    let before = lan.said.len();
    lan.start = lan.now;
    let late = lan.add(SECRET);
    lan.run(S / 2);
    let voices = lan.said.len() - before;
    // The newcomer's own first word is one of them.
    assert!((ENOUGH_VOICES..40).contains(&voices), "{voices}");
    assert!(lan.found[late].len() >= ENOUGH_VOICES - 1, "{}", lan.found[late].len());
    let greeted = (0..late).filter(|n| lan.found_after(*n, late).is_some()).count();
    assert!((1..50).contains(&greeted), "{greeted}");
}

#[test]
fn members_speak_rarely_and_a_crowd_together_once_a_second() {
    let mut lan = Lan::new();
    let (a, _) = (lan.add(SECRET), lan.add(SECRET));
    lan.run(S * 60);
    let before = lan.said.len();
    lan.run(S * 3600);
    let each = lan.said[before..].iter().filter(|(_, n, _)| *n == a).count();
    assert!((90..=150).contains(&each), "{each} in an hour");
    for _ in 0..98 {
        lan.add(SECRET);
    }
    lan.run(S * 300);
    let before = lan.said.len();
    lan.run(S * 600);
    let all = lan.said.len() - before;
    assert!((400..=800).contains(&all), "{all} in ten minutes");
}

#[test]
fn halves_that_were_apart_for_an_hour_find_together_within_a_minute() {
    for size in [1, 3, 20] {
        let mut lan = Lan::new();
        for _ in 0..2 * size {
            lan.add(SECRET);
        }
        lan.run(S * 60);
        lan.side.iter_mut().step_by(2).for_each(|s| *s = 1);
        lan.run(S * 3600);
        (lan.start, lan.found) = (lan.now, vec![BTreeMap::new(); 2 * size]);
        lan.side.fill(0);
        lan.run(S * 60);
        let crossed = |n: usize| (0..2 * size).any(|m| m % 2 != n % 2 && lan.found_after(n, m).is_some());
        assert!((0..2 * size).any(crossed), "{size} on each side");
    }
}

#[test]
fn who_says_goodbye_is_new_when_he_is_back() {
    let mut lan = Lan::new();
    let (a, b) = (lan.add(SECRET), lan.add(SECRET));
    lan.run(S * 10);
    lan.nodes[b].leave();
    lan.drain();
    assert!(lan.nodes[a].members.is_empty());
    assert_eq!(lan.nodes[b].poll_timeout(), None, "and is quiet then");
    lan.found[a].clear();
    let now = lan.now;
    lan.nodes[b].set_links(now, &[Link { index: 1, addresses: vec![ip(b)] }]);
    lan.run(S);
    assert_eq!(lan.found[a].len(), 1);
}

#[test]
fn another_address_or_a_long_sleep_is_told_at_once() {
    let mut lan = Lan::new();
    let (a, b) = (lan.add(SECRET), lan.add(SECRET));
    lan.run(S * 10);
    let (moved, now, before) = (ip(77), lan.now, lan.said.len());
    let link = Link { index: 1, addresses: vec![moved] };
    lan.nodes[b].set_links(now, std::slice::from_ref(&link));
    lan.run(S / 2);
    assert!(lan.said[before..].iter().any(|(_, n, _)| *n == b));
    // The same links again are no news.
    let (now, before) = (lan.now, lan.said.len());
    lan.nodes[b].set_links(now, std::slice::from_ref(&link));
    lan.run(S / 10);
    assert_eq!(lan.said.len(), before);
    let now = lan.now;
    lan.found[a].clear();
    lan.nodes[a].handle_sleep(now);
    lan.run(S * 2);
    assert_eq!(lan.found[a].keys().collect::<Vec<_>>(), [&SocketAddr::new(moved, 6881)]);
}

/// In an open network everybody knows the secret.
#[test]
fn invented_members_take_bounded_room_and_time() {
    let (now, identity) = (Instant::now(), LanIdentity::new(SECRET));
    let mut node = Vicinity::new(identity.clone(), 6881, [3; 32]);
    node.set_links(now, &[Link { index: 1, addresses: vec![ip(0)] }]);
    let mut rng = Rng::from_u64(5);
    let addresses: Vec<IpAddr> = (1..=MAX_ADDRESSES).map(ip).collect();
    let flood: Vec<_> = (0..3000).map(|_| advert(&identity, rng.bytes(), 6881, &addresses, false)).collect();
    flood.iter().for_each(|bytes| node.handle_datagram(now, 1, bytes));
    assert_eq!((node.members.len(), node.found.len()), (MAX_MEMBERS, MAX_FOUND));
    assert_eq!(node.heard.1, 3000);
    // Whoever really comes is remembered all the same.
    node.handle_datagram(now + S, 1, &advert(&identity, [9; 16], 6881, &[ip(3)], false));
    assert!(node.members.len() == MAX_MEMBERS && node.members.contains_key(&[9; 16]));
    let later = now + S * 7200;
    node.handle_timeout(later);
    assert!(node.members.is_empty(), "they have never spoken again");
}

#[test]
fn addresses_that_mean_nothing_elsewhere_are_left_out() {
    let (now, identity) = (Instant::now(), LanIdentity::new(SECRET));
    let mut node = Vicinity::new(identity.clone(), 6881, [3; 32]);
    node.set_links(now, &[Link { index: 1, addresses: vec![ip(0)] }]);
    let odd = ["fe80::1", "224.0.0.1", "0.0.0.0", "10.0.0.1", "fd00::2"].map(|a| a.parse().unwrap());
    node.handle_datagram(now, 1, &advert(&identity, [7; 16], 6881, &odd, false));
    assert_eq!(node.poll_found(), Some("[fd00::2]:6881".parse().unwrap()));
    assert_eq!(node.poll_found(), None, "not even our own address at our own port");
    node.handle_datagram(now, 2, &advert(&identity, [8; 16], 6881, &[ip(5)], false));
    assert_eq!(node.poll_found(), None, "that link is not ours");
}

#[test]
fn who_is_known_already_need_not_answer_and_who_is_asked_for_answers_at_once() {
    let now = Instant::now();
    let mut node = Vicinity::new(LanIdentity::new(SECRET), 6881, [3; 32]);
    node.set_links(now, &[Link { index: 1, addresses: vec![ip(0)] }]);
    node.handle_timeout(now + S / 10);
    node.handle_timeout(now + S * 2);
    while node.poll_transmit().is_some() {}
    let now = now + S * 5;
    let own = node.nonce;
    let state = |node: &Vicinity| node.links[&1].answer_at;
    node.on_question(now, 1, &Question { everybody: true, names: vec![], known: vec![own] });
    assert_eq!(state(&node), None);
    node.on_question(now, 1, &Question { everybody: true, names: vec![], known: vec![[1; 16]] });
    assert!(state(&node).is_some_and(|at| at >= now + ANSWER_AFTER));
    node.handle_timeout(now + S);
    while node.poll_transmit().is_some() {}
    // Not twice within a second, however often somebody asks.
    let asked = Question { everybody: false, names: vec![own], known: vec![] };
    node.on_question(now + S, 1, &asked);
    assert_eq!(state(&node), Some(now + S + SPEAK_AT_MOST));
    node.on_question(now + S * 3, 1, &asked);
    node.handle_timeout(now + S * 3);
    assert!(node.poll_transmit().is_some());
}

#[test]
fn the_same_seeds_say_the_same() {
    let trace = || {
        let mut lan = Lan::new();
        for _ in 0..30 {
            lan.add(SECRET);
        }
        lan.run(S * 120);
        let start = lan.start;
        lan.said.into_iter().map(|(at, n, bytes)| (at - start, n, bytes)).collect::<Vec<_>>()
    };
    assert_eq!(trace(), trace());
}
