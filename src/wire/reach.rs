//! How far an address carries, and who may name whom.
//!
//! Owns what registries say of address ranges. Must not know which network a node lives in.

use std::net::{IpAddr, SocketAddr};

/// How far an address carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// No other network: loopback, and what is set aside for testing devices in a laboratory (RFC 2544, RFC 5180).
    Isolated,
    /// One site, or the networks behind one carrier's NAT.
    Site,
    /// The internet.
    World,
}

impl Reach {
    /// Of this address.
    pub fn of(ip: IpAddr) -> Self {
        let (isolated, site) = match ip {
            IpAddr::V4(v4) => (
                v4.is_loopback() || matches!(v4.octets(), [198, 18 | 19, ..]),
                // The third: what carriers use behind their own NATs (RFC 6598).
                v4.is_private() || v4.is_link_local() || matches!(v4.octets(), [100, 64..128, ..]),
            ),
            IpAddr::V6(v6) => (
                v6.is_loopback() || matches!(v6.segments(), [0x2001, 2, 0, ..]),
                v6.is_unique_local() || v6.is_unicast_link_local(),
            ),
        };
        match (isolated, site) {
            (true, _) => Self::Isolated,
            (_, true) => Self::Site,
            _ => Self::World,
        }
    }
}

/// Whether somebody could be reached there: no port below 2, no reserved range, no group of hosts.
pub fn is_dialable(addr: SocketAddr) -> bool {
    let broken = match addr.ip() {
        // 0/8, and from 240/4 on: reserved, and the broadcast address (RFC 6890).
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    addr.port() > 1 && !broken && !addr.ip().is_multicast()
}

/// Whether `addr`, exchanged between us and a peer at `partner`, can mean the same host to both: an address of
/// a site told to or by a stranger is some other host, at best.
pub fn may_be_exchanged(addr: SocketAddr, partner: IpAddr) -> bool {
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    is_dialable(addr) && Reach::of(addr.ip()) >= Reach::of(partner.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_names_nobody_at_our_site() {
        let may =
            |addr: &str, partner: &str| may_be_exchanged(addr.parse().unwrap(), partner.parse().unwrap());
        for (addr, partner) in [
            ("8.8.8.8:6881", "9.9.9.9"),
            ("8.8.8.8:6881", "192.168.1.2"),
            ("10.0.0.1:6881", "192.168.1.2"),
            ("127.0.0.1:6881", "127.0.0.1"),
            ("10.0.0.1:6881", "198.18.0.1"),
            ("[2600::1]:6881", "9.9.9.9"),
        ] {
            assert!(may(addr, partner), "{addr} by {partner}");
        }
        for (addr, partner) in [
            ("10.0.0.1:6881", "9.9.9.9"),
            ("127.0.0.1:6881", "192.168.1.2"),
            ("[::ffff:10.0.0.1]:6881", "::ffff:9.9.9.9"),
            ("[fd00::1]:6881", "2600::1"),
            ("8.8.8.8:0", "9.9.9.9"),
            ("8.8.8.8:1", "9.9.9.9"),
            ("224.0.0.1:6881", "127.0.0.1"),
            ("255.255.255.255:6881", "127.0.0.1"),
            ("0.0.0.0:6881", "127.0.0.1"),
            ("[ff02::1]:6881", "::1"),
            ("[::]:6881", "::1"),
        ] {
            assert!(!may(addr, partner), "{addr} by {partner}");
        }
    }
}
