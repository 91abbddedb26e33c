//! One peer: its connection as a machine, the pieces it has, the speed it shows.
//!
//! Nothing here knows other peers, the disk, or a socket.

pub mod allowed_fast;
pub mod bitfield;
pub mod connection;
pub mod event;
pub mod patience;
pub mod rate;

pub use bitfield::Bitfield;
pub use connection::Connection;
pub use event::{Event, Payload, ProtocolError, Settings, Transmit};
pub use rate::Rate;
