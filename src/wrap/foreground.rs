//! Finds out whether a program in the terminal's foreground would execute a text that is typed
//! there.
//!
//! The command line at the start of a session does not answer this: a launcher may become a shell,
//! or start one on another terminal and forward keys, and a shell may follow the program that
//! ended. So the processes are inspected right before a text is typed, and before its Enter:
//!
//! ```text
//! terminal ── foreground process group ── each process of it ── all their descendants
//! ```
//!
//! - A shell or interpreter that reads commands, or a program that leads to one (`ssh`, `tmux`),
//!   holds the text.
//! - Descendants of an agent count only if they read a terminal: its tools and servers read pipes.
//! - Descendants of any other program are inspected too.
//!
//! The decision is pure ([`executes`]); [`executing_program`] gets the processes from the system,
//! which takes a few milliseconds. If the system does not list them, only the command line is used.
//!
//! Relies on the profiles for the programs that execute their input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::agents::{DefaultDelivery, Profile, is_interpreter};
use crate::platform;
pub use crate::platform::ForegroundProcess;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProcessKind {
    Executes,
    Agent,
    Other,
}

/// The program that would execute a text typed into the terminal behind `master`; `None` if none is
/// known to.
pub fn executing_program(master: BorrowedFd<'_>) -> Option<String> {
    let processes = platform::foreground()?;
    match rustix::termios::tcgetpgrp(master) {
        Ok(group) => executes(&processes, group.as_raw_nonzero().get()),
        Err(_) => Some("an unidentified program possibly".to_owned()),
    }
}

/// The program in the foreground group, or descended from it, that executes its input.
pub fn executes(processes: &BTreeMap<i32, ForegroundProcess>, foreground: i32) -> Option<String> {
    processes
        .iter()
        .find(|(pid, process)| {
            let Some(has_agent) = has_agent_ancestor(processes, **pid, foreground) else {
                return false;
            };
            kind(process) == ProcessKind::Executes && (!has_agent || process.reads_terminal)
        })
        .map(|(_, process)| display_name(process).to_owned())
}

/// Whether an agent is an ancestor of this process; `None` if the process is not part of the
/// foreground.
fn has_agent_ancestor(
    processes: &BTreeMap<i32, ForegroundProcess>,
    pid: i32,
    foreground: i32,
) -> Option<bool> {
    let mut process = processes.get(&pid)?;
    let mut is_of_it = process.group == foreground;
    let mut has_agent = false;
    // No chain of parents is longer than the number of processes; this bounds the loop if the list
    // is inconsistent.
    for _ in 0..processes.len() {
        let Some(parent) = processes.get(&process.parent) else {
            break;
        };
        // The shell that started the wrap and its ancestors are not part of the foreground.
        if parent.group == foreground {
            is_of_it = true;
        }
        has_agent |= kind(parent) == ProcessKind::Agent
            && !contains_foreground(processes, parent, foreground);
        process = parent;
    }
    is_of_it.then_some(has_agent)
}

/// Whether the foreground descends from this process, which is then outside of the wrap.
fn contains_foreground(
    processes: &BTreeMap<i32, ForegroundProcess>,
    process: &ForegroundProcess,
    foreground: i32,
) -> bool {
    let mut process = process;
    if process.group == foreground {
        return false;
    }
    for _ in 0..processes.len() {
        let Some(parent) = processes.get(&process.parent) else {
            return true;
        };
        if parent.group == foreground {
            return false;
        }
        process = parent;
    }
    true
}

fn kind(process: &ForegroundProcess) -> ProcessKind {
    let words = &process.arguments;
    let first = words.first().map(file_name).unwrap_or_default();
    // A file that many programs share does not identify the program, nor does a command line that
    // an interpreter's script has replaced by a title.
    let file = process.program.as_deref().unwrap_or(&process.name);
    let is_title = !words.is_empty() && is_interpreter(file) && !is_interpreter(&first);
    if is_title {
        return kind_by_name(&first, &[], ProcessKind::Other);
    }
    let rest = words.get(1..).unwrap_or_default();
    if file == "busybox" && first != "busybox" {
        return kind_by_name(&first, rest, ProcessKind::Other);
    }
    if is_cbroker(file) {
        return kind_of_nested_wrap(rest);
    }
    let by_file = kind_by_name(file, rest, ProcessKind::Other);
    if by_file != ProcessKind::Other {
        return by_file;
    }
    let is_script = |word: &&OsString| !word.as_encoded_bytes().starts_with(b"-");
    let script = rest.iter().position(|word| is_script(&word));
    let by_script = match script {
        // An interpreter's script may be a shell or an agent.
        Some(at) if is_interpreter(file) => {
            kind_by_name(&file_name(&rest[at]), &rest[at + 1..], ProcessKind::Other)
        }
        _ => ProcessKind::Other,
    };
    if by_script == ProcessKind::Other {
        kind_by_name(&first, rest, ProcessKind::Other)
    } else {
        by_script
    }
}

