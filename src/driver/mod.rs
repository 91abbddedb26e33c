//! Everything that touches the world: sockets, files, names, the clock and the system's entropy.
//!
//! Each file is one thin task or a few plain functions round one machine; deciding is the machines' work.
//!
//! - The DHT: `udp` (its task), `bootstrap` (the list to start from), `state` (what outlasts a restart), `lan` (members of a private
//!   network on the same link).
//! - A transfer: `transfer` (its vocabulary), `download` (its task), `choice` (which files are meant), `strain` (how strained its
//!   surroundings are).
//! - Sockets: `listen` (one port for TCP and UDP), `tcp` (a connection's two tasks), `chunks` (receive buffers), `outbox` (what waits to
//!   be sent), `throttle` (byte rates), `sealed` (connections of a keyed network), `lsd` (the local network, for all transfers).
//! - The disk: `place` (taking a place), `storage` (safe paths, ranges cut into files), `parts` (bytes of files nobody asked for),
//!   `handles` (open files), `disk` (the threads), `lanes` (SHA-1 of several pieces at once), `stored` (payload that stays there until a
//!   socket takes it), `resume` (what the next run may believe), `stream` (a file written out as it comes).
//! - Plain files: `create` makes torrents, `verify` compares with them, `keyfile` holds a secret key, `networks` those of private networks,
//!   `lasting` writes what outlives a power cut.
//! - The process: `clock` (the only one, and the only entropy), `conceal` (secrets of the command line), `resident` gives memory back,
//!   `supervisor` tells systemd that all is well.

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
