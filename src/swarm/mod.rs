//! The swarm of one torrent: who is there, what to fetch from whom, whom to serve.
//!
//! [`Swarm`] is the machine; the files beside it hold one idea each: `candidates` (whom to dial), `gate` (how many come in and are dialled), `metadata`
//! (the info dictionary from several peers), `picker` (rarest first), `wanted` (which pieces, and in what order), `pieces` (blocks under way), `choker`
//! (tit-for-tat), `priority` (whom to prefer where there is no room for all), `suspects` (who sent a false block). `fetch`, `serve`,
//! `super_seed`, `fast`, `exchange` and `pex` are the conversations that [`Swarm`] wires together.
//! `explain` reads off the machine why it is not faster.
//! `rhythm` says when to look for peers again. `neighbours` is a second machine: discovery in the local network, for all swarms of a client. `resume` is a
//! third: what of an interrupted download may be believed, and when its state is saved.
//! No socket, disk, clock or random source of its own.

mod candidates;
mod choker;
pub mod config;

mod endgame;
pub mod event;
mod exchange;
pub mod explain;
mod fast;
mod fetch;
mod gate;
mod in_order;
mod member;
mod metadata;
mod neighbours;
mod pex;
mod picker;
mod pieces;
mod priority;
pub mod resume;
mod rhythm;
mod serve;
mod stats;
mod suggest;
mod super_seed;
mod suspects;
#[allow(clippy::module_inception)] // the machine carries its folder's name, as the plan has it
mod swarm;
#[cfg(test)]
mod tests;
mod wanted;

pub use config::Config;
pub use event::{Action, CloseReason, Input, Origin, PeerKey, Report};
pub use neighbours::Neighbours;
pub use rhythm::{Rhythm, Standing};
pub use stats::Stats;
pub use swarm::Swarm;
pub use wanted::{Priority, Sequence, Wanted};
