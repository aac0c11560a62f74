//! `config.toml`: the settings of a valid file, written out, are read again as the same; an invalid
//! file gives a one-line error.

#![no_main]

use std::fmt::Write;
use std::path::Path;

use cbroker::config::Settings;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("config.toml");
    let rows = match Settings::explain(text, path) {
        Ok(rows) => rows,
        Err(error) => return assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    };
    let mut written = String::new();
    for row in &rows {
        let quote = if row.key == "delivery" { "\"" } else { "" };
        let _ = writeln!(written, "{} = {quote}{}{quote}", row.key, row.value);
    }
    let again = Settings::explain(&written, path).expect("our own words");
    let values = |rows: &[cbroker::config::Effective]| {
        rows.iter().map(|row| row.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&rows));
});
