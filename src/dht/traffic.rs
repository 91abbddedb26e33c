//! What has passed through a node, by kind: queries by method, errors by code, refusals by reason.
//!
//! Owns the names under which all of it is shown. A leaf; must not know the node or how it decides.

use crate::wire::krpc::{Method, code};

/// The words of an error that alone tell a bad token from bad arguments: BEP 5 gives both code 203.
pub const BAD_TOKEN: &str = "bad token";

/// The methods that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ping` (BEP 5).
    Ping,
    /// `find_node` (BEP 5).
    FindNode,
    /// `get_peers` (BEP 5).
    GetPeers,
    /// `announce_peer` (BEP 5).
    AnnouncePeer,
    /// `get` (BEP 44).
    Get,
    /// `put` (BEP 44).
    Put,
    /// `sample_infohashes` (BEP 51).
    SampleInfohashes,
    /// Anything else.
    Other,
}

impl Kind {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Ping,
        Self::FindNode,
        Self::GetPeers,
        Self::AnnouncePeer,
        Self::Get,
        Self::Put,
        Self::SampleInfohashes,
        Self::Other,
    ];

    /// The kind of a query.
    pub fn of(method: &Method<'_>) -> Self {
        match method {
            Method::Ping => Self::Ping,
            Method::FindNode { .. } => Self::FindNode,
            Method::GetPeers { .. } => Self::GetPeers,
            Method::AnnouncePeer { .. } => Self::AnnouncePeer,
            Method::Get { .. } => Self::Get,
            Method::Put(_) => Self::Put,
            Method::SampleInfohashes { .. } => Self::SampleInfohashes,
            Method::Other { .. } => Self::Other,
        }
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::FindNode => "find_node",
            Self::GetPeers => "get_peers",
            Self::AnnouncePeer => "announce_peer",
            Self::Get => "get",
            Self::Put => "put",
            Self::SampleInfohashes => "sample_infohashes",
            Self::Other => "other",
        }
    }
}

/// Why something that came in was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its sender, its network or everyone together asked more than the limits allow.
    RateLimit,
    /// An announce with a token that is not the sender's, or too old.
    BadToken,
    /// A query without its arguments, or with unusable ones.
    BadQuery,
    /// An item that breaks a rule of BEP 44 or comes after a newer one.
    BadItem,
    /// A query of a method that is not known, with nothing in it to answer.
    UnknownMethod,
    /// A datagram that is no message.
    Malformed,
    /// An answer to a question that we did not ask, or not him.
    Unmatched,
    /// A query while this node is read-only (BEP 43).
    ReadOnly,
    /// A query under our own id.
    OwnId,
    /// A query from where nothing can be sent to.
    Unsendable,
    /// A datagram from outside the network's allow-list, which is not looked at.
    Outside,
}

impl Refusal {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::RateLimit,
        Self::BadToken,
        Self::BadQuery,
        Self::BadItem,
        Self::UnknownMethod,
        Self::Malformed,
        Self::Unmatched,
        Self::ReadOnly,
        Self::OwnId,
        Self::Unsendable,
        Self::Outside,
    ];

    /// What an error stands for.
    pub fn of_error(code: i64, text: &str) -> Self {
        match code {
            code::PROTOCOL if text == BAD_TOKEN => Self::BadToken,
            code::METHOD => Self::UnknownMethod,
            // We answer so when there is more to check than we allow ourselves.
            code::GENERIC | code::SERVER => Self::RateLimit,
            205..=207 | 301..=302 => Self::BadItem,
            _ => Self::BadQuery,
        }
    }

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::BadToken => "bad_token",
            Self::BadQuery => "bad_query",
            Self::BadItem => "bad_item",
            Self::UnknownMethod => "unknown_method",
            Self::Malformed => "malformed",
            Self::Unmatched => "unmatched",
            Self::ReadOnly => "read_only",
            Self::OwnId => "own_id",
            Self::Unsendable => "unsendable",
            Self::Outside => "outside",
        }
    }
}

/// The error codes that are told apart (BEP 5, "Errors"; BEP 44, "Errors"); any other counts as the last.
pub const ERROR_CODES: [i64; 10] = [201, 202, 203, 204, 205, 206, 207, 301, 302, 0];

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Queries that strangers sent and we looked at, by [`Kind`].
    pub queries_in: [u64; Kind::ALL.len()],
    /// Queries we sent, by [`Kind`].
    pub queries_out: [u64; Kind::ALL.len()],
    /// Errors that matched a query of ours, by [`ERROR_CODES`].
    pub errors_in: [u64; ERROR_CODES.len()],
    /// Errors we sent, by [`ERROR_CODES`].
    pub errors_out: [u64; ERROR_CODES.len()],
    /// Answers we sent.
    pub replies_out: u64,
    /// Queries of ours that nobody answered.
    pub timeouts: u64,
    /// What was not served, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Payload received.
    pub bytes_in: u64,
    /// Payload sent.
    pub bytes_out: u64,
}

impl Traffic {
    /// A datagram has come.
    pub fn on_receive(&mut self, bytes: usize) {
        self.datagrams_in += 1;
        self.bytes_in += bytes as u64;
    }

    /// A datagram goes out.
    pub fn on_send(&mut self, bytes: usize) {
        self.datagrams_out += 1;
        self.bytes_out += bytes as u64;
    }

    /// A stranger's query is looked at.
    pub fn on_query_in(&mut self, kind: Kind) {
        self.queries_in[kind as usize] += 1;
    }

    /// We ask.
    pub fn on_query_out(&mut self, kind: Kind) {
        self.queries_out[kind as usize] += 1;
    }

    /// Something is not served.
    pub fn on_refusal(&mut self, why: Refusal) {
        self.refused[why as usize] += 1;
    }

    /// A node has answered us with an error.
    pub fn on_error_in(&mut self, code: i64) {
        self.errors_in[code_index(code)] += 1;
    }

    /// We answer with an error.
    pub fn on_error_out(&mut self, code: i64) {
        self.errors_out[code_index(code)] += 1;
    }
}

fn code_index(code: i64) -> usize {
    ERROR_CODES.iter().position(|c| *c == code).unwrap_or(ERROR_CODES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_under_its_own_name() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        for (at, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        let mut traffic = Traffic::default();
        for code in [203, 204, 999, -1] {
            traffic.on_error_out(code);
        }
        assert_eq!(traffic.errors_out, [0, 0, 1, 1, 0, 0, 0, 0, 0, 2]);
    }
}
