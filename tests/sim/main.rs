//! The world in a box: machines in virtual time, from a seed that is printed and can be replayed with
//! `SIM_SEED`.

mod dht;
mod links;
mod million;
mod net;
mod swarm;
