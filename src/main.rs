//! The `dhtget` program.
fn main() {}
