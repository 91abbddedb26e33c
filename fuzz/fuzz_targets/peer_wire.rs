#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::peer_wire(data));
