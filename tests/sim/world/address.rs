//! Which address a host has: far apart in the four /8 from 16.0.0.0, without a table.
//!
//! Knows nothing of hosts but their serial number.

use std::net::{Ipv4Addr, SocketAddrV4};

const BITS: u32 = 26;
const MASK: u32 = (1 << BITS) - 1;
const BASE: u32 = 16 << 24;
/// Odd, hence invertible: neighbours in number are far apart in address.
const FACTOR: u32 = 0x9E37_79B1;
const PORT: u16 = 6881;
/// Where malicious hosts answer under other ids.
pub const SECOND_PORT: u16 = 6882;

/// The factor's inverse modulo 2^32, which is one modulo 2^26 too.
const INVERSE: u32 = {
    // Newton's iteration doubles the valid bits each time, from three.
    let mut x = FACTOR;
    let mut round = 0;
    while round < 5 {
        x = x.wrapping_mul(2u32.wrapping_sub(FACTOR.wrapping_mul(x)));
        round += 1;
    }
    x
};

/// Where the host of that number is.
pub fn of(serial: u32) -> SocketAddrV4 {
    let ip = BASE | (serial.wrapping_add(1).wrapping_mul(FACTOR) & MASK);
    SocketAddrV4::new(Ipv4Addr::from(ip), PORT)
}

/// Whose address it would be.
pub fn serial(addr: SocketAddrV4) -> Option<u32> {
    let ip = u32::from(*addr.ip());
    let ours = ip & !MASK == BASE && (addr.port() == PORT || addr.port() == SECOND_PORT);
    ours.then(|| (ip & MASK).wrapping_mul(INVERSE).wrapping_sub(1) & MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    #[test]
    fn an_address_leads_back_and_few_share_a_subnet() {
        assert!((0..100_000).all(|n| serial(of(n)) == Some(n)));
        let net = |n: u32| dhtget::dht::config::subnet(IpAddr::V4(*of(n).ip()));
        assert_eq!((0..1000).map(net).collect::<BTreeSet<_>>().len(), 1000);
        assert_eq!(serial("8.8.8.8:6881".parse().unwrap()), None);
    }
}
