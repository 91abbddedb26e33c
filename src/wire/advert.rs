//! How a node makes itself known on the links it is on: multicast DNS (RFC 6762) with the records of DNS service
//! discovery (RFC 6763), one whole message for each link.
//!
//! Owns the names, the records and their limits. What a message says is taken only where it says all of it: pointer,
//! service, text and addresses, so that nothing of what strangers announce has to be kept. Must not know whose badge
//! is good ([`super::badge`]) or when to speak.

use std::net::IpAddr;

use data_encoding::HEXLOWER;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::badge::{BADGE_BYTES, Badge, NONCE_BYTES, Nonce};

/// Bytes of a message that are looked at: one frame of Ethernet; ours are a third of it.
pub const MAX_ADVERT_BYTES: usize = 1472;
/// Addresses of a node on one link: more than one of a family is rare, and each is tried.
pub const MAX_ADDRESSES: usize = 6;
/// Nodes that need not answer, as a question names them: they fit one frame with room to spare.
pub const MAX_KNOWN: usize = 16;
/// Seconds for which others may remember an announcement; it is repeated before that on a small network.
const TTL_S: u32 = 120;
/// The service's name, "_dhtget._udp.local".
const SERVICE: [&[u8]; 3] = [b"_dhtget", b"_udp", b"local"];
/// Key of the badge in the text record.
const BADGE_KEY: &[u8] = b"b=";

/// A node, as it makes itself known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// Its name, and all that its name says.
    pub nonce: Nonce,
    /// Proof of membership.
    pub badge: Badge,
    /// Where its DHT node listens.
    pub port: u16,
    /// Its addresses on that link.
    pub addresses: Vec<IpAddr>,
    /// It is about to leave.
    pub goodbye: bool,
}

/// What somebody asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// For everybody.
    pub everybody: bool,
    /// For these.
    pub names: Vec<Nonce>,
    /// These need not answer.
    pub known: Vec<Nonce>,
}

/// What is heard on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Somebody makes himself known.
    Advert(Advert),
    /// Somebody asks.
    Question(Question),
}

impl Heard {
    /// Reads a message; nothing where it is not about this service, or says less than all.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !concerns_us(bytes) {
            return None;
        }
        let message = Message::from_vec(bytes).ok()?;
        match message.metadata.message_type {
            MessageType::Query => Question::read(&message).map(Self::Question),
            MessageType::Response => Advert::read(&message).map(Self::Advert),
        }
    }
}

/// Whether a message may be about this service. Most that is said on such a group concerns printers and screens, and
/// this costs less than to read it.
pub fn concerns_us(bytes: &[u8]) -> bool {
    let word = SERVICE[0];
    // A question for a node's addresses names no service, but a host that is called like a nonce.
    let host = |w: &[u8]| usize::from(w[0]) == 2 * NONCE_BYTES && nonce_of(&w[1..]).is_some();
    bytes.len() <= MAX_ADVERT_BYTES
        && (bytes.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
            || bytes.windows(1 + 2 * NONCE_BYTES).any(host))
}

impl Question {
    /// Asks everybody but these to make themselves known.
    pub fn emit(known: &[Nonce]) -> Vec<u8> {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(service(), RecordType::PTR));
        for nonce in known.iter().take(MAX_KNOWN) {
            message.add_answer(pointer(nonce, TTL_S));
        }
        // Fails on names that are too long only; these are not.
        message.to_vec().unwrap_or_default()
    }

    fn read(message: &Message) -> Option<Self> {
        let mut question = Self::default();
        for query in &message.queries {
            let pointers = matches!(query.query_type, RecordType::PTR | RecordType::ANY);
            if query.name == service() {
                question.everybody |= pointers;
            } else if let Some(nonce) = owner(&query.name).or_else(|| host_owner(&query.name)) {
                question.names.push(nonce);
            }
        }
        // RFC 6762, 7.1: an answer is known while more than half of its time is left.
        let fresh = message.answers.iter().filter(|r| r.ttl >= TTL_S / 2);
        question.known = fresh.filter_map(pointed_at).take(MAX_KNOWN).collect();
        (question.everybody || !question.names.is_empty()).then_some(question)
    }
}

