//! The list of addresses to start from: its syntax and the one compiled in.
//!
//! Must not resolve names: that takes time and belongs to the task that owns the node.

use std::net::{Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::wire::entry::EntryPoint;

/// The list at the root of the repository.
const DEFAULT: &str = include_str!("../../bootstrap_nodes.txt");

/// What is wrong with a list or an entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootstrapError {
    /// A line of a file.
    #[error("line {line}: {entry:?} is no address to start from: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        entry: String,
        /// Why it is none.
        what: &'static str,
    },
    /// An entry of its own.
    #[error("{entry:?} is no address to start from: {what}")]
    Entry {
        /// What was given.
        entry: String,
        /// Why it is none.
        what: &'static str,
    },
}

/// The compiled-in list.
pub fn default_nodes() -> Vec<String> {
    parse_list(DEFAULT).unwrap_or_default()
}

/// Reads a list: one entry a line, `#` begins a comment.
pub fn parse_list(text: &str) -> Result<Vec<String>, BootstrapError> {
    let mut out = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            check(entry).map_err(|what| BootstrapError::Line { line: at + 1, entry: entry.into(), what })?;
            out.push(entry.to_owned());
        }
    }
    Ok(out)
}

/// Reads one argument, which may hold several entries between commas.
pub fn parse_argument(text: &str) -> Result<Vec<String>, BootstrapError> {
    let entries = text.split(',').map(str::trim).filter(|e| !e.is_empty());
    entries
        .map(|e| {
            check(e).map(|()| e.to_owned()).map_err(|what| BootstrapError::Entry { entry: e.into(), what })
        })
        .collect()
}

/// Whether it is `host:port`, `a.b.c.d:port`, `[v6]:port` or the name of SRV records.
fn check(entry: &str) -> Result<(), &'static str> {
    if EntryPoint::is_service(entry) {
        let words = "the name of SRV records is written as in _dhtget._udp.example.org";
        return entry.parse::<EntryPoint>().map(drop).map_err(|_| words);
    }
    if let Ok(addr) = entry.parse::<SocketAddr>() {
        return if addr.port() == 0 { Err("port 0 cannot be asked") } else { Ok(()) };
    }
    let (host, port) = entry.rsplit_once(':').ok_or("the port is missing (host:port)")?;
    if port.parse::<u16>().is_ok_and(|p| p == 0) {
        return Err("port 0 cannot be asked");
    }
    if entry.parse::<Ipv6Addr>().is_ok() || host.contains(':') && !host.starts_with('[') {
        return Err("an IPv6 address needs brackets ([address]:port)");
    }
    port.parse::<u16>().map_err(|_| "the port is not a number from 1 to 65535")?;
    let letters = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if host.is_empty() || host.len() > 253 || !host.chars().all(letters) {
        return Err("the host is neither a name nor an address");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_list_is_sound() {
        assert_eq!(default_nodes().len(), 5);
    }

    #[test]
    fn comments_blank_lines_and_all_forms_are_read() {
        let list =
            parse_list("# x\n\n a.example:1 # y\n[::1]:2\n1.2.3.4:3\n_dhtget._udp.a.example\n").unwrap();
        assert_eq!(list, ["a.example:1", "[::1]:2", "1.2.3.4:3", "_dhtget._udp.a.example"]);
        assert_eq!(parse_argument("a:1, b:2,").unwrap(), ["a:1", "b:2"]);
    }

    #[test]
    fn errors_name_the_line_and_the_reason() {
        for (text, line, what) in [
            ("a:1\nb", 2, "the port is missing (host:port)"),
            ("a:x", 1, "the port is not a number from 1 to 65535"),
            ("::1", 1, "an IPv6 address needs brackets ([address]:port)"),
            ("fe80::1:99999", 1, "an IPv6 address needs brackets ([address]:port)"),
            ("a:0", 1, "port 0 cannot be asked"),
            ("1.2.3.4:0", 1, "port 0 cannot be asked"),
            ("_dhtget", 1, "the name of SRV records is written as in _dhtget._udp.example.org"),
            ("a b:1", 1, "the host is neither a name nor an address"),
        ] {
            match parse_list(text) {
                Err(BootstrapError::Line { line: l, what: w, .. }) => {
                    assert_eq!((l, w), (line, what), "{text}")
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
