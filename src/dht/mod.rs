//! The DHT node as a machine: BEP 5 with the extensions that real networks need.
//!
//! [`Node`] wires small machines together, one for each idea: who is known ([`table`], [`bucket`]), how a
//! search proceeds ([`lookup`]), what is under way ([`inflight`]), who may announce ([`token`]), what was
//! announced ([`announced`]) and how much strangers may ask ([`limiter`]). None of them has a socket, a
//! clock or a source of randomness; time is passed in and a seed is given once, so that a node behaves in
//! a simulated network of thousands exactly as it does on a UDP socket.
//!
//! Every bound and pace stands in [`config`] with its reason.

pub mod announced;
pub mod bucket;
pub mod config;
pub mod event;
pub mod inflight;
pub mod limiter;
pub mod lookup;
pub mod node;
pub mod pace;
pub mod rules;
pub mod table;
pub mod token;

pub use config::{Config, Limits, Network};
pub use event::{
    BootstrapState, Counters, Event, Full, LookupId, LookupStats, PingId, Reason, Snapshot, Transmit,
};
pub use node::Node;
pub use rules::LookupRules;
