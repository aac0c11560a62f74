//! What differs between operating systems: one file for each, with the same functions.
//! `docs/platforms.md` lists what each system can report. Depends on nothing.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

#[cfg(target_os = "linux")]
use linux::PEER_CLOSED;
#[cfg(target_os = "macos")]
use macos::PEER_CLOSED;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    STEADY, UNMAPPED_USER, local_user::users_of, machine_memory_bytes, open_descriptors,
    resident_bytes,
};
#[cfg(target_os = "macos")]
pub(crate) use macos::{
    STEADY, UNMAPPED_USER, machine_memory_bytes, open_descriptors, resident_bytes, users_of,
};
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("cbroker runs on Linux and macOS");

/// The addresses of a connection: of the socket whose user is looked up, and of the other end.
pub(crate) type SocketPair = (SocketAddr, SocketAddr);

/// Whether the other end of a socket has closed its side, or the connection broke; also while
/// bytes that arrived before are unread.
pub(crate) fn has_peer_closed(socket: BorrowedFd<'_>) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(socket, PEER_CLOSED)];
    let at_once = Timespec::default();
    let ends = PEER_CLOSED | PollFlags::HUP | PollFlags::ERR;
    rustix::event::poll(&mut sockets, Some(&at_once)).is_ok()
        && sockets[0].revents().intersects(ends)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn the_system_tells_the_figures_of_this_process_and_its_machine() {
        let (resident, machine) = (resident_bytes().unwrap(), machine_memory_bytes().unwrap());
        assert!(resident > 1 << 20, "{resident}");
        assert!(machine > resident, "{machine} {resident}");
        assert!(open_descriptors().unwrap() > 2);
    }
}
