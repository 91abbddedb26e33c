//! Everything that touches the world: sockets, files, names, the clock and the system's entropy.
//!
//! Each file is one thin task or a few plain functions round one machine; deciding is the machines' work.

pub mod bootstrap;
pub mod clock;
pub mod create;
pub mod listen;
pub mod state;
pub mod udp;

pub use udp::{Dht, DhtStatus, PeerSearch, PingError, PingReply, SearchEvent};
