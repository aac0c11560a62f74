//! macOS: `ps`, `lsof`, `getpeereid`, the user's own temporary folder, and launchd.
//!
//! Compiled for macOS, and not yet run there; `process` and `sockets` are tested on Linux, whose
//! `ps` and `lsof` print the same.

pub(crate) mod process;
pub(crate) mod sockets;
#[cfg(target_os = "macos")]
pub(crate) mod system;

#[cfg(target_os = "macos")]
use super::Services;

/// Whether `open` shows a page in the browser, on every desktop.
#[cfg(target_os = "macos")]
pub(crate) const IS_OPENED_BY_OPEN: bool = true;
/// Who starts a program with the user's session.
#[cfg(target_os = "macos")]
pub(crate) const SERVICES: Services = Services::Launchd;
/// Whether the sockets of other users are seen too.
#[cfg(target_os = "macos")]
pub(crate) const SEES_ALL_SOCKETS: bool = false;
