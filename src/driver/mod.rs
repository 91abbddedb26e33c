//! Where decisions become deeds: sockets, files, names, time.

pub mod create;
