//! What macOS's C library is asked for. Types and constants are those of the `libc` crate.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Longer than any path of the system's own.
const LONGEST_PATH: usize = 1024;

/// The allocator keeps its defaults.
pub(crate) fn be_frugal() {}

/// The allocator returns memory by itself.
pub(crate) fn free_unused_memory() {}

/// Nothing tells a stopped process that its parent has died. The end of a session's leader hangs
/// up what it left stopped there, which ends the gate.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the same on every system, and Linux can refuse"
)]
pub(crate) fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// Nothing was asked for.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the same on every system, and Linux can refuse"
)]
pub(crate) fn outlive_parent() -> io::Result<()> {
    Ok(())
}

/// Whether this user's program listens on the Unix socket to which `stream` is connected.
#[expect(unsafe_code, reason = "the system has a C interface")]
pub(crate) fn is_own_listener(stream: impl AsFd) -> bool {
    let (mut user, mut group) = (libc::uid_t::MAX, libc::gid_t::MAX);
    let socket = stream.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while `stream` is borrowed, and both numbers are writable.
    let outcome = unsafe { libc::getpeereid(socket, &raw mut user, &raw mut group) };
    outcome == 0 && user == rustix::process::geteuid().as_raw()
}

/// The user's folder for sockets, where the environment names none: the temporary folder that the
/// system keeps for this user alone.
#[expect(unsafe_code, reason = "the system has a C interface")]
pub(crate) fn runtime_folder() -> Option<PathBuf> {
    let mut path = vec![0_u8; LONGEST_PATH];
    let buffer = path.as_mut_ptr().cast::<libc::c_char>();
    // SAFETY: `buffer` has as many writable bytes as are named.
    let length = unsafe { libc::confstr(libc::_CS_DARWIN_USER_TEMP_DIR, buffer, path.len()) };
    // The length counts the final zero byte; a longer path was cut.
    if length < 2 || length > path.len() {
        return None;
    }
    path.truncate(length - 1);
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}
