//! Times and addresses in the form in which thousands of them are kept.
//!
//! Owns the conversions. Must not know what happened then, or who lives there. An `Instant` takes 16 bytes and an
//! address 32; here it is 8 and 19, and a table's entries are most of what a node weighs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// What a table's times are counted from.
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

/// A time, in nanoseconds since an [`Epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Epoch {
    /// That time is the first.
    pub fn new(now: Instant) -> Self {
        Self(now)
    }

    /// When that is; what was earlier counts as the first.
    pub fn moment(self, at: Instant) -> Moment {
        let nanos = at.saturating_duration_since(self.0).as_nanos() as u64;
        Moment(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// The same back.
    pub fn instant(self, at: Moment) -> Instant {
        self.0 + Duration::from_nanos(at.0.get() - 1)
    }
}

impl Moment {
    /// The epoch itself.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// How long after another one it is, if it is.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time.as_nanos() as u64))
    }
}

/// A time of three days at most, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short([u16; 3]);

impl From<Duration> for Short {
    fn from(time: Duration) -> Self {
        let nanos = time.as_nanos().min((1 << 48) - 1) as u64;
        Self([(nanos >> 32) as u16, (nanos >> 16) as u16, nanos as u16])
    }
}

impl From<Short> for Duration {
    fn from(Short([high, middle, low]): Short) -> Self {
        Self::from_nanos(u64::from(high) << 32 | u64::from(middle) << 16 | u64::from(low))
    }
}

/// An address without flow and scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An IPv4 address and a port.
    V4([u8; 4], [u8; 2]),
    /// An IPv6 address and a port.
    V6([u8; 16], [u8; 2]),
}

impl Place {
    /// Where it is.
    pub fn ip(&self) -> IpAddr {
        match *self {
            Self::V4(ip, _) => Ipv4Addr::from_octets(ip).into(),
            Self::V6(ip, _) => Ipv6Addr::from_octets(ip).into(),
        }
    }

    /// The same with the port.
    pub fn addr(&self) -> SocketAddr {
        let (Self::V4(_, port) | Self::V6(_, port)) = *self;
        SocketAddr::new(self.ip(), u16::from_be_bytes(port))
    }
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Self {
        let port = addr.port().to_be_bytes();
        match addr.ip() {
            IpAddr::V4(ip) => Self::V4(ip.octets(), port),
            IpAddr::V6(ip) => Self::V6(ip.octets(), port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_addresses_come_back() {
        let (start, later) = (Instant::now(), Duration::from_nanos(86_400_000_000_001));
        let epoch = Epoch::new(start);
        let moment = epoch.moment(start + later);
        assert_eq!((epoch.instant(moment), moment.since(Moment::FIRST)), (start + later, later));
        assert_eq!(epoch.moment(start), Moment::FIRST);
        assert_eq!((Moment::FIRST.after(later), Moment::FIRST.since(moment)), (moment, Duration::ZERO));
        for nanos in [0, 70_000, 5_000_000_123, (1 << 48) - 1] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(Duration::from(Short::from(time)), time);
        }
        for text in ["1.2.3.4:5", "[2001:db8::1]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(Place::from(addr).addr(), addr);
        }
        assert_eq!((size_of::<Option<Moment>>(), size_of::<Place>()), (8, 19));
    }
}
