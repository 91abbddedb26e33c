//! Private networks: who is a member, and what a member's bytes look like on the wire.
//!
//! A network is one small file (`file`), or the same as one line of text (`invite`). An *open* network is plain
//! BitTorrent between listed addresses. In a *keyed* one every datagram is sealed (`seal`), every connection between
//! peers begins with a Noise handshake (`noise`), and what was said once does not count a second time (`replay`). The key
//! itself (`key`) is a type that cannot be printed.
//!
//! Owns formats, keys and what is refused. Must not know sockets, files, clocks or the system's randomness: time is
//! wall time in microseconds since 1970, passed in, because members have no other clock in common.

pub mod date;
pub mod file;
pub mod invite;
pub mod key;
pub mod noise;
pub mod replay;
pub mod seal;

pub use self::file::{NetworkError, NetworkId, PrivateNetwork};
pub use self::invite::{INVITE_PREFIX, InviteError};
pub use self::key::{Keys, NetworkKey, OldKey};
pub use self::noise::{Noise, Session};
pub use self::seal::Sealer;
