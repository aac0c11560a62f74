//! Signal dispositions of the test process, which every program that a test starts inherits.

use std::ffi::c_int;

/// Sets the signals that a caller may have ignored to their default action.
///
/// A shell that starts a command in the background makes it ignore SIGINT and SIGQUIT, `nohup`
/// makes it ignore SIGHUP, ignored signals stay ignored across `exec`, and a shell cannot trap a
/// signal that was ignored when it started. Tests of Ctrl-C, Ctrl-\ and of a terminal that is
/// closed would then wait for a signal that no program can receive.
///
/// Call this before any other thread or child exists.
pub(crate) fn restore_defaults() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        restore_default(signal);
    }
}

/// From now on neither a hang-up nor SIGTERM ends this process.
pub(crate) fn ignore_the_end() {
    for signal in [libc::SIGHUP, libc::SIGTERM] {
        set(signal, libc::SIG_IGN);
    }
}

fn restore_default(signal: c_int) {
    set(signal, libc::SIG_DFL);
}

#[allow(unsafe_code)]
fn set(signal: c_int, action: libc::sighandler_t) {
    // SAFETY: neither action is a handler, so no code of ours runs in signal context, and these
    // signals may have their action changed (signal(2) excludes only SIGKILL and SIGSTOP).
    let previous = unsafe { libc::signal(signal, action) };
    assert_ne!(
        previous,
        libc::SIG_ERR,
        "signal {signal} takes no other action"
    );
}
