//! KRPC, the message format of the mainline DHT (BEPs 5, 32, 33, 42, 43, 44 and 51).
//!
//! Owns the mapping between one datagram and one [`Message`], both ways, borrowing from the datagram.
//! Must not know a routing table, a transaction or an address family's policy. Written strictly (sorted
//! keys, BEP 3), read tolerantly: unsorted keys, unknown keys and bytes behind the message are accepted,
//! as real nodes send them. Each method is one variant of [`Method`] and each reply key one field of
//! [`Reply`], so an extension adds a variant or a field and a line in the reader and the writer.

mod read;

use std::net::SocketAddr;

use thiserror::Error;

use super::bencode::{BencodeError, Limits, Value, Writer};
use super::bloom::FILTER_BYTES;
use super::compact::{self, Contact};
use crate::id::{Id160, InfoHash, NodeId};

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `t`: chosen by the asker, echoed byte for byte whatever its length.
    pub transaction: &'a [u8],
    /// `v`: the sender's software, optional and never to be trusted.
    pub version: Option<[u8; 4]>,
    /// `ip`: in replies, the asker's address as the sender saw it (BEP 42).
    pub ip: Option<SocketAddr>,
    /// `ro`: the sender answers no queries and wants to be in no table (BEP 43).
    pub read_only: bool,
    /// `y`, with what belongs to it.
    pub body: Body<'a>,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// `q`
    Query(Query<'a>),
    /// `r`
    Reply(Reply<'a>),
    /// `e`
    Error(ErrorBody<'a>),
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Who asks.
    pub id: NodeId,
    /// Which families of nodes it wants (BEP 32).
    pub want: Want,
    /// What it asks.
    pub method: Method<'a>,
}

/// `want` (BEP 32). Neither means: the family the query came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// `n4`
    pub v4: bool,
    /// `n6`
    pub v6: bool,
}

/// A query's name and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// `ping`
    Ping,
    /// `find_node`
    FindNode {
        /// Nodes close to this id are wanted.
        target: Id160,
    },
    /// `get_peers`
    GetPeers {
        /// Peers of this torrent are wanted.
        info_hash: InfoHash,
        /// The Bloom filters are wanted too (BEP 33).
        scrape: bool,
        /// Peers that have everything are of no use (BEP 33).
        no_seeds: bool,
    },
    /// `announce_peer`
    AnnouncePeer {
        /// The torrent.
        info_hash: InfoHash,
        /// Where the peer listens, unless `implied_port`.
        port: u16,
        /// The datagram's source port is the peer's port.
        implied_port: bool,
        /// The peer has everything (BEP 33).
        seed: bool,
        /// What `get_peers` gave.
        token: &'a [u8],
    },
    /// `get` (BEP 44)
    Get {
        /// The item.
        target: Id160,
        /// Only a version newer than this is wanted.
        seq: Option<i64>,
    },
    /// `put` (BEP 44)
    Put(Put<'a>),
    /// `sample_infohashes` (BEP 51)
    SampleInfohashes {
        /// Nodes close to this id are wanted besides.
        target: Id160,
    },
    /// Any other query, with its `target` or `info_hash` where it has one.
    Other {
        /// `q` as it came.
        name: &'a [u8],
        /// What a node that does not know the query may answer as `find_node`.
        target: Option<Id160>,
    },
}

/// The arguments of `put` (BEP 44).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// What `get` gave.
    pub token: &'a [u8],
    /// The value as it stands in the message.
    pub value: &'a [u8],
    /// What makes it mutable.
    pub signed: Option<Signed<'a>>,
    /// Replace this version only.
    pub cas: Option<i64>,
    /// Empty where there is none.
    pub salt: &'a [u8],
}

/// Whose a mutable item is, and which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// `k`
    pub key: &'a [u8; 32],
    /// `seq`
    pub seq: i64,
    /// `sig`
    pub signature: &'a [u8; 64],
}

/// The filters of a swarm (BEP 33).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters<'a> {
    /// `BFsd`
    pub seeds: &'a [u8; FILTER_BYTES],
    /// `BFpe`
    pub peers: &'a [u8; FILTER_BYTES],
}

