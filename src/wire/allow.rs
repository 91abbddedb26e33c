//! The allow-list of a network: which addresses belong to it.
//!
//! Owns the syntax of CIDR entries and the question whether one covers an address. Must not know who asks, nor
//! what becomes of those that are kept out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use thiserror::Error;

/// Entries of a list: every one is looked at for each datagram, and no site has as many separate ranges.
pub const MAX_ALLOW_ENTRIES: usize = 64;

/// What is wrong with a list.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllowError {
    /// Neither an address nor a range of addresses.
    #[error("{entry:?} is no address range (such as 10.0.0.0/8 or fd00::/8)")]
    NoRange {
        /// What was given.
        entry: String,
    },
    /// The prefix is longer than an address.
    #[error("{entry:?} is no address range: the number after the slash is {most} at most")]
    TooLong {
        /// What was given.
        entry: String,
        /// The longest there is in its family.
        most: u8,
    },
    /// The address has bits beyond its prefix.
    #[error(
        "{entry:?} names one address and a range: write {range} for the range, or {host} for the address"
    )]
    HostBits {
        /// What was given.
        entry: String,
        /// The range that holds the address.
        range: String,
        /// The address alone.
        host: String,
    },
    /// More than are looked through.
    #[error("{count} address ranges are too many: at most {MAX_ALLOW_ENTRIES} are looked through")]
    TooMany {
        /// How many were given.
        count: usize,
    },
}

/// One range: a base whose bits beyond the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    base: IpAddr,
    prefix: u8,
}

impl Range {
    fn parse(entry: &str) -> Result<Self, AllowError> {
        let broken = || AllowError::NoRange { entry: entry.to_owned() };
        let (ip, prefix) = entry.split_once('/').map_or((entry, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| broken())?;
        let most = bits(ip);
        let prefix = match prefix {
            None => most,
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                let too_long = || AllowError::TooLong { entry: entry.to_owned(), most };
                text.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(too_long)?
            }
            Some(_) => return Err(broken()),
        };
        // An IPv4 address in IPv6 clothes is the IPv4 one; a range that is wider than all of them is none.
        let (base, prefix) = match (ip.to_canonical(), prefix.checked_sub(96)) {
            (v4 @ IpAddr::V4(_), Some(rest)) if ip.is_ipv6() => (v4, rest),
            _ => (ip, prefix),
        };
        let range = Self { base: masked(base, prefix), prefix };
        if range.base != base {
            let (range, host) = (range.to_string(), base.to_string());
            return Err(AllowError::HostBits { entry: entry.to_owned(), range, host });
        }
        Ok(range)
    }

    fn holds(&self, ip: IpAddr) -> bool {
        self.base.is_ipv4() == ip.is_ipv4() && masked(ip, self.prefix) == self.base
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// How long an address is.
fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with zeros beyond the prefix.
fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    let beyond = u32::from(bits(ip).saturating_sub(prefix));
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() & u32::MAX.checked_shl(beyond).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits() & u128::MAX.checked_shl(beyond).unwrap_or(0)).into(),
    }
}

/// The addresses that a network consists of. By default it is all there are; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Option<Arc<[Range]>>);

impl AllowList {
    /// Reads a list of ranges (`10.0.0.0/8`, `fd00::/8`) and single addresses. An empty one lets in everyone.
    pub fn parse(entries: &[String]) -> Result<Self, AllowError> {
        if entries.is_empty() {
            return Ok(Self::default());
        }
        if entries.len() > MAX_ALLOW_ENTRIES {
            return Err(AllowError::TooMany { count: entries.len() });
        }
        let ranges: Result<Vec<_>, _> = entries.iter().map(|e| Range::parse(e.trim())).collect();
        Ok(Self(Some(ranges?.into())))
    }

    /// Whether this address belongs to the network. IPv4 in IPv6 clothes counts as what it is.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let Some(ranges) = &self.0 else { return true };
        let ip = ip.to_canonical();
        ranges.iter().any(|range| range.holds(ip))
    }

    /// Whether it keeps nobody out.
    pub fn is_everyone(&self) -> bool {
        self.0.is_none()
    }
}

