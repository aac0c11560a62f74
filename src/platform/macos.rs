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
/// How many files a process may ask to have open, beside the hard limit: `OPEN_MAX`. More is
/// refused (`EINVAL`), and so is no limit, which is what the hard limit says.
#[cfg(target_os = "macos")]
pub(crate) const OPEN_FILES_LIMIT: Option<u64> = Some(10_240);
/// The longest line, in bytes, for a terminal that collects lines itself: the kernel cuts at
/// `MAX_CANON`, 1,024.
#[cfg(target_os = "macos")]
pub(crate) const CANONICAL_LIMIT: usize = 1_000;
/// Whether the sockets of other users are seen too.
#[cfg(target_os = "macos")]
pub(crate) const SEES_ALL_SOCKETS: bool = false;
/// There are no user namespaces.
#[cfg(target_os = "macos")]
pub(crate) const UNMAPPED_USER: Option<u32> = None;