/// The answer to `sample_infohashes` (BEP 51).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Samples<'a> {
    /// Seconds for which the answer stays the same.
    pub interval: i64,
    /// Info-hashes in store.
    pub num: i64,
    /// Some of them, 20 bytes each.
    pub hashes: &'a [u8],
}

/// An answer. Fields that are absent are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Who answers.
    pub id: NodeId,
    /// IPv4 nodes, 26 bytes each.
    pub nodes: &'a [u8],
    /// IPv6 nodes, 38 bytes each (BEP 32).
    pub nodes6: &'a [u8],
    /// Permission to announce here.
    pub token: Option<&'a [u8]>,
    /// Peers: the bencoded list of strings, as it stands in the message.
    pub values: &'a [u8],
    /// How many there are (BEP 33).
    pub filters: Option<Filters<'a>>,
    /// An item's value, bencoded, as it stands in the message (BEP 44).
    pub value: &'a [u8],
    /// Whose it is, if mutable.
    pub signed: Option<Signed<'a>>,
    /// The version in store, where the value was not worth sending.
    pub seq: Option<i64>,
    /// Info-hashes in store (BEP 51).
    pub samples: Option<Samples<'a>>,
}

impl<'a> Reply<'a> {
    /// The nodes of both families.
    pub fn contacts(&self) -> impl Iterator<Item = Contact> + 'a {
        compact::nodes_v4(self.nodes).chain(compact::nodes_v6(self.nodes6))
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = SocketAddr> + 'a {
        let list = Value::parse(self.values, Limits::MESSAGE).ok();
        list.into_iter().flat_map(|v| v.list()).filter_map(|v| v.bytes()).flat_map(compact::peers)
    }
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// What went wrong, see [`code`].
    pub code: i64,
    /// The same in words.
    pub text: &'a [u8],
}

/// Error codes (BEP 5, "Errors").
pub mod code {
    /// Generic error.
    pub const GENERIC: i64 = 201;
    /// Server error.
    pub const SERVER: i64 = 202;
    /// Malformed packet, invalid arguments or a bad token.
    pub const PROTOCOL: i64 = 203;
    /// Method unknown.
    pub const METHOD: i64 = 204;
    /// The value of an item is too big (BEP 44, "Errors").
    pub const TOO_BIG: i64 = 205;
    /// Its signature does not hold (BEP 44).
    pub const SIGNATURE: i64 = 206;
    /// Its salt is too big (BEP 44).
    pub const SALT: i64 = 207;
    /// Another version than the one to be replaced is in store (BEP 44).
    pub const CAS: i64 = 301;
    /// A newer version is in store (BEP 44).
    pub const OLD_SEQ: i64 = 302;
}

/// Why a datagram is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError<'a> {
    /// Not bencoded at all.
    #[error("not bencoded: {0}")]
    Bencode(#[from] BencodeError),
    /// Bencoded, but no KRPC message; nothing in it could be answered.
    #[error("no KRPC message: {0}")]
    Shape(&'static str),
    /// A query with unusable arguments, to be answered with error 203.
    #[error("malformed query: {what}")]
    Query {
        /// The `t` to answer with.
        transaction: &'a [u8],
        /// What is wrong with it.
        what: &'static str,
    },
}

impl<'a> Message<'a> {
    /// Appends the message, keys sorted.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let mut scratch = Vec::new();
        let mut w = Writer::new(out);
        w.begin_dict();
        match &self.body {
            Body::Query(query) => emit_arguments(query, &mut w),
            Body::Error(error) => {
                w.bytes(b"e").begin_list().int(error.code).bytes(error.text).end();
            }
            Body::Reply(_) => {}
        }
        if let Some(ip) = self.ip {
            compact::write_peer(ip, &mut scratch);
            w.bytes(b"ip").bytes(&scratch);
        }
        let kind: &[u8] = match &self.body {
            Body::Query(query) => {
                w.bytes(b"q").bytes(query.method.name());
                b"q"
            }
            Body::Reply(reply) => {
                emit_reply(reply, &mut w);
                b"r"
            }
            Body::Error(_) => b"e",
        };
        if self.read_only {
            w.bytes(b"ro").int(1);
        }
        w.bytes(b"t").bytes(self.transaction);
        if let Some(version) = &self.version {
            w.bytes(b"v").bytes(version);
        }
        w.bytes(b"y").bytes(kind).end();
    }
}

