//! What a broker's process tree used, from `/proc`. Linux only; elsewhere every figure is absent.

use std::fs;
use std::ops::Sub;

use rustix::process::{Pid, Signal, kill_process};

/// Sums over a process and all its descendants.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    /// Peak resident memory since [`reset_peak`].
    pub(crate) peak_mib: f64,
    pub(crate) resident_mib: f64,
    /// Bytes that the tree caused to be written to disk.
    pub(crate) written: u64,
}

impl Sub for Usage {
    type Output = Self;

    /// Time and bytes since `earlier`; memory as it is now.
    fn sub(self, earlier: Self) -> Self {
        let written = self.written.saturating_sub(earlier.written);
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written,
            ..self
        }
    }
}

/// The usage of `pid` and its descendants; zero for pid 0.
pub(crate) fn usage(pid: u32) -> Usage {
    let mut sum = Usage::default();
    for process in tree(pid) {
        let one = usage_of_one(process);
        sum.cpu_seconds += one.cpu_seconds;
        sum.peak_mib += one.peak_mib;
        sum.resident_mib += one.resident_mib;
        sum.written += one.written;
    }
    sum
}

/// The usage of `pid` alone.
pub(crate) fn usage_of_one(pid: u32) -> Usage {
    let ticks: u64 = stat_fields(pid).map_or(0, |fields| fields[11] + fields[12]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Usage {
        cpu_seconds: ticks as f64 / 100.0,
        peak_mib: kib_of(&status, "VmHWM:") / 1024.0,
        resident_mib: kib_of(&status, "VmRSS:") / 1024.0,
        written: kib_of(&io, "write_bytes:") as u64,
    }
}

/// Memory of `pid` that no other process shares: what it adds to that of a process of the same
/// program.
pub(crate) fn private_mib(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    (kib_of(&rollup, "Private_Clean:") + kib_of(&rollup, "Private_Dirty:")) / 1024.0
}

/// Ends `pid` at once; it may be gone already.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = as_pid(pid) {
        let _already_gone = kill_process(pid, Signal::KILL);
    }
}

/// `pid` as the kernel's calls take it; None for 0.
pub(crate) fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Lets the kernel forget the peaks so far.
pub(crate) fn reset_peak(pid: u32) {
    for process in tree(pid) {
        let _refused_where_not_ours = fs::write(format!("/proc/{process}/clear_refs"), "5");
    }
}

/// `root` and its descendants, parents first.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    if root == 0 {
        return Vec::new();
    }
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, u32::try_from(stat_fields(pid)?[1]).ok()?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    found
}

/// `root` and those of its descendants that run the same program: a wrap and its monitor, without
/// what they wrap.
pub(crate) fn own(root: u32) -> Vec<u32> {
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let ours = program(root);
    tree(root)
        .into_iter()
        .filter(|&pid| program(pid) == ours)
        .collect()
}

/// The numbers behind the name in `/proc/PID/stat`; the first is the state and counts as 0.
fn stat_fields(pid: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    let fields: Vec<u64> = behind
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    (fields.len() > 20).then_some(fields)
}

fn kib_of(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}
