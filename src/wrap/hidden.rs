//! What this binary does when it starts itself, or when an agent's hook starts it: before any
//! argument is parsed, any runtime is made or any file is read, so that it costs next to nothing.
//!
//! Relies on the monitor and on the hook's client.

use std::ffi::OsString;

use super::{hook, monitor};

/// Runs a hidden verb and gives its exit code; `None` when `arguments` (without the program's name)
/// are none.
pub fn run(arguments: &[OsString]) -> Option<u8> {
    let (verb, rest) = arguments.split_first()?;
    let code = match verb.to_str()? {
        monitor::MONITOR => monitor::monitor(rest),
        monitor::GATE => monitor::gate(rest),
        hook::VERB => hook::run(rest),
        _ => return None,
    };
    u8::try_from(code).ok().or(Some(1))
}
