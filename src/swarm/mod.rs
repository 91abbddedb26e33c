//! The swarm of one torrent: who is there, what to fetch from whom, whom to serve.
//!
//! [`Swarm`] is the machine; the files beside it hold one idea each: `candidates` (whom to dial), `metadata`
//! (the info dictionary from several peers), `picker` (rarest first), `pieces` (blocks under way), `choker`
//! (tit-for-tat), `suspects` (who sent a false block). `fetch`, `serve` and `exchange` are the three conversations that [`Swarm`] wires together.
//! No socket, disk, clock or random source of its own.

mod candidates;
mod choker;
pub mod config;
pub mod event;
mod exchange;
mod fetch;
mod member;
mod metadata;
mod picker;
mod pieces;
mod serve;
mod suggest;
mod suspects;
#[allow(clippy::module_inception)] // the machine carries its folder's name, as the plan has it
mod swarm;

pub use config::Config;
pub use event::{Action, CloseReason, Input, Origin, PeerKey, Report};
pub use swarm::{Stats, Swarm};
