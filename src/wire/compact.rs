//! Compact contacts: peers of 6 or 18 bytes and nodes of 26 or 38 bytes (BEPs 5, 23 and 32).
//!
//! Owns the layout only. Must not know which addresses are worth talking to: port 0 and multicast are
//! handed on as they came, since what is refused depends on the network a node lives in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::{Id160, NodeId};

/// Bytes of an IPv4 peer.
pub const PEER_V4: usize = 6;
/// Bytes of an IPv6 peer.
pub const PEER_V6: usize = 18;
/// Bytes of an IPv4 node.
pub const NODE_V4: usize = 26;
/// Bytes of an IPv6 node.
pub const NODE_V6: usize = 38;

/// A DHT node: its id and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// What it calls itself.
    pub id: NodeId,
    /// Where it answers.
    pub addr: SocketAddr,
}

/// Turns an IPv4 address mapped into IPv6 back into IPv4 and drops scope and flow, so that one
/// endpoint has one spelling.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// One peer of exactly 6 or 18 bytes.
pub fn peer(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_at_checked(bytes.len().checked_sub(2)?)?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?))))
}

/// The peers in one string of a `values` list. Such a string holds one peer (18 bytes are one IPv6
/// peer, BEP 32), yet some nodes send all their IPv4 peers in a single string.
pub fn peers(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> + '_ {
    let size = if bytes.len() == PEER_V6 { PEER_V6 } else { PEER_V4 };
    let whole = bytes.len().is_multiple_of(size);
    bytes.chunks_exact(size).filter(move |_| whole).filter_map(peer)
}

/// The nodes of a `nodes` string; a damaged tail is left out.
pub fn nodes_v4(bytes: &[u8]) -> impl Iterator<Item = Contact> + '_ {
    bytes.chunks_exact(NODE_V4).filter_map(node)
}

/// The nodes of a `nodes6` string; a damaged tail is left out.
pub fn nodes_v6(bytes: &[u8]) -> impl Iterator<Item = Contact> + '_ {
    bytes.chunks_exact(NODE_V6).filter_map(node)
}

fn node(bytes: &[u8]) -> Option<Contact> {
    let (id, addr) = bytes.split_at_checked(20)?;
    Some(Contact { id: Id160::from_slice(id)?, addr: peer(addr)? })
}

/// A peer, and how many of the bytes are its own: 6 or 18.
pub fn peer_bytes(addr: SocketAddr) -> ([u8; PEER_V6], usize) {
    let mut out = [0; PEER_V6];
    let length = match addr.ip() {
        IpAddr::V4(ip) => {
            out[..4].copy_from_slice(&Ipv4Addr::octets(&ip));
            PEER_V4
        }
        IpAddr::V6(ip) => {
            out[..16].copy_from_slice(&Ipv6Addr::octets(&ip));
            PEER_V6
        }
    };
    out[length - 2..length].copy_from_slice(&addr.port().to_be_bytes());
    (out, length)
}

/// Appends a peer in 6 or 18 bytes.
pub fn write_peer(addr: SocketAddr, out: &mut Vec<u8>) {
    let (bytes, length) = peer_bytes(addr);
    out.extend_from_slice(&bytes[..length]);
}

/// Appends a node in 26 or 38 bytes.
pub fn write_node(contact: &Contact, out: &mut Vec<u8>) {
    out.extend_from_slice(contact.id.as_bytes());
    write_peer(contact.addr, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_of_both_families_survive_the_wire() {
        for addr in ["1.2.3.4:5", "[2001:db8::1]:6881"] {
            let contact = Contact { id: Id160([9; 20]), addr: addr.parse().unwrap() };
            let mut out = Vec::new();
            write_node(&contact, &mut out);
            let back: Vec<_> =
                if contact.addr.is_ipv4() { nodes_v4(&out).collect() } else { nodes_v6(&out).collect() };
            assert_eq!(back, [contact]);
            assert_eq!(peers(&out[20..]).collect::<Vec<_>>(), [contact.addr]);
        }
    }

    #[test]
    fn a_damaged_tail_costs_only_itself() {
        assert_eq!(nodes_v4(&[7; 26 + 25]).count(), 1);
        assert_eq!(nodes_v6(&[7; 37]).count(), 0);
    }

    #[test]
    fn one_string_may_hold_many_peers() {
        assert_eq!(peers(&[1; 12]).count(), 2);
        assert_eq!(peers(&[1; 18]).count(), 1);
        assert_eq!(peers(&[1; 7]).count(), 0);
        assert_eq!(peers(&[]).count(), 0);
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mapped = [[0; 10].as_slice(), &[0xff, 0xff, 1, 2, 3, 4, 0, 80]].concat();
        assert_eq!(peer(&mapped), Some("1.2.3.4:80".parse().unwrap()));
    }
}
