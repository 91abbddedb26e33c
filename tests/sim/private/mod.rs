//! Private networks: who belongs to them, how fast they are, and what they survive.

mod healing;
mod stray;
mod timing;
