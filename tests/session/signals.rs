//! Signal dispositions of the test process, which every program that a test starts inherits.

use std::ffi::c_int;

/// Sets SIGINT and SIGQUIT to their default action.
///
/// A shell that starts a command in the background makes it ignore both signals, ignored signals
/// stay ignored across `exec`, and a shell cannot trap a signal that was ignored when it started.
/// Tests of Ctrl-C and Ctrl-\ would then wait for a signal that no program can receive.
///
/// Call this before any other thread or child exists.
pub(crate) fn restore_defaults() {
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        restore_default(signal);
    }
}

#[allow(unsafe_code)]
fn restore_default(signal: c_int) {
    // SAFETY: SIG_DFL installs no handler, so no code of ours runs in signal context, and both
    // signals may have their action changed (signal(2) excludes only SIGKILL and SIGSTOP).
    let previous = unsafe { libc::signal(signal, libc::SIG_DFL) };
    assert_ne!(
        previous,
        libc::SIG_ERR,
        "signal {signal} has no default action"
    );
}
