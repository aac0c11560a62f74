//! A broker's URL: a parsed URL parses again to the same value, and its password is never
//! displayed.

#![no_main]

use cbroker::config::{Address, Endpoint, Login, LoginGuard};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(address) = Address::parse(text) else {
        return;
    };
    let login = Login {
        user: address.user.clone().unwrap_or_default(),
        password: address.password.clone().unwrap_or_default(),
    };
    let endpoint = Endpoint {
        address: address.clone(),
        login,
        ca_cert: None,
        guard: LoginGuard::AsGiven,
        is_local_broker: false,
    };
    let again = Address::parse(&endpoint.secret_url());
    assert!(again.is_ok_and(|again| again.is_same_place(&address)));
});
