//! Processes, as `/proc` has them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::platform::{ForegroundProcess, Process};

/// When a process started, in the system's format. `None` if it does not exist or is a zombie.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may itself contain blanks and
    // parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// A running process; `None` when there is none of this id.
pub(crate) fn find_process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses of its own.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    if state == "Z" || state == "X" {
        return None;
    }
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments)
        .trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect();
    Some(Process { parent, arguments })
}

/// A process's name.
pub(crate) fn program_name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}

/// All processes that run, by their ids.
pub(crate) fn processes() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, find_process(pid)?))
    });
    processes.collect()
}

/// The files that a process has open, where this user may see them.
pub(crate) fn open_files(pid: i32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries.flatten().map(|entry| fs::read_link(entry.path()));
    links.flatten().collect()
}

/// All processes that can be seen from here. A few milliseconds of work.
pub(crate) fn foreground() -> Option<BTreeMap<i32, ForegroundProcess>> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let all = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, read(&entry.path())?))
    });
    Some(all.collect())
}

/// `None`: it has ended meanwhile.
fn read(folder: &Path) -> Option<ForegroundProcess> {
    let stat = fs::read(folder.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name is in parentheses, and may hold some.
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let link = |name: &str| fs::read_link(folder.join(name)).ok();
    let program = link("exe").and_then(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some(name.trim_end_matches(" (deleted)").to_owned())
    });
    let line = fs::read(folder.join("cmdline")).unwrap_or_default();
    let words = line
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty());
    let reads_terminal = link("fd/0")
        .is_some_and(|path| path.starts_with("/dev/pts") || path.starts_with("/dev/tty"));
    Some(ForegroundProcess {
        parent,
        group,
        name: name.to_owned(),
        program,
        arguments: words
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect(),
        reads_terminal,
    })
}