impl<'a> Method<'a> {
    /// `q`
    pub fn name(&self) -> &'a [u8] {
        match self {
            Method::Ping => b"ping",
            Method::FindNode { .. } => b"find_node",
            Method::GetPeers { .. } => b"get_peers",
            Method::AnnouncePeer { .. } => b"announce_peer",
            Method::Get { .. } => b"get",
            Method::Put(_) => b"put",
            Method::SampleInfohashes { .. } => b"sample_infohashes",
            Method::Other { name, .. } => name,
        }
    }
}

fn emit_put(id: &NodeId, put: &Put<'_>, w: &mut Writer<'_>) {
    w.bytes(b"a").begin_dict();
    if let Some(cas) = put.cas {
        w.bytes(b"cas").int(cas);
    }
    w.bytes(b"id").bytes(id.as_bytes());
    if let Some(signed) = &put.signed {
        w.bytes(b"k").bytes(signed.key);
        if !put.salt.is_empty() {
            w.bytes(b"salt").bytes(put.salt);
        }
        w.bytes(b"seq").int(signed.seq).bytes(b"sig").bytes(signed.signature);
    }
    w.bytes(b"token").bytes(put.token).bytes(b"v").raw(put.value).end();
}

fn emit_arguments(query: &Query<'_>, w: &mut Writer<'_>) {
    if let Method::Put(put) = &query.method {
        return emit_put(&query.id, put, w);
    }
    w.bytes(b"a").begin_dict().bytes(b"id").bytes(query.id.as_bytes());
    match &query.method {
        Method::Ping | Method::Other { target: None, .. } | Method::Put(_) => {}
        Method::FindNode { target }
        | Method::Other { target: Some(target), .. }
        | Method::SampleInfohashes { target } => {
            w.bytes(b"target").bytes(target.as_bytes());
        }
        Method::GetPeers { info_hash, scrape, no_seeds } => {
            w.bytes(b"info_hash").bytes(info_hash.as_bytes());
            if *no_seeds {
                w.bytes(b"noseed").int(1);
            }
            if *scrape {
                w.bytes(b"scrape").int(1);
            }
        }
        Method::AnnouncePeer { info_hash, port, implied_port, seed, token } => {
            if *implied_port {
                w.bytes(b"implied_port").int(1);
            }
            w.bytes(b"info_hash").bytes(info_hash.as_bytes());
            w.bytes(b"port").int(i64::from(*port));
            if *seed {
                w.bytes(b"seed").int(1);
            }
            w.bytes(b"token").bytes(token);
        }
        Method::Get { target, seq } => {
            if let Some(seq) = seq {
                w.bytes(b"seq").int(*seq);
            }
            w.bytes(b"target").bytes(target.as_bytes());
        }
    }
    if query.want != Want::default() {
        w.bytes(b"want").begin_list();
        if query.want.v4 {
            w.bytes(b"n4");
        }
        if query.want.v6 {
            w.bytes(b"n6");
        }
        w.end();
    }
    w.end();
}

