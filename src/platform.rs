//! What each operating system is asked for in its own way: one file a system, with the same
//! functions. `docs/platforms.md` says what each of them can tell. Depends on nothing.
//!
//! macOS's way for processes and sockets is `ps` and `lsof`, whose output Linux's own tools print
//! too: its tests run on both.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
mod macos;

use std::ffi::OsString;
use std::net::SocketAddr;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    CANONICAL_LIMIT, IS_OPENED_BY_OPEN, OPEN_FILES_LIMIT, SEES_ALL_SOCKETS, SERVICES,
    UNMAPPED_USER, allocator::be_frugal, allocator::free_unused_memory, end_with_parent,
    is_own_listener, outlive_parent, process::find_process, process::foreground,
    process::open_files, process::processes, process::program_name, process::start_time,
    runtime_folder, sockets::process_with, sockets::sockets, sockets::user_name,
};
#[cfg(target_os = "macos")]
pub(crate) use macos::{
    CANONICAL_LIMIT, IS_OPENED_BY_OPEN, OPEN_FILES_LIMIT, SEES_ALL_SOCKETS, SERVICES,
    UNMAPPED_USER, process::find_process, process::foreground, process::open_files,
    process::processes, process::program_name, process::start_time, sockets::process_with,
    sockets::sockets, sockets::user_name, system::be_frugal, system::end_with_parent,
    system::free_unused_memory, system::is_own_listener, system::outlive_parent,
    system::runtime_folder,
};
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("cbroker runs on Linux and macOS");

/// Who starts a program with the user's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "a system has one of them")]
pub(crate) enum Services {
    /// Linux.
    Systemd,
    /// macOS.
    Launchd,
}

/// One process, as the system describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its parent's id.
    pub parent: i32,
    /// Its arguments, the program's name first.
    pub arguments: Vec<String>,
}

/// A process that may be in a terminal's foreground.
#[derive(Clone, Debug, Default)]
pub struct ForegroundProcess {
    /// Who started it.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// The name by which the system lists it.
    pub name: String,
    /// The file that it runs, where that can be seen: not of another user's programs.
    pub program: Option<String>,
    /// Its command line, as far as it has not changed it.
    pub arguments: Vec<OsString>,
    /// Its standard input is a terminal.
    pub reads_terminal: bool,
}

/// A TCP socket of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SystemSocket {
    pub(crate) local: SocketAddr,
    /// The other end; not of this machine's listeners.
    pub(crate) remote: Option<SocketAddr>,
    /// The user whose program has it.
    pub(crate) uid: u32,
    /// Whether a program has it: no program has a connection that is not accepted yet.
    pub(crate) is_held: bool,
    /// What finds that program.
    pub(crate) holder: u64,
}

impl SystemSocket {
    /// Whether it is a listener.
    pub(crate) fn is_listening(&self) -> bool {
        self.remote.is_none()
    }
}

/// Converts a mapped IPv4 address, as the IPv6 tables contain it.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
