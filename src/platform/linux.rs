//! Linux: `/proc`, the credentials of a socket's peer, and signals at a parent's death.

pub(crate) mod allocator;
pub(crate) mod process;
pub(crate) mod sockets;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::process::Signal;

use super::Services;

/// Whether `open` shows a page in the browser, on every desktop.
pub(crate) const IS_OPENED_BY_OPEN: bool = false;
/// Who starts a program with the user's session.
pub(crate) const SERVICES: Services = Services::Systemd;
/// How many files a process may ask to have open, beside the hard limit.
pub(crate) const OPEN_FILES_LIMIT: Option<u64> = None;
/// The longest line, in bytes, for a terminal that collects lines itself: the kernel cuts at 4,095.
pub(crate) const CANONICAL_LIMIT: usize = 4_000;
/// What the kernel shows all users of another user namespace as, together.
pub(crate) const UNMAPPED_USER: Option<u32> = Some(65534);
/// Whether the sockets of other users are seen too.
pub(crate) const SEES_ALL_SOCKETS: bool = true;

/// The user's folder for sockets, where the environment names none.
pub(crate) fn runtime_folder() -> Option<PathBuf> {
    None
}

/// Whether this user's program listens on the Unix socket to which `stream` is connected.
pub(crate) fn is_own_listener(stream: impl AsFd) -> bool {
    let us = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|listener| listener.uid == us)
}

/// Asks that this process is killed when its parent dies, which must be its session's leader. An
/// error where that has happened already.
pub(crate) fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that. While it lives it is our parent, and leads our session.
    let leader = rustix::process::getsid(None)?;
    if rustix::process::getppid() == Some(leader) {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Takes [`end_with_parent`] back.
pub(crate) fn outlive_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(None)?)
}
