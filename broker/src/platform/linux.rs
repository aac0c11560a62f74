//! Linux: `/proc` and the clock that counts while the machine is suspended.

pub(crate) mod local_user;

use rustix::event::PollFlags;
use rustix::time::ClockId;

/// What `poll` is asked for to tell that the other end of a socket has closed its side.
pub(crate) const PEER_CLOSED: PollFlags = PollFlags::RDHUP;

/// A clock that counts while the machine is suspended and that cannot be set.
pub(crate) const STEADY: ClockId = ClockId::Boottime;

/// What the kernel calls every user who has no number in this process's user namespace.
pub(crate) const UNMAPPED_USER: Option<u32> = Some(65534);

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    bytes_of("/proc/self/status", "VmRSS:")
}

/// Memory of the whole machine.
pub(crate) fn machine_memory_bytes() -> Option<u64> {
    bytes_of("/proc/meminfo", "MemTotal:")
}

/// Descriptors that this process has open.
pub(crate) fn open_descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    Some(entries.count() as u64)
}

/// Reads a number that the system gives in kibibytes.
fn bytes_of(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}
