//! Processes, as `ps` and `lsof` list them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::platform::Process;

/// What a program prints; empty where it cannot be run.
pub(super) fn printed(program: &str, arguments: &[&str]) -> String {
    output(Command::new(program).args(arguments))
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// When a process started, in the system's format. `None` if it does not exist or is a zombie.
///
/// It is compared with what another process read, which may have another time zone and language.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    let mut ps = Command::new("ps");
    ps.args(["-o", "stat=,lstart=", "-p", &pid.to_string()]);
    let text = output(ps.env("TZ", "UTC0").env("LC_ALL", "C"));
    let (state, began) = text.trim().split_once(char::is_whitespace)?;
    (!state.starts_with('Z')).then(|| began.trim().to_owned())
}

/// A running process; `None` when there is none of this id. Its arguments are split at blanks.
pub(crate) fn find_process(pid: i32) -> Option<Process> {
    let line = printed(
        "ps",
        &["-ww", "-o", "stat=,ppid=,args=", "-p", &pid.to_string()],
    );
    parse(line.split_whitespace())
}

/// All processes that run, by their ids.
pub(crate) fn processes() -> BTreeMap<i32, Process> {
    let all = printed("ps", &["-axww", "-o", "pid=,stat=,ppid=,args="]);
    let processes = all.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        Some((pid, parse(words)?))
    });
    processes.collect()
}

/// Parses state, parent and arguments. `None` for a zombie.
fn parse<'line>(mut words: impl Iterator<Item = &'line str>) -> Option<Process> {
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (!state.starts_with('Z')).then(|| Process {
        parent,
        arguments: words.map(str::to_owned).collect(),
    })
}

/// A process's name.
pub(crate) fn program_name(pid: u32) -> Option<String> {
    let path = printed("ps", &["-ww", "-o", "comm=", "-p", &pid.to_string()]);
    let name = path.trim().rsplit('/').next().unwrap_or_default();
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// The files that a process has open, where this user may see them.
pub(crate) fn open_files(pid: i32) -> Vec<PathBuf> {
    let listed = printed("lsof", &["-nPw", "-Fn", "-p", &pid.to_string()]);
    let names = listed.lines().filter_map(|line| line.strip_prefix('n'));
    names
        .filter(|name| name.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// The processes of a terminal's foreground: what they read is not known here.
#[cfg(target_os = "macos")]
pub(crate) fn foreground() -> Option<BTreeMap<i32, crate::platform::ForegroundProcess>> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_child_is_seen_as_it_is() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Between fork and exec the child still has our arguments.
        while find_process(pid).is_some_and(|child| child.arguments != ["sleep", "30"]) {
            std::thread::yield_now();
        }
        let seen = find_process(pid).unwrap();
        assert_eq!(u32::try_from(seen.parent).unwrap(), std::process::id());
        // Linux's own way says the same.
        #[cfg(target_os = "linux")]
        assert_eq!(Some(&seen), crate::platform::find_process(pid).as_ref());
        #[cfg(target_os = "linux")]
        assert_eq!(Some(&seen), crate::platform::processes().get(&pid));
        assert_eq!(Some(&seen), processes().get(&pid));
        assert_eq!(program_name(child.id()).as_deref(), Some("sleep"));
        assert!(start_time(child.id()).is_some());
        assert_eq!(start_time(child.id()), start_time(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((find_process(pid), start_time(child.id())), (None, None));
    }

    const ZONED: &str = "CBROKER_TEST_ZONED";

    #[test]
    fn a_start_reads_the_same_in_every_time_zone() {
        if std::env::var_os(ZONED).is_some() {
            println!(
                "it began {}",
                start_time(std::os::unix::process::parent_id()).unwrap()
            );
            return;
        }
        let here = format!("it began {}\n", start_time(std::process::id()).unwrap());
        for zone in ["JST-9", "PST8"] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let name = "platform::macos::process::tests::a_start_reads_the_same_in_every_time_zone";
            child.args(["--exact", name, "--nocapture"]);
            let output = child.env(ZONED, "1").env("TZ", zone).output().unwrap();
            let there = String::from_utf8_lossy(&output.stdout);
            assert!(there.contains(&here), "{zone}: {there}");
        }
    }

    #[test]
    fn an_open_file_is_named() {
        let us = i32::try_from(std::process::id()).unwrap();
        if open_files(us).is_empty() {
            eprintln!("skipped: there is no lsof");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(open_files(us).contains(&path));
    }
}