fn emit_reply(reply: &Reply<'_>, w: &mut Writer<'_>) {
    w.bytes(b"r").begin_dict();
    if let Some(filters) = &reply.filters {
        w.bytes(b"BFpe").bytes(filters.peers).bytes(b"BFsd").bytes(filters.seeds);
    }
    w.bytes(b"id").bytes(reply.id.as_bytes());
    if let Some(samples) = &reply.samples {
        w.bytes(b"interval").int(samples.interval);
    }
    if let Some(signed) = &reply.signed {
        w.bytes(b"k").bytes(signed.key);
    }
    if !reply.nodes.is_empty() {
        w.bytes(b"nodes").bytes(reply.nodes);
    }
    if !reply.nodes6.is_empty() {
        w.bytes(b"nodes6").bytes(reply.nodes6);
    }
    if let Some(samples) = &reply.samples {
        w.bytes(b"num").int(samples.num).bytes(b"samples").bytes(samples.hashes);
    }
    if let Some(seq) = reply.signed.map(|s| s.seq).or(reply.seq) {
        w.bytes(b"seq").int(seq);
    }
    if let Some(signed) = &reply.signed {
        w.bytes(b"sig").bytes(signed.signature);
    }
    if let Some(token) = reply.token {
        w.bytes(b"token").bytes(token);
    }
    if !reply.value.is_empty() {
        w.bytes(b"v").raw(reply.value);
    }
    if !reply.values.is_empty() {
        w.bytes(b"values").raw(reply.values);
    }
    w.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Id160 = Id160(*b"abcdefghij0123456789");
    const OTHER: Id160 = Id160(*b"mnopqrstuvwxyz123456");

    fn round_trip(text: &str, body: Body<'_>) {
        let message = Message { transaction: b"aa", version: None, ip: None, read_only: false, body };
        let mut out = Vec::new();
        message.emit(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), text);
        assert_eq!(Message::parse(text.as_bytes()), Ok(message));
    }

    fn query(method: Method<'_>) -> Body<'_> {
        Body::Query(Query { id: ASKER, want: Want::default(), method })
    }

    #[test]
    fn queries_are_byte_exact_with_bep_5() {
        round_trip("d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", query(Method::Ping));
        round_trip(
            "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
            query(Method::FindNode { target: OTHER }),
        );
        round_trip(
            "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
            query(Method::GetPeers { info_hash: OTHER, scrape: false, no_seeds: false }),
        );
        round_trip(
            "d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
            query(Method::AnnouncePeer {
                info_hash: OTHER,
                port: 6881,
                implied_port: true,
                seed: false,
                token: b"aoeusnth",
            }),
        );
    }

    #[test]
    fn replies_are_byte_exact_with_bep_5() {
        round_trip(
            "d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re",
            Body::Reply(Reply { id: OTHER, ..Reply::default() }),
        );
        let reply =
            Reply { id: ASKER, token: Some(b"aoeusnth"), values: b"l6:axje.u6:idhtnme", ..Reply::default() };
        round_trip(
            "d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re",
            Body::Reply(reply),
        );
        assert_eq!(
            reply.peers().map(|p| p.to_string()).collect::<Vec<_>>(),
            ["97.120.106.101:11893", "105.100.104.116:28269"]
        );
    }

    #[test]
    fn scrapes_and_seeds_are_written_as_bep_33_shows() {
        round_trip(
            "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234566:noseedi1e6:scrapei1ee1:q9:get_peers1:t2:aa1:y1:qe",
            query(Method::GetPeers { info_hash: OTHER, scrape: true, no_seeds: true }),
        );
        round_trip(
            "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e4:seedi1e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
            query(Method::AnnouncePeer {
                info_hash: OTHER,
                port: 6881,
                implied_port: false,
                seed: true,
                token: b"aoeusnth",
            }),
        );
        let (peers, seeds) = ([b'p'; FILTER_BYTES], [b's'; FILTER_BYTES]);
        let filters = Some(Filters { seeds: &seeds, peers: &peers });
        let (p, s) = ("p".repeat(FILTER_BYTES), "s".repeat(FILTER_BYTES));
        round_trip(
            &format!("d1:rd4:BFpe256:{p}4:BFsd256:{s}2:id20:mnopqrstuvwxyz1234565:token1:xe1:t2:aa1:y1:re"),
            Body::Reply(Reply { id: OTHER, filters, token: Some(b"x"), ..Reply::default() }),
        );
    }

    #[test]
    fn items_are_written_as_bep_44_shows() {
        round_trip(
            "d1:ad2:id20:abcdefghij01234567893:seqi4e6:target20:mnopqrstuvwxyz123456e1:q3:get1:t2:aa1:y1:qe",
            query(Method::Get { target: OTHER, seq: Some(4) }),
        );
        let put = Put { token: b"tok", value: b"12:Hello World!", signed: None, cas: None, salt: b"" };
        round_trip(
            "d1:ad2:id20:abcdefghij01234567895:token3:tok1:v12:Hello World!e1:q3:put1:t2:aa1:y1:qe",
            query(Method::Put(put)),
        );
        let (key, signature) = ([b'k'; 32], [b's'; 64]);
        let signed = Some(Signed { key: &key, seq: 4, signature: &signature });
        let (k, s) = ("k".repeat(32), "s".repeat(64));
        round_trip(
            &format!(
                "d1:ad3:casi3e2:id20:abcdefghij01234567891:k32:{k}4:salt6:foobar3:seqi4e3:sig64:{s}5:token3:tok1:v12:Hello World!e1:q3:put1:t2:aa1:y1:qe"
            ),
            query(Method::Put(Put { signed, cas: Some(3), salt: b"foobar", ..put })),
        );
        let reply = Reply { id: OTHER, token: Some(b"x"), value: b"i5e", ..Reply::default() };
        round_trip("d1:rd2:id20:mnopqrstuvwxyz1234565:token1:x1:vi5ee1:t2:aa1:y1:re", Body::Reply(reply));
        round_trip(
            &format!(
                "d1:rd2:id20:mnopqrstuvwxyz1234561:k32:{k}5:nodes26:abcdefghijklmnopqrstuvwxyz3:seqi4e3:sig64:{s}5:token1:x1:vi5ee1:t2:aa1:y1:re"
            ),
            Body::Reply(Reply { signed, seq: Some(4), nodes: b"abcdefghijklmnopqrstuvwxyz", ..reply }),
        );
    }

    #[test]
    fn samples_are_written_as_bep_51_shows() {
        round_trip(
            "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q17:sample_infohashes1:t2:aa1:y1:qe",
            query(Method::SampleInfohashes { target: OTHER }),
        );
        let samples = Some(Samples { interval: 600, num: 9, hashes: OTHER.as_bytes() });
        round_trip(
            "d1:rd2:id20:mnopqrstuvwxyz1234568:intervali600e5:nodes26:abcdefghijklmnopqrstuvwxyz3:numi9e7:samples20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re",
            Body::Reply(Reply {
                id: OTHER,
                samples,
                nodes: b"abcdefghijklmnopqrstuvwxyz",
                ..Reply::default()
            }),
        );
    }

    #[test]
    fn errors_are_byte_exact_with_bep_5() {
        round_trip(
            "d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",
            Body::Error(ErrorBody { code: code::GENERIC, text: b"A Generic Error Ocurred" }),
        );
    }

    #[test]
    fn unsorted_keys_unknown_keys_and_trailing_bytes_are_read() {
        let text = b"d1:y1:q1:t3:xyz1:q4:ping1:zi9e1:ad1:ai1e2:id20:abcdefghij0123456789ee\0\0junk";
        let message = Message::parse(text).unwrap();
        assert_eq!((message.transaction, message.body), (&b"xyz"[..], query(Method::Ping)));
    }

    #[test]
    fn top_level_extras_survive() {
        let message = Message {
            transaction: &[0; 40],
            version: Some(*b"LT\x02\x01"),
            ip: Some("[::1]:9".parse().unwrap()),
            read_only: true,
            body: Body::Query(Query {
                id: ASKER,
                want: Want { v4: true, v6: true },
                method: Method::Other { name: b"vote", target: Some(OTHER) },
            }),
        };
        let mut out = Vec::new();
        message.emit(&mut out);
        assert_eq!(Message::parse(&out), Ok(message));
        assert!(out.ends_with(b"1:v4:LT\x02\x011:y1:qe"));
    }

    #[test]
    fn malformed_queries_keep_their_transaction() {
        for (text, what) in [
            ("d1:ad2:id3:abce1:q4:ping1:t1:x1:y1:qe", "id is not 20 bytes"),
            ("d1:q4:ping1:t1:x1:y1:qe", "no arguments"),
            ("d1:ad2:id20:abcdefghij0123456789e1:q9:find_node1:t1:x1:y1:qe", "target is not 20 bytes"),
        ] {
            assert_eq!(Message::parse(text.as_bytes()), Err(ParseError::Query { transaction: b"x", what }));
        }
        assert_eq!(Message::parse(b"d1:y1:qe"), Err(ParseError::Shape("no t")));
        assert_eq!(Message::parse(b"i1e"), Err(ParseError::Shape("no t")));
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_panics(bytes: Vec<u8>, cut in 0usize..200) {
            let _ = Message::parse(&bytes);
            let text = b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re";
            let mixed = [&text[..cut.min(text.len())], &bytes].concat();
            if let Ok(Message { body: Body::Reply(reply), .. }) = Message::parse(&mixed) {
                let _ = (reply.contacts().count(), reply.peers().count());
            }
        }
    }
}
