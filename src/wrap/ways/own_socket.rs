//! Whether the program behind a Unix socket is this user's: agents put sockets into folders that
//! all users share.

use std::os::fd::AsFd;
use std::path::Path;

/// Whether this user's program listens on the socket at `path`, to which `stream` is connected.
#[cfg(target_os = "linux")]
pub(in crate::wrap) fn is_own(stream: impl AsFd, _path: &Path) -> bool {
    let us = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|listener| listener.uid == us)
}

/// The same by the owner of the file, which nobody else can make for us.
#[cfg(not(target_os = "linux"))]
pub(in crate::wrap) fn is_own(_stream: impl AsFd, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let us = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|file| file.uid() == us)
}
