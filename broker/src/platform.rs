//! What each operating system is asked for in its own way: one file a system, with the same
//! functions. `docs/platforms.md` says what each of them can tell. Depends on nothing.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::net::SocketAddr;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    STEADY, local_user::users_of, machine_memory_bytes, open_descriptors, resident_bytes,
};
#[cfg(target_os = "macos")]
pub(crate) use macos::{STEADY, machine_memory_bytes, open_descriptors, resident_bytes, users_of};
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("cbroker runs on Linux and macOS");

/// The two ends of a connection: of the socket whose user is asked for, and of the other one.
pub(crate) type SocketPair = (SocketAddr, SocketAddr);

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
