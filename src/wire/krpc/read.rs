//! Reading a datagram: tolerant of order, of unknown keys and of what follows.

use super::{
    Body, ErrorBody, Filters, Message, Method, ParseError, Put, Query, Reply, Samples, Signed, Want, code,
};
use crate::id::Id160;
use crate::wire::bencode::{Limits, Value};
use crate::wire::bloom::FILTER_BYTES;
use crate::wire::compact;

impl<'a> Message<'a> {
    /// Reads one datagram; bytes behind the message are ignored.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError<'a>> {
        let (top, _) = Value::parse_prefix(datagram, Limits::MESSAGE)?;
        let field = |key: &[u8]| top.get(key);
        let transaction = field(b"t").and_then(|v| v.bytes()).ok_or(ParseError::Shape("no t"))?;
        let body = match field(b"y").and_then(|v| v.bytes()) {
            Some(b"q") => {
                parse_query(top).map(Body::Query).map_err(|what| ParseError::Query { transaction, what })?
            }
            Some(b"r") => Body::Reply(parse_reply(top).ok_or(ParseError::Shape("no r with an id"))?),
            Some(b"e") => Body::Error(parse_error(top)),
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
}

fn id_of(arguments: Value<'_>, key: &[u8]) -> Option<Id160> {
    arguments.get(key).and_then(|v| Id160::from_slice(v.bytes()?))
}

fn parse_query(top: Value<'_>) -> Result<Query<'_>, &'static str> {
    let name = top.get(b"q").and_then(|v| v.bytes()).ok_or("no q")?;
    let a = top.get(b"a").filter(Value::is_dict).ok_or("no arguments")?;
    let id = id_of(a, b"id").ok_or("id is not 20 bytes")?;
    let (target, info_hash) = (id_of(a, b"target"), id_of(a, b"info_hash"));
    let flag = |key: &[u8]| a.get(key).and_then(|v| v.int()).is_some_and(|n| n != 0);
    let method = match name {
        b"ping" => Method::Ping,
        b"find_node" => Method::FindNode { target: target.ok_or(NO_TARGET)? },
        b"get_peers" => Method::GetPeers {
            info_hash: info_hash.ok_or(NO_INFO_HASH)?,
            scrape: flag(b"scrape"),
            no_seeds: flag(b"noseed"),
        },
        b"get" => Method::Get { target: target.ok_or(NO_TARGET)?, seq: a.get(b"seq").and_then(|v| v.int()) },
        b"put" => Method::Put(parse_put(a)?),
        b"sample_infohashes" => Method::SampleInfohashes { target: target.ok_or(NO_TARGET)? },
        b"announce_peer" => Method::AnnouncePeer {
            info_hash: info_hash.ok_or(NO_INFO_HASH)?,
            implied_port: flag(b"implied_port"),
            seed: flag(b"seed"),
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

const NO_TARGET: &str = "target is not 20 bytes";
const NO_INFO_HASH: &str = "info_hash is not 20 bytes";

fn parse_put(a: Value<'_>) -> Result<Put<'_>, &'static str> {
    let bytes = |key: &[u8]| a.get(key).and_then(|v| v.bytes());
    let int = |key: &[u8]| a.get(key).and_then(|v| v.int());
    let signed = match bytes(b"k") {
        None => None,
        Some(key) => Some(Signed {
            key: key.try_into().map_err(|_| "k is not 32 bytes")?,
            seq: int(b"seq").ok_or("no seq")?,
            signature: bytes(b"sig").and_then(|s| s.try_into().ok()).ok_or("sig is not 64 bytes")?,
        }),
    };
    Ok(Put {
        token: bytes(b"token").ok_or("no token")?,
        value: a.get(b"v").ok_or("no v")?.raw(),
        signed,
        cas: int(b"cas"),
        salt: bytes(b"salt").unwrap_or_default(),
    })
}

/// Entries of `want` that are looked at: there are two families.
const MAX_WANT: usize = 4;

fn parse_reply(top: Value<'_>) -> Option<Reply<'_>> {
    let r = top.get(b"r").filter(Value::is_dict)?;
    let (mut reply, mut id) = (Reply::default(), None);
    let (mut seeds, mut peers) = (None, None);
    let (mut key, mut signature) = (None, None);
    let (mut interval, mut num, mut samples) = (None, None, None);
    // One pass: a reply is read far more often than it has keys that matter. The first of a repeated key counts.
    for (name, value) in r.dict().take(MAX_REPLY_KEYS) {
        match name {
            b"id" => id = id.or(value.bytes().and_then(Id160::from_slice)),
            b"nodes" if reply.nodes.is_empty() => reply.nodes = value.bytes().unwrap_or_default(),
            b"nodes6" if reply.nodes6.is_empty() => reply.nodes6 = value.bytes().unwrap_or_default(),
            b"token" => reply.token = reply.token.or(value.bytes()),
            b"values" if reply.values.is_empty() && value.is_list() => reply.values = value.raw(),
            b"v" if reply.value.is_empty() => reply.value = value.raw(),
            b"BFsd" => seeds = seeds.or(value.bytes().and_then(|b| b.try_into().ok())),
            b"BFpe" => peers = peers.or(value.bytes().and_then(|b| b.try_into().ok())),
            b"k" => key = key.or(value.bytes().and_then(|b| b.try_into().ok())),
            b"sig" => signature = signature.or(value.bytes().and_then(|b| b.try_into().ok())),
            b"seq" => reply.seq = reply.seq.or(value.int()),
            b"interval" => interval = interval.or(value.int()),
            b"num" => num = num.or(value.int()),
            b"samples" => samples = samples.or(value.bytes()),
            _ => {}
        }
    }
    reply.id = id?;
    // A swarm may have members of one kind only, and some nodes then send one filter.
    reply.filters = (seeds.is_some() || peers.is_some())
        .then(|| Filters { seeds: seeds.unwrap_or(&NOBODY), peers: peers.unwrap_or(&NOBODY) });
    reply.signed = match (key, reply.seq, signature) {
        (Some(key), Some(seq), Some(signature)) => Some(Signed { key, seq, signature }),
        _ => None,
    };
    reply.samples =
        samples.map(|hashes| Samples { interval: interval.unwrap_or(0), num: num.unwrap_or(0), hashes });
    Some(reply)
}

/// Keys of a reply that are looked at: all BEPs together define fewer.
const MAX_REPLY_KEYS: usize = 64;
/// The filter without members.
static NOBODY: [u8; FILTER_BYTES] = [0; FILTER_BYTES];

fn parse_error(top: Value<'_>) -> ErrorBody<'_> {
    let mut list = top.get(b"e").into_iter().flat_map(|v| v.list());
    ErrorBody {
        code: list.next().and_then(|v| v.int()).unwrap_or(code::GENERIC),
        text: list.next().and_then(|v| v.bytes()).unwrap_or_default(),
    }
}
