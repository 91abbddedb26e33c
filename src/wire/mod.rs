//! Bytes to values and back, for everything that crosses a wire or stands in a torrent file.
//!
//! Parsing never panics, never recurses and never allocates by a number that a stranger sent.

pub mod advert;
pub mod allow;
pub mod badge;
pub mod bencode;
pub mod bloom;
pub mod compact;
pub mod entry;
pub mod extended;
pub mod item;
pub mod krpc;
pub mod lsd;
pub mod magnet;
pub mod metainfo;
pub mod peer;
pub mod pex;
pub mod pointer;
pub mod reach;
pub mod resume;
