//! What a wrapped session promises, on real pseudo-terminals and through a real broker.
//!
//! This program is its own cast: under the name `claude` it is the fake agent ([`agent`]), under
//! the name `sink` it writes down what is submitted to it ([`sink`]), and with a hidden verb it is
//! the monitor of a test's own terminal. So it has a main function of its own and a small runner
//! ([`runner`]) that takes the usual arguments.
//!
//! The pure rules of delivery are tested beside their code, in `src/wrap/delivery/tests.rs`. Here
//! is what they do to a real terminal.

#![allow(clippy::unwrap_used)]

mod agent;
mod brake;
mod child_env;
mod claude;
#[cfg(target_os = "linux")]
mod command_lines;
mod dead_letters;
mod delivery;
mod faults;
mod floods;
mod glance;
mod hooks;
mod ids;
mod inbox;
#[cfg(target_os = "linux")]
mod launchers;
mod long_texts;
mod needs;
mod passthrough;
mod plugin;
#[path = "../support/process.rs"]
mod process;
mod queued;
mod removal;
mod runner;
mod scenes;
mod signals;
mod sink;
mod stage;
#[path = "../support/started.rs"]
mod started;
mod starting;
mod taking;

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
        Some("codex") => agent::codex::run(),
        Some("gemini") => agent::gemini::run(),
        Some("opencode") => agent::opencode::run(),
        Some("sink") => sink::run(&arguments),
        _ => {
            signals::restore_defaults();
            runner::run(
                &[
                    passthrough::TESTS,
                    dead_letters::TESTS,
                    delivery::TESTS,
                    brake::TESTS,
                    claude::TESTS,
                    child_env::TESTS,
                    #[cfg(target_os = "linux")]
                    command_lines::TESTS,
                    faults::TESTS,
                    floods::TESTS,
                    glance::TESTS,
                    hooks::TESTS,
                    ids::TESTS,
                    inbox::TESTS,
                    plugin::TESTS,
                    queued::TESTS,
                    #[cfg(target_os = "linux")]
                    launchers::TESTS,
                    long_texts::TESTS,
                    removal::TESTS,
                    needs::TESTS,
                    scenes::TESTS,
                    starting::TESTS,
                    taking::TESTS,
                ]
                .concat(),
                &arguments,
            )
        }
    }
}
