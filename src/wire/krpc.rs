//! KRPC, the message format of the mainline DHT (BEPs 5, 32, 42 and 43).
//!
//! Owns the mapping between one datagram and one [`Message`], both ways, borrowing from the datagram.
//! Must not know a routing table, a transaction or an address family's policy. Written strictly (sorted
//! keys, BEP 3), read tolerantly: unsorted keys, unknown keys and bytes behind the message are accepted,
//! as real nodes send them. Each method is one variant of [`Method`] and each reply key one field of
//! [`Reply`], so an extension adds a variant or a field and a line in the reader and the writer.

use std::net::SocketAddr;

use thiserror::Error;

use super::bencode::{BencodeError, Fields, Limits, Value, Writer};
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
    },
    /// `announce_peer`
    AnnouncePeer {
        /// The torrent.
        info_hash: InfoHash,
        /// Where the peer listens, unless `implied_port`.
        port: u16,
        /// The datagram's source port is the peer's port.
        implied_port: bool,
        /// What `get_peers` gave.
        token: &'a [u8],
    },
    /// Any other query, with its `target` or `info_hash` where it has one.
    Other {
        /// `q` as it came.
        name: &'a [u8],
        /// What a node that does not know the query may answer as `find_node`.
        target: Option<Id160>,
    },
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
    /// Reads one datagram; bytes behind the message are ignored.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError<'a>> {
        let (top, _) = Value::parse_prefix(datagram, Limits::MESSAGE)?;
        let top = Fields::of(top);
        let field = |key: &[u8]| top.get(key);
        let transaction = field(b"t").and_then(|v| v.bytes()).ok_or(ParseError::Shape("no t"))?;
        let body = match field(b"y").and_then(|v| v.bytes()) {
            Some(b"q") => {
                parse_query(&top).map(Body::Query).map_err(|what| ParseError::Query { transaction, what })?
            }
            Some(b"r") => Body::Reply(parse_reply(&top).ok_or(ParseError::Shape("no r with an id"))?),
            Some(b"e") => Body::Error(parse_error(&top)),
            _ => return Err(ParseError::Shape("y is neither q, r nor e")),
        };
        Ok(Self {
            transaction,
            version: field(b"v").and_then(|v| v.bytes()?.try_into().ok()),
            ip: field(b"ip").and_then(|v| compact::peer(v.bytes()?)),
            read_only: field(b"ro").and_then(|v| v.int()).is_some_and(|n| n != 0),
            body,
        })
    }

    /// Appends the message, keys sorted.
    pub fn emit(&self, out: &mut Vec<u8>) {
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
            let (compact, length) = compact::peer_bytes(ip);
            w.bytes(b"ip").bytes(&compact[..length]);
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
            Method::Other { name, .. } => name,
        }
    }
}

fn id_of(arguments: &Fields<'_>, key: &[u8]) -> Option<Id160> {
    arguments.get(key).and_then(|v| Id160::from_slice(v.bytes()?))
}

fn parse_query<'a>(top: &Fields<'a>) -> Result<Query<'a>, &'static str> {
    let name = top.get(b"q").and_then(|v| v.bytes()).ok_or("no q")?;
    let a = top.get(b"a").filter(Value::is_dict).map(Fields::of).ok_or("no arguments")?;
    let id = id_of(&a, b"id").ok_or("id is not 20 bytes")?;
    let (target, info_hash) = (id_of(&a, b"target"), id_of(&a, b"info_hash"));
    let method = match name {
        b"ping" => Method::Ping,
        b"find_node" => Method::FindNode { target: target.ok_or("target is not 20 bytes")? },
        b"get_peers" => Method::GetPeers { info_hash: info_hash.ok_or("info_hash is not 20 bytes")? },
        b"announce_peer" => Method::AnnouncePeer {
            info_hash: info_hash.ok_or("info_hash is not 20 bytes")?,
            implied_port: a.get(b"implied_port").and_then(|v| v.int()).is_some_and(|n| n != 0),
            // With implied_port the port need not be there, nor make sense (BEP 5, "announce_peer").
            port: a.get(b"port").and_then(|v| v.uint()?.try_into().ok()).unwrap_or(0),
            token: a.get(b"token").and_then(|v| v.bytes()).ok_or("no token")?,
        },
        name => Method::Other { name, target: target.or(info_hash) },
    };
    let mut want = Want::default();
    for family in a.get(b"want").iter().flat_map(Value::list).take(MAX_WANT) {
        want.v4 |= family.bytes() == Some(b"n4");
        want.v6 |= family.bytes() == Some(b"n6");
    }
    Ok(Query { id, want, method })
}

/// Entries of `want` that are looked at: there are two families.
const MAX_WANT: usize = 4;

fn parse_reply<'a>(top: &Fields<'a>) -> Option<Reply<'a>> {
    let r = top.get(b"r").map(Fields::of)?;
    let bytes = |key: &[u8]| r.get(key).and_then(|v| v.bytes());
    Some(Reply {
        id: id_of(&r, b"id")?,
        nodes: bytes(b"nodes").unwrap_or_default(),
        nodes6: bytes(b"nodes6").unwrap_or_default(),
        token: bytes(b"token"),
        values: r.get(b"values").filter(Value::is_list).map(|v| v.raw()).unwrap_or_default(),
    })
}

fn parse_error<'a>(top: &Fields<'a>) -> ErrorBody<'a> {
    let mut list = top.get(b"e").into_iter().flat_map(|v| v.list());
    ErrorBody {
        code: list.next().and_then(|v| v.int()).unwrap_or(code::GENERIC),
        text: list.next().and_then(|v| v.bytes()).unwrap_or_default(),
    }
}

fn emit_arguments(query: &Query<'_>, w: &mut Writer<'_>) {
    w.bytes(b"a").begin_dict().bytes(b"id").bytes(query.id.as_bytes());
    match &query.method {
        Method::Ping | Method::Other { target: None, .. } => {}
        Method::FindNode { target } | Method::Other { target: Some(target), .. } => {
            w.bytes(b"target").bytes(target.as_bytes());
        }
        Method::GetPeers { info_hash } => {
            w.bytes(b"info_hash").bytes(info_hash.as_bytes());
        }
        Method::AnnouncePeer { info_hash, port, implied_port, token } => {
            if *implied_port {
                w.bytes(b"implied_port").int(1);
            }
            w.bytes(b"info_hash").bytes(info_hash.as_bytes());
            w.bytes(b"port").int(i64::from(*port)).bytes(b"token").bytes(token);
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
    w.bytes(b"r").begin_dict().bytes(b"id").bytes(reply.id.as_bytes());
    if !reply.nodes.is_empty() {
        w.bytes(b"nodes").bytes(reply.nodes);
    }
    if !reply.nodes6.is_empty() {
        w.bytes(b"nodes6").bytes(reply.nodes6);
    }
    if let Some(token) = reply.token {
        w.bytes(b"token").bytes(token);
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
            query(Method::GetPeers { info_hash: OTHER }),
        );
        round_trip(
            "d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
            query(Method::AnnouncePeer {
                info_hash: OTHER,
                port: 6881,
                implied_port: true,
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
                method: Method::Other { name: b"sample_infohashes", target: Some(OTHER) },
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
