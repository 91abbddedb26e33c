//! The DHT node as a machine: BEP 5 with the extensions that real networks need.
//!
//! [`Node`] wires small machines together, one for each idea: who is known ([`table`], [`bucket`],
//! and [`directory`] for those who ask), how a search proceeds ([`lookup`]), what is under way ([`inflight`]), who may announce ([`token`]), what was
//! announced ([`announced`]) and stored ([`items`]), where we are seen to be ([`external`]), how much
//! strangers may ask ([`limiter`]) and how much they may be told ([`allowance`]). Apart from it stands who of one's own
//! network is on the same link ([`vicinity`]). None of them has a socket, a
//! clock or a source of randomness; time is passed in and a seed is given once, so that a node behaves in
//! a simulated network of thousands exactly as it does on a UDP socket.
//!
//! Every bound and pace stands in [`config`] with its reason.

pub mod allowance;
pub mod announced;
pub mod bucket;
mod candidate;
pub mod config;
pub mod courtesy;
pub mod directory;
pub mod event;
pub mod external;
pub mod inflight;
pub mod items;
pub mod limiter;
pub mod lookup;
pub mod memory;
pub mod moment;
pub mod node;
pub mod pace;
pub mod quorum;
mod recent;
pub mod rules;
pub mod table;
pub mod token;
pub mod traffic;
pub mod vicinity;

pub use config::{Config, Limits, Network};
pub use event::{
    BootstrapState, Counters, Event, Full, LookupId, LookupStats, PingId, Reason, Snapshot, Stored,
    StoredPeer, Transmit,
};
pub use node::Node;
pub use node::view::{
    BucketReport, ContactReport, Evidence, FamilyReport, Report, SearchReport, StoreReport,
};
pub use rules::LookupRules;
pub use traffic::Traffic;