impl Advert {
    /// All of it, in one message.
    pub fn emit(&self) -> Vec<u8> {
        let ttl = if self.goodbye { 0 } else { TTL_S };
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        message.metadata.recursion_desired = false;
        let (instance, host) = (instance(&self.nonce), host(&self.nonce));
        let text = [BADGE_KEY, HEXLOWER.encode(&self.badge).as_bytes()].concat();
        message.add_answer(pointer(&self.nonce, ttl));
        let service = RData::SRV(SRV::new(0, 0, self.port, host.clone()));
        let own = [(instance.clone(), service), (instance, RData::TXT(TXT::from_bytes(vec![&text])))];
        let addresses = self.addresses.iter().take(MAX_ADDRESSES).map(|ip| match ip {
            IpAddr::V4(v4) => (host.clone(), RData::A(A(*v4))),
            IpAddr::V6(v6) => (host.clone(), RData::AAAA(AAAA(*v6))),
        });
        for (name, data) in own.into_iter().chain(addresses) {
            let mut record = Record::from_rdata(name, ttl, data);
            // Nobody else has records of that name.
            record.mdns_cache_flush = true;
            message.add_answer(record);
        }
        // Fails on names that are too long only; these are not.
        message.to_vec().unwrap_or_default()
    }

    fn read(message: &Message) -> Option<Self> {
        let records = || message.answers.iter().chain(&message.additionals);
        let (nonce, pointer) = message.answers.iter().find_map(|r| Some((pointed_at(r)?, r)))?;
        let (instance, host) = (instance(&nonce), host(&nonce));
        let port = records().find_map(|r| match &r.data {
            RData::SRV(srv) if r.name == instance && srv.target == host => Some(srv.port),
            _ => None,
        })?;
        let badge = records().find_map(|r| match &r.data {
            RData::TXT(txt) if r.name == instance => txt.txt_data.iter().find_map(|t| badge_of(t)),
            _ => None,
        })?;
        let addresses = records().filter(|r| r.name == host).filter_map(|r| match &r.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
        let addresses: Vec<IpAddr> = addresses.take(MAX_ADDRESSES).collect();
        (!addresses.is_empty()).then_some(Self { nonce, badge, port, addresses, goodbye: pointer.ttl == 0 })
    }
}

fn name<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Name {
    // Fails on labels that are too long only; these are not.
    Name::from_labels(labels).unwrap_or_default()
}

fn service() -> Name {
    name(SERVICE)
}

fn instance(nonce: &Nonce) -> Name {
    name([HEXLOWER.encode(nonce).as_bytes()].into_iter().chain(SERVICE))
}

/// Random too: the machine's own name is nobody's business.
fn host(nonce: &Nonce) -> Name {
    name([HEXLOWER.encode(nonce).as_bytes(), SERVICE[2]])
}

fn pointer(nonce: &Nonce, ttl: u32) -> Record {
    Record::from_rdata(service(), ttl, RData::PTR(PTR(instance(nonce))))
}

fn nonce_of(label: &[u8]) -> Option<Nonce> {
    HEXLOWER.decode(label).ok()?.try_into().ok()
}

/// Whose instance this is.
fn owner(name: &Name) -> Option<Nonce> {
    let nonce = nonce_of(name.iter().next()?)?;
    (*name == instance(&nonce)).then_some(nonce)
}

/// Whose host this is.
fn host_owner(name: &Name) -> Option<Nonce> {
    let nonce = nonce_of(name.iter().next()?)?;
    (*name == host(&nonce)).then_some(nonce)
}

fn pointed_at(record: &Record) -> Option<Nonce> {
    match &record.data {
        RData::PTR(ptr) if record.name == service() => owner(&ptr.0),
        _ => None,
    }
}

fn badge_of(text: &[u8]) -> Option<Badge> {
    let hex = text.strip_prefix(BADGE_KEY)?;
    let badge: [u8; BADGE_BYTES] = HEXLOWER.decode(hex).ok()?.try_into().ok()?;
    Some(badge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn advert() -> Advert {
        let addresses = ["10.0.0.1", "fd00::1", "2001:db8::1"].map(|a| a.parse().unwrap()).to_vec();
        Advert { nonce: [0xa1; 16], badge: [0xb2; 16], port: 6881, addresses, goodbye: false }
    }

    #[test]
    fn an_advert_is_read_as_it_was_written() {
        for goodbye in [false, true] {
            let advert = Advert { goodbye, ..advert() };
            assert_eq!(Heard::parse(&advert.emit()), Some(Heard::Advert(advert)));
        }
    }

    #[test]
    fn the_largest_advert_and_question_fit_one_frame() {
        let addresses = (0..20).map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])).collect();
        let largest = Advert { addresses, ..advert() }.emit();
        assert!(largest.len() <= 512, "{}", largest.len());
        let Some(Heard::Advert(read)) = Heard::parse(&largest) else { panic!() };
        assert_eq!(read.addresses.len(), MAX_ADDRESSES);
        let known: Vec<Nonce> = (0..40).map(|n| [n; 16]).collect();
        let question = Question::emit(&known);
        assert!(question.len() <= 1232, "{}", question.len());
        let Some(Heard::Question(read)) = Heard::parse(&question) else { panic!() };
        assert_eq!(read, Question { everybody: true, names: vec![], known: known[..MAX_KNOWN].to_vec() });
    }

    /// What a stranger can read: the service, the port, the addresses, and random letters.
    #[test]
    fn an_advert_names_neither_machine_nor_network() {
        let message = Message::from_vec(&advert().emit()).unwrap();
        let random = ["a1".repeat(16), "b2".repeat(16)];
        for record in &message.answers {
            let said = format!("{} {}", record.name, record.data);
            let rest = random.iter().fold(said, |said, r| said.replace(r, ""));
            let expected = ["_dhtget._udp.local", "0 0 6881 .local.", "b=", ".local. "];
            assert!(expected.iter().any(|e| rest.contains(e)), "{rest}");
        }
        assert_eq!(message.answers.len(), 6);
    }

    #[test]
    fn others_questions_for_one_node_are_understood() {
        let nonce = [0xa1; 16];
        for (name, kind) in [(instance(&nonce), RecordType::SRV), (host(&nonce), RecordType::AAAA)] {
            let mut message = Message::new(0, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name, kind));
            let expected = Question { names: vec![nonce], ..Question::default() };
            assert_eq!(Heard::parse(&message.to_vec().unwrap()), Some(Heard::Question(expected)));
        }
    }

    #[test]
    fn what_says_less_than_all_says_nothing() {
        let whole = Message::from_vec(&advert().emit()).unwrap();
        for missing in 0..3 {
            let mut message = whole.clone();
            message.answers.remove(missing);
            assert_eq!(Heard::parse(&message.to_vec().unwrap()), None, "without record {missing}");
        }
        let mut message = whole.clone();
        message.answers.truncate(3);
        assert_eq!(Heard::parse(&message.to_vec().unwrap()), None, "without addresses");
        let mut other = Message::new(0, MessageType::Query, OpCode::Query);
        other.add_query(Query::query(name([&b"_ipp"[..], b"_tcp", b"local"]), RecordType::PTR));
        assert_eq!(Heard::parse(&other.to_vec().unwrap()), None);
        let long = [advert().emit(), vec![0; MAX_ADVERT_BYTES]].concat();
        assert_eq!(Heard::parse(&long), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            Heard::parse(&bytes);
        }

        #[test]
        fn nor_is_a_damaged_advert(at in 0usize..400, to: u8, end in 0usize..400) {
            let mut bytes = advert().emit();
            let length = bytes.len();
            bytes[at % length] = to;
            Heard::parse(&bytes);
            Heard::parse(&bytes[..end % length]);
        }
    }
}
