//! The hidden verbs, with which this binary is started by itself or by an agent's hook. They run
//! before any argument is parsed, any runtime is created or any file is read, so that they start
//! quickly.
//!
//! Relies on the monitor and on the hook's client.

use std::ffi::OsString;

use super::{hook, monitor};

/// Runs a hidden verb and returns its exit code; `None` if `arguments` (without the program's name)
/// do not begin with one.
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
