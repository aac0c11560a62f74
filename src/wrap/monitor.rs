//! The monitor: a small session leader between the wrap and the wrapped program.
//!
//! The leader of a new session is an orphaned process group, which the kernel never stops, but a
//! wrapped program must be stoppable. So this binary is started twice more: as the *monitor*, which
//! leads the session, owns the terminal and waits, and as the *gate*, which becomes the program
//! once its process group is in the foreground. The gate stops itself and the monitor continues it,
//! so the program never runs in the background.
//!
//! The monitor reports to the wrap over its standard input, a socket, with one [`ChildStatus`] of
//! five bytes for each event. It takes no orders: the wrap signals the program itself. The program
//! stays a zombie until the monitor ends, so its process id is not reused meanwhile.
//!
//! If configured, it ends the program after the wrap has ended: some agents survive the hang-up of
//! their terminal, and an invisible agent would continue to receive messages.
//!
//! Relies on `rustix`, and on `libc` to ignore a signal; runs before any runtime, thread or
//! configuration exists.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::platform;

/// First argument that makes this binary a monitor.
pub(super) const MONITOR: &str = "__monitor";
/// First argument that makes this binary a gate.
pub(super) const GATE: &str = "__gate";

/// The signals that end the program after the wrap has ended, each with the pause before it.
const END_SIGNALS: [(Duration, Signal); 2] = [
    (Duration::from_secs(3), Signal::TERM),
    (Duration::from_secs(7), Signal::KILL),
];
/// Time limit for noticing the wrap's end after the hang-up ended the program, which may have left
/// a child.
const WRAP_ENDS_WITHIN: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Stack size of the thread that waits for the wrap's end.
const STACK: usize = 64 * 1024;

/// What happens to the program when the wrap ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWrapExit {
    /// It gets the hang-up of its terminal and may continue.
    KeepRunning,
    /// The monitor ends it soon after.
    EndProgram,
}

impl OnWrapExit {
    /// The monitor's first argument.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::KeepRunning => "free",
            Self::EndProgram => "none",
        }
    }
}

/// A shell's exit codes for a program that cannot be run, and for one that is not found.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// A state change of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildStatus {
    /// The program runs in the foreground, with this process id, which is also its process group.
    Started(i32),
    /// A signal stopped it.
    Stopped(i32),
    /// It runs again.
    Continued,
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It could not be started; the error number.
    Failed(i32),
}

impl fmt::Display for ChildStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(pid) => write!(out, "runs as process {pid}"),
            Self::Stopped(signal) => write!(out, "was stopped by signal {signal}"),
            Self::Continued => out.write_str("runs again"),
            Self::Exited(status) => write!(out, "exited with {status}"),
            Self::Killed(signal) => write!(out, "was ended by signal {signal}"),
            Self::Failed(number) => {
                let error = io::Error::from_raw_os_error(*number);
                write!(out, "could not be started: {error}")
            }
        }
    }
}

impl ChildStatus {
    /// Bytes of each report on the socket.
    pub const LENGTH: usize = 5;

