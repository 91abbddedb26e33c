//! Everything that touches the world: sockets, files, names, the clock and the system's entropy.
//!
//! Each file is one thin task or a few plain functions round one machine; deciding is the machines' work.
//! The DHT's side: `udp`, `bootstrap`, `lan`, `state`. A transfer's side: `download` (the task), `tcp` with `chunks`
//! and `throttle`, `lsd` for all of them, `disk` with `handles`, `storage`, `place` and `parts`, `resume`, `choice` and `stream`; `create`
//! makes torrents, `verify` compares with them,
//! `resident` gives memory back, `supervisor` tells systemd that all is well.

pub mod bootstrap;
pub mod choice;
pub mod chunks;
pub mod clock;
pub mod conceal;
pub mod create;
pub mod disk;
pub mod download;
pub mod handles;
pub mod keyfile;
pub mod lan;
pub mod lanes;
pub mod lasting;
pub mod listen;
pub mod lsd;
pub mod networks;
pub mod outbox;
pub mod parts;
pub mod place;
pub mod resident;
pub mod resume;
pub mod sealed;
pub mod state;
pub mod storage;
pub mod stored;
pub mod strain;
pub mod stream;
pub mod supervisor;
pub mod tcp;
pub mod throttle;
pub mod transfer;
pub mod udp;
pub mod verify;

pub use udp::{Dht, DhtStatus, PeerSearch, PingError, PingReply, SampleReply, SearchEvent};
