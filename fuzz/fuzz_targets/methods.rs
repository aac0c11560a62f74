//! The payload of one method frame.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| broker::wire::attempts::method_payload(bytes));
