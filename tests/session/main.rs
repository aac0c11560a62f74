//! What a wrapped session promises, on real pseudo-terminals and through a real broker.
//!
//! This program is its own cast: under the name `claude` it is the fake agent ([`agent`]), under the name `sink` it
//! writes down what is submitted to it ([`sink`]), and with a hidden verb it is the monitor of a test's own terminal.
//! So it has a main function of its own and a small runner ([`runner`]) that takes the usual arguments.

#![allow(clippy::unwrap_used)]

mod agent;
mod brake;
mod claude;
mod delivery;
mod passthrough;
mod runner;
mod sink;
mod stage;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(code) = cbroker::wrap::hidden(&arguments) {
        return code.into();
    }
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("claude") => agent::run(&arguments),
        Some("sink") => sink::run(&arguments),
        _ => runner::run(
            &[
                passthrough::TESTS,
                delivery::TESTS,
                brake::TESTS,
                claude::TESTS,
            ]
            .concat(),
            &arguments,
        ),
    }
}
