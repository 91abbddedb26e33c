//! The swarm of one torrent: who is there, what to fetch from whom, whom to serve.
//!
//! [`Swarm`] is the machine (`swarm`); each file beside it holds one idea:
//!
//! - who is there: `candidates` (whom to dial), `gate` (how many come in and are dialled), `twins` (who is here twice), `member`
//!   (one peer as the swarm sees it),
//!   `priority` (whom to prefer where there is no room for all), `rhythm` (when to look for peers again);
//! - what to fetch from whom: `metadata` (the info dictionary from several peers), `wanted` (which pieces, and in what order), `picker`
//!   (rarest first), `pieces` (blocks under way), `endgame` (who else is asked for the last ones), `in_order` (what each peer is good for
//!   where somebody reads along), `suspects` (who sent a false block);
//! - whom to serve: `choker` (tit-for-tat), `suggest` (which piece a seed names to whom);
//! - the conversations that [`Swarm`] wires together: `fetch`, `serve`, `super_seed`, `fast`, `exchange` and `pex`;
//! - what stands between it and others: `config` (every bound, with its reason), `event` (what goes in and comes out), `stats` (its
//!   figures), `explain` (reads off it why it is not faster).
//!
//! `neighbours` is a second machine: discovery in the local network, for all swarms of a client. `resume` is a third: what of an
//! interrupted download may be believed, and when its state is saved.
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
#[allow(clippy::module_inception)] // the machine carries its folder's name
mod swarm;
#[cfg(test)]
mod tests;
mod twins;
mod wanted;

pub use config::Config;
pub use event::{Action, CloseReason, Input, Origin, PeerKey, Report};
pub use neighbours::Neighbours;
pub use rhythm::{Rhythm, Standing};
pub use stats::Stats;
pub use swarm::Swarm;
pub use wanted::{Priority, Sequence, Wanted};