    /// Encodes this report: a letter and a big-endian number.
    pub fn encode(self) -> [u8; Self::LENGTH] {
        let (letter, number) = match self {
            Self::Started(pid) => (b'P', pid),
            Self::Stopped(signal) => (b'S', signal),
            Self::Continued => (b'C', 0),
            Self::Exited(status) => (b'E', status),
            Self::Killed(signal) => (b'K', signal),
            Self::Failed(error) => (b'F', error),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [letter, a, b, c, d]
    }

    /// Decodes the bytes of [`ChildStatus::encode`]; `None` if they are not a report.
    pub fn decode([letter, a, b, c, d]: [u8; Self::LENGTH]) -> Option<Self> {
        let number = i32::from_be_bytes([a, b, c, d]);
        match letter {
            b'P' => Some(Self::Started(number)),
            b'S' => Some(Self::Stopped(number)),
            b'C' => Some(Self::Continued),
            b'E' => Some(Self::Exited(number)),
            b'K' => Some(Self::Killed(number)),
            b'F' => Some(Self::Failed(number)),
            _ => None,
        }
    }
}

/// Runs as monitor: standard input is the socket to the wrap, standard output the terminal to lead.
///
/// Returns the exit status of the monitor itself, which is not used.
pub(super) fn monitor(arguments: &[OsString]) -> i32 {
    let [on_wrap_exit, command @ ..] = arguments else {
        return 1;
    };
    match lead(command, on_wrap_exit == OnWrapExit::EndProgram.word()) {
        Ok(()) => 0,
        Err(error) => {
            report(ChildStatus::Failed(error.raw_os_error().unwrap_or(0)));
            1
        }
    }
}

fn lead(command: &[OsString], ends_with_wrap: bool) -> io::Result<()> {
    rustix::process::setsid()?;
    let terminal = rustix::stdio::stdout();
    rustix::process::ioctl_tiocsctty(terminal)?;
    let gate = Command::new(std::env::current_exe()?)
        .arg(GATE)
        .args(command)
        .stdin(duplicate(terminal)?)
        .stdout(duplicate(terminal)?)
        .stderr(duplicate(terminal)?)
        .process_group(0)
        .spawn()?;
    let raw = i32::try_from(gate.id()).map_err(io::Error::other)?;
    let program = Pid::from_raw(raw).ok_or(io::ErrorKind::NotFound)?;
    rustix::process::waitid(
        WaitId::Pid(program),
        WaitIdOptions::STOPPED | WaitIdOptions::EXITED,
    )?;
    rustix::termios::tcsetpgrp(terminal, program)?;
    report(ChildStatus::Started(raw));
    if !ends_with_wrap {
        run(program)?;
        return Ok(());
    }
    // The gate was started before this, so it has the original signal actions.
    ignore_hang_up();
    let ending = thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || end_with_wrap(program))?;
    let end = run(program)?;
    // While this process lives, the ids of the program and its group are not reused.
    let limit = match end {
        ChildStatus::Killed(signal) if signal == Signal::HUP.as_raw() => WRAP_ENDS_WITHIN,
        _ => Timespec::default(),
    };
    if is_wrap_gone(Some(&limit)) {
        let _panicked = ending.join();
    }
    Ok(())
}

fn run(program: Pid) -> io::Result<ChildStatus> {
    rustix::process::kill_process(program, Signal::CONT)?;
    // The gate's own stop is consumed and not reported.
    consume_state_change(program)?;
    watch(program)
}

/// Ignores SIGHUP: the monitor must survive the hang-up to end the program.
#[expect(unsafe_code, reason = "the system has a C interface")]
fn ignore_hang_up() {
    // SAFETY: SIG_IGN installs no handler, so no code of ours runs in signal context. No other
    // thread exists yet, and the action of SIGHUP may be changed.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
}

/// Waits for the wrap's end, then ends the program's process group: a launcher may have ended
/// before the agent that it started.
fn end_with_wrap(program: Pid) {
    while !is_wrap_gone(None) {}
    for (pause, signal) in END_SIGNALS {
        thread::sleep(pause);
        for signal in [signal, Signal::CONT] {
            let _nothing_is_left = rustix::process::kill_process_group(program, signal);
        }
    }
}

/// Whether the wrap's end of the socket is closed within this time. The wrap never sends data.
fn is_wrap_gone(limit: Option<&Timespec>) -> bool {
    let stdin = rustix::stdio::stdin();
    let mut sockets = [PollFd::new(&stdin, PollFlags::IN)];
    let is_there = rustix::event::poll(&mut sockets, limit);
    is_there == Ok(1)
}

