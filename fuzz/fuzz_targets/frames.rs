//! A stream of frames, as a connection reads it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| broker::wire::attempts::frames(bytes));
