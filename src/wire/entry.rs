//! Where to enter a network, as a person or a file names it: a host with its port, or a name whose SRV records
//! (RFC 2782) say which hosts and ports.
//!
//! Owns the grammar. Must not look anything up.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::magnet::{HostPort, HostPortError, is_host_name};

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryPoint {
    /// `host:port`.
    Host(HostPort),
    /// `_service._proto.domain`, without a port: that is what the records are for.
    Service(String),
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryPointError {
    /// It is no `host:port`.
    #[error("{0}")]
    Host(#[from] HostPortError),
    /// It begins as the name of a service and does not go on as one.
    #[error("the name of SRV records is written as in _dhtget._udp.example.org")]
    Service,
}

impl EntryPoint {
    /// Whether `text` is meant as the name of SRV records.
    pub fn is_service(text: &str) -> bool {
        text.starts_with('_') && !text.contains(':')
    }
}

impl FromStr for EntryPoint {
    type Err = EntryPointError;

    fn from_str(text: &str) -> Result<Self, EntryPointError> {
        let text = text.trim();
        if !Self::is_service(text) {
            return Ok(Self::Host(text.parse()?));
        }
        let labels: Vec<&str> = text.splitn(3, '.').collect();
        let marked = |label: &&str| label.len() > 1 && label.starts_with('_');
        match labels[..] {
            [service, protocol, domain] if [service, protocol].iter().all(marked) && !domain.is_empty() => {}
            _ => return Err(EntryPointError::Service),
        }
        if is_host_name(text) { Ok(Self::Service(text.to_owned())) } else { Err(EntryPointError::Service) }
    }
}

impl fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Service(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_services_are_told_apart_and_written_as_read() {
        for text in ["1.2.3.4:5", "[::1]:6", "boot.example:7", "_x._udp.example:8"] {
            let entry: EntryPoint = text.parse().unwrap();
            assert!(matches!(entry, EntryPoint::Host(_)), "{text}");
            assert_eq!(entry.to_string(), text);
        }
        for text in ["_dhtget._udp.corp.example", "_dhtget._udp.corp", "_a._b.c."] {
            assert_eq!(text.parse(), Ok(EntryPoint::Service(text.to_owned())));
            assert_eq!(text.parse::<EntryPoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_says_so() {
        for text in [
            "_",
            "_dhtget",
            "_dhtget._udp",
            "_dhtget._udp.",
            "_dhtget.udp.example",
            "_._udp.example",
            "_a._b.c d",
            "_a._b..c",
        ] {
            assert_eq!(text.parse::<EntryPoint>(), Err(EntryPointError::Service), "{text}");
        }
        assert_eq!("boot.example".parse::<EntryPoint>(), Err(EntryPointError::Host(HostPortError::NoPort)));
    }
}