/// Reports every stop, every continuation and the end. The program is deliberately not reaped.
fn watch(program: Pid) -> io::Result<ChildStatus> {
    loop {
        let all = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED;
        let status =
            match rustix::process::waitid(WaitId::Pid(program), all | WaitIdOptions::NOWAIT) {
                Ok(Some(status)) => status,
                Ok(None) | Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
        let Some(seen) = child_status_of(&status) else {
            continue;
        };
        report(seen);
        if matches!(seen, ChildStatus::Exited(_) | ChildStatus::Killed(_)) {
            return Ok(seen);
        }
        consume_state_change(program)?;
    }
}

fn child_status_of(status: &WaitIdStatus) -> Option<ChildStatus> {
    if let Some(code) = status.exit_status() {
        return Some(ChildStatus::Exited(code));
    }
    if let Some(signal) = status.terminating_signal() {
        return Some(ChildStatus::Killed(signal));
    }
    if let Some(signal) = status.stopping_signal() {
        return Some(ChildStatus::Stopped(signal));
    }
    status.continued().then_some(ChildStatus::Continued)
}

fn consume_state_change(program: Pid) -> io::Result<()> {
    let stops = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::Pid(program), stops) {
        Ok(_) | Err(rustix::io::Errno::CHILD) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends a report. Errors are ignored: if the wrap has ended, the hang-up of the terminal ends
/// monitor and program.
fn report(seen: ChildStatus) {
    let bytes = seen.encode();
    let mut sent = 0;
    while sent < bytes.len() {
        match rustix::io::write(rustix::stdio::stdin(), &bytes[sent..]) {
            Ok(0) => return,
            Ok(count) => sent += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn duplicate(terminal: BorrowedFd<'_>) -> io::Result<Stdio> {
    let own: OwnedFd = terminal.as_fd().try_clone_to_owned()?;
    Ok(Stdio::from(own))
}

/// Runs as gate: stops until the monitor has put this process group in the foreground, then
/// executes `command`.
pub(super) fn gate(command: &[OsString]) -> i32 {
    let [program, arguments @ ..] = command else {
        return CANNOT_RUN;
    };
    // A gate whose monitor died before this stop would never be continued. The program may outlive
    // the monitor.
    if platform::end_with_parent().is_err()
        || rustix::process::kill_process(rustix::process::getpid(), Signal::STOP).is_err()
        || platform::outlive_parent().is_err()
    {
        return CANNOT_RUN;
    }
    let error = Command::new(program).args(arguments).exec();
    let _nobody_to_tell = writeln!(
        io::stderr(),
        "cbroker: {} cannot be run: {error}\r",
        program.to_string_lossy()
    );
    if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        CANNOT_RUN
    }
}

/// Splits the byte stream of a monitor into reports.
#[derive(Debug, Default)]
pub(super) struct ChildStatusReader {
    partial: Vec<u8>,
}

impl ChildStatusReader {
    /// Reads the available reports from `source`. `Ok(None)` means that the monitor has ended.
    pub(super) fn read(&mut self, mut source: impl Read) -> io::Result<Option<Vec<ChildStatus>>> {
        let mut bytes = [0; 16 * ChildStatus::LENGTH];
        let count = source.read(&mut bytes)?;
        if count == 0 {
            return Ok(None);
        }
        self.partial.extend_from_slice(&bytes[..count]);
        let whole = self.partial.len() / ChildStatus::LENGTH * ChildStatus::LENGTH;
        let statuses = self.partial[..whole]
            .chunks_exact(ChildStatus::LENGTH)
            .filter_map(|chunk| ChildStatus::decode(chunk.try_into().ok()?))
            .collect();
        self.partial.drain(..whole);
        Ok(Some(statuses))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_report_can_be_decoded() {
        for report in [
            ChildStatus::Started(4711),
            ChildStatus::Stopped(20),
            ChildStatus::Continued,
            ChildStatus::Exited(255),
            ChildStatus::Killed(9),
            ChildStatus::Failed(2),
        ] {
            assert_eq!(ChildStatus::decode(report.encode()), Some(report));
        }
        assert_eq!(ChildStatus::decode([b'?', 0, 0, 0, 0]), None);
    }

    #[test]
    fn split_reports_are_joined() {
        let mut reader = ChildStatusReader::default();
        let bytes = [
            ChildStatus::Started(7).encode(),
            ChildStatus::Exited(3).encode(),
        ]
        .concat();
        assert_eq!(
            reader.read(&bytes[..7]).unwrap(),
            Some(vec![ChildStatus::Started(7)])
        );
        assert_eq!(
            reader.read(&bytes[7..]).unwrap(),
            Some(vec![ChildStatus::Exited(3)])
        );
        assert_eq!(reader.read(io::empty()).unwrap(), None);
    }
}