/// The ranges as they would be written in a list.
impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ranges) = &self.0 else { return f.write_str("every address") };
        let all: Vec<_> = ranges.iter().map(Range::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Result<AllowList, AllowError> {
        AllowList::parse(&entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>())
    }

    fn allows(list: &AllowList, ip: &str) -> bool {
        list.allows(ip.parse().unwrap())
    }

    #[test]
    fn ranges_hold_their_own_and_nobody_else() {
        let both = list(&["10.0.0.0/8", " fd00::/8", "192.168.1.7", "2001:db8::1"]).unwrap();
        for ip in ["10.0.0.0", "10.255.255.255", "fd12::1", "192.168.1.7", "2001:db8::1", "::ffff:10.1.2.3"] {
            assert!(allows(&both, ip), "{ip}");
        }
        for ip in ["9.255.255.255", "11.0.0.0", "fc00::1", "192.168.1.8", "2001:db8::2", "::1", "::a00:1"] {
            assert!(!allows(&both, ip), "{ip}");
        }
        assert_eq!(both.to_string(), "10.0.0.0/8, fd00::/8, 192.168.1.7/32, 2001:db8::1/128");
    }

    #[test]
    fn the_edges_are_everyone_nobody_and_one_family() {
        assert!(allows(&AllowList::default(), "8.8.8.8") && AllowList::default().is_everyone());
        assert_eq!(list(&[]), Ok(AllowList::default()));
        let v4 = list(&["0.0.0.0/0"]).unwrap();
        assert!(allows(&v4, "255.1.2.3") && !allows(&v4, "::1") && !v4.is_everyone());
        let v6 = list(&["::/0"]).unwrap();
        assert!(allows(&v6, "2600::1") && !allows(&v6, "8.8.8.8") && !allows(&v6, "::ffff:8.8.8.8"));
        let mapped = list(&["::ffff:10.0.0.0/104", "::ffff:127.0.0.1"]).unwrap();
        assert_eq!(mapped.to_string(), "10.0.0.0/8, 127.0.0.1/32");
        assert!(allows(&mapped, "10.9.9.9") && allows(&mapped, "127.0.0.1") && !allows(&mapped, "11.0.0.0"));
    }

    #[test]
    fn a_mistake_is_named_with_what_was_meant() {
        let error = list(&["10.0.0.0/8", "10.1.2.3/8"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"10.1.2.3/8\" names one address and a range: write 10.0.0.0/8 for the range, or 10.1.2.3 for the address"
        );
        let error = list(&["fd00::1/64"]).unwrap_err().to_string();
        assert!(error.contains("fd00::/64") && error.contains("fd00::1 "), "{error}");
        assert!(list(&["10.0.0.0/33"]).unwrap_err().to_string().ends_with("is 32 at most"));
        assert!(list(&["fd00::/129"]).unwrap_err().to_string().ends_with("is 128 at most"));
        assert!(matches!(list(&["10.0.0.0/999"]), Err(AllowError::TooLong { most: 32, .. })));
        for broken in
            ["", "/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "corp.example", "10.0.0.0/8/8", "fe80::1%1"]
        {
            assert!(matches!(list(&[broken]), Err(AllowError::NoRange { .. })), "{broken}");
        }
        let many = vec!["10.0.0.0/8"; MAX_ALLOW_ENTRIES + 1];
        assert_eq!(list(&many), Err(AllowError::TooMany { count: 65 }));
    }

    #[test]
    fn every_prefix_splits_the_addresses_where_it_says() {
        for prefix in 0..=32u8 {
            let base = masked([255, 255, 255, 255].into(), prefix);
            let one = list(&[&format!("{base}/{prefix}")]).unwrap();
            assert!(one.allows([255, 255, 255, 255].into()) && one.allows(base));
            assert_eq!(one.allows([0, 0, 0, 0].into()), prefix == 0);
        }
    }
}
