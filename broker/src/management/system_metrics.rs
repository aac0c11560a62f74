//! Metrics of this process and its machine from the operating system. Unknown ones are 0.

use std::path::Path;

use crate::platform;

/// The machine's name.
pub(super) fn host_name() -> String {
    let system = rustix::system::uname();
    match system.nodename().to_string_lossy().trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Resident memory.
pub(super) fn memory_bytes() -> u64 {
    platform::resident_bytes().unwrap_or_default()
}

/// Memory of the whole machine.
pub(super) fn machine_memory_bytes() -> u64 {
    platform::machine_memory_bytes().unwrap_or_default()
}

/// Free space on the disk of this folder.
pub(super) fn disk_free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
}

/// Open descriptors, and how many there may be.
pub(super) fn descriptors() -> (u64, u64) {
    let open = platform::open_descriptors().unwrap_or_default();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (open, limit.current.unwrap_or_default())
}
