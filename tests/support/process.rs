//! What the system says of another process, in ways that Linux and macOS have.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::process::Command;

/// Whether a process runs: it is there, and no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let state = column(pid, "stat=");
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// The arguments of a process, with blanks between them.
pub(crate) fn arguments(pid: u32) -> String {
    column(pid, "args=")
}

/// The arguments of every process that runs, with blanks between them.
pub(crate) fn all_arguments() -> Vec<String> {
    let listed = ps(&["-A", "-ww", "-o", "args="]);
    listed.lines().map(str::to_owned).collect()
}

/// The most memory that a process has had, in KiB. Where the system does not tell that, as on
/// macOS, it is what the process has now.
pub(crate) fn peak_kib(pid: u32) -> u64 {
    status(pid, "VmHWM:").unwrap_or_else(|| column(pid, "rss=").parse().unwrap())
}

/// Memory of a process that holds pages of files, its program above all, in KiB; 0 where the system
/// does not tell.
pub(crate) fn file_kib(pid: u32) -> u64 {
    status(pid, "RssFile:").unwrap_or(0)
}

/// From here on the peak is counted anew, where the system can do that.
pub(crate) fn forget_peak(pid: u32) {
    if cfg!(target_os = "linux") {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    }
}

fn status(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn column(pid: u32, name: &str) -> String {
    let pid = pid.to_string();
    ps(&["-ww", "-o", name, "-p", &pid]).trim().to_owned()
}

fn ps(arguments: &[&str]) -> String {
    let output = Command::new("ps").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