/// The kind of the program that a nested wrap is about to run and that may not have started yet.
fn kind_of_nested_wrap(arguments: &[OsString]) -> ProcessKind {
    let is_verb = |word: &OsString| word == "run" || word == "__monitor" || word == "__gate";
    let Some(at) = arguments.iter().position(is_verb) else {
        return ProcessKind::Other;
    };
    // A monitor has one more argument in front of the command.
    let words = if arguments[at] == "__monitor" { 2 } else { 1 };
    let rest = arguments.get(at + words..).unwrap_or_default();
    let rest = rest.strip_prefix(&[OsString::from("--")]).unwrap_or(rest);
    match rest.split_first() {
        // A nested agent must not exempt other programs of its wrap.
        Some((program, arguments))
            if kind_by_name(&file_name(program), arguments, ProcessKind::Other)
                == ProcessKind::Executes =>
        {
            ProcessKind::Executes
        }
        _ => ProcessKind::Other,
    }
}

fn kind_by_name(name: &str, arguments: &[OsString], otherwise: ProcessKind) -> ProcessKind {
    let profile = Profile::named(name, arguments);
    match profile.default_delivery {
        DefaultDelivery::NoticeOnly => ProcessKind::Executes,
        DefaultDelivery::Typing => ProcessKind::Agent,
        DefaultDelivery::Notice => otherwise,
    }
}

fn is_cbroker(name: &str) -> bool {
    let binary = std::env::current_exe().ok();
    let ours = binary.as_deref().and_then(Path::file_name);
    name == "cbroker" || ours.is_some_and(|ours| ours == name)
}

fn file_name(word: &OsString) -> String {
    let name = Path::new(word).file_name().unwrap_or(word);
    name.to_string_lossy().into_owned()
}

fn display_name(process: &ForegroundProcess) -> &str {
    process.program.as_deref().unwrap_or(&process.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREGROUND: i32 = 10;

    /// Parses lines `pid parent group flags: file | command line`; the flag `t` means that the
    /// process reads a terminal.
    fn processes(lines: &[&str]) -> BTreeMap<i32, ForegroundProcess> {
        lines
            .iter()
            .map(|line| {
                let (numbers, rest) = line.split_once(": ").unwrap_or_default();
                let (file, words) = rest.split_once(" | ").unwrap_or_default();
                let mut numbers = numbers.split(' ');
                let mut number = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                let (pid, parent, group) = (number(), number(), number());
                let process = ForegroundProcess {
                    parent,
                    group,
                    name: file.to_owned(),
                    program: Some(file.to_owned()),
                    arguments: words.split(' ').map(OsString::from).collect(),
                    reads_terminal: line.contains(" t: "),
                };
                (pid, process)
            })
            .collect()
    }

    fn held(lines: &[&str]) -> Option<String> {
        executes(&processes(lines), FOREGROUND)
    }

    #[test]
    fn programs_that_execute_their_input_are_found_in_the_foreground_and_its_descendants() {
        for lines in [
            &["10 1 10 t: bash | bash"][..],
            &["10 1 10 t: sh | sh -c x", "11 10 10 t: bash | -bash"],
            &["10 1 10 t: socat | socat - EXEC:bash,pty"],
            &[
                "10 1 10: tool | tool",
                "11 10 11: sh | sh -c x",
                "12 11 12 t: bash | bash -i",
            ],
            &["10 1 10 t: python3.12 | python3 -m code"],
            &["10 1 10 t: python3.12 | python3 /usr/bin/ipython"],
            &["10 1 10 t: cbroker | cbroker --name a run -- bash --norc"],
            &["10 1 10 t: cbroker | cbroker __gate bash"],
            &["10 1 10 t: cbroker | cbroker __monitor free bash"],
            &["10 1 10 t: busybox | sh"],
            &["10 1 10 t: bash | claude"],
            &["10 1 10: claude | claude", "11 10 10 t: bash | bash"],
            &["10 1 10: tool | tool", "11 10 10: bash | bash"],
        ] {
            assert!(held(lines).is_some(), "{lines:?}");
        }
    }

    #[test]
    fn other_programs_and_an_agents_children_on_pipes_do_not_hold() {
        for lines in [
            &["10 1 10 t: tool | tool"][..],
            &["9 1 9 t: bash | bash", "10 9 10 t: tool | tool"],
            &[
                "9 1 9 t: bash | bash",
                "10 9 10 t: sh | sh run.sh",
                "11 10 10 t: tool | tool",
            ],
            &[
                "10 1 10 t: node | claude",
                "11 10 10: bash | bash",
                "12 10 10: python3.12 | python3",
            ],
            &[
                "10 1 10 t: node | node /usr/bin/gemini",
                "11 10 11: bash | bash",
            ],
            &["10 1 10 t: 2.1.332 | claude", "11 10 10: bash | bash"],
            &["10 1 10 t: cbroker | cbroker toy --record x"],
            &["10 1 10 t: python3.12 | python3 app.py"],
            &["10 1 10 t: busybox | vi file"],
            &["10 1 10 t: tool | tool", "20 1 20 t: bash | bash"],
        ] {
            assert_eq!(held(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn an_agent_outside_the_wrap_does_not_count() {
        let lines = [
            "5 1 5 t: claude | claude",
            "9 5 5: cbroker | cbroker --name a run -- tool",
            "10 9 10: tool | tool",
            "11 10 11: bash | bash",
        ];
        assert_eq!(held(&lines).as_deref(), Some("bash"));
    }

    #[test]
    fn this_process_is_found_with_its_arguments() {
        let all = platform::foreground().unwrap_or_default();
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        if let Some(us) = all.get(&pid) {
            assert!(!us.arguments.is_empty());
            assert!(us.group > 0 && us.parent > 0);
        }
    }
}
