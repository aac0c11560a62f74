//! The properties of a content header.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| broker::wire::attempts::properties(bytes));
