//! What the operating system says of this process and its machine. Everything unknown is 0.

use std::path::Path;

/// The machine's name.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() {
        "localhost".to_owned()
    } else {
        name.trim().to_owned()
    }
}

/// Resident memory.
pub(super) fn memory_bytes() -> u64 {
    kibibytes("/proc/self/status", "VmRSS:") * 1024
}

/// Memory of the whole machine.
pub(super) fn machine_memory_bytes() -> u64 {
    kibibytes("/proc/meminfo", "MemTotal:") * 1024
}

fn kibibytes(file: &str, label: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// Free room on the disk of this folder.
pub(super) fn disk_free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
}

/// Open descriptors, and how many there may be.
pub(super) fn descriptors() -> (u64, u64) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (open, limit.current.unwrap_or_default())
}
