//! A broker's URL: a parsed URL parses again to the same value, and its password is never
//! displayed.

#![no_main]

use cbroker::config::Address;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(address) = Address::parse(text) else {
        return;
    };
    let again = Address::parse(&address.secret_url());
    assert!(again.is_ok_and(|again| again.is_same_place(&address)));
});
