//! One field table.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| broker::wire::attempts::table(bytes));
