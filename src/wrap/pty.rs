//! Runs the wrapped program in its own pseudo-terminal, under a [`monitor`].
//!
//! Relies on `portable-pty` to open the terminal, on `rustix` for its modes and size, and on the
//! standard library for the processes: the monitor needs a socket beside the terminal and raw exit
//! statuses, which the spawn function of `portable-pty` does not support.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portable_pty::PtySize;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize};

use super::monitor::{self, ChildStatus, ChildStatusReader, OnWrapExit};

/// A program with its arguments, and changes to the environment of this process.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// The program's name or path.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables to set (`Some`) or to remove (`None`).
    pub environment: Vec<(OsString, Option<OsString>)>,
}

impl CommandLine {
    /// Creates a [`Command`] for `program` with this environment.
    pub fn to_command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// How a program starts: the modes and the size of its pseudo-terminal, and what happens to it when
/// the wrap ends.
#[derive(Clone, Debug)]
pub struct ProgramSetup {
    /// Terminal modes; `None` for the system's defaults.
    pub modes: Option<Termios>,
    /// Rows, columns and, if known, pixels.
    pub size: Winsize,
    /// What happens to the program when this process ends.
    pub on_wrap_exit: OnWrapExit,
}

/// A running program, its terminal's master side and its monitor.
#[derive(Debug)]
pub struct Program {
    master: OwnedFd,
    statuses: UnixStream,
    partial: ChildStatusReader,
    monitor: std::process::Child,
    pid: Option<Pid>,
}

impl Program {
    /// Starts `command` in a new pseudo-terminal.
    pub fn start(command: &CommandLine, setup: &ProgramSetup) -> io::Result<Self> {
        let (master, terminal) = open(setup.size)?;
        if let Some(modes) = &setup.modes {
            rustix::termios::tcsetattr(&terminal, OptionalActions::Now, modes)?;
        }
        let (statuses, theirs) = UnixStream::pair()?;
        let monitor = command
            .to_command(std::env::current_exe()?.as_os_str())
            .arg(monitor::MONITOR)
            .arg(setup.on_wrap_exit.word())
            .arg(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(terminal.try_clone()?))
            .stderr(Stdio::from(terminal))
            .spawn()?;
        statuses.set_nonblocking(true)?;
        let blocking = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, blocking | OFlags::NONBLOCK)?;
        Ok(Self {
            master,
            statuses,
            partial: ChildStatusReader::default(),
            monitor,
            pid: None,
        })
    }

    /// The master side, non-blocking. The program reads bytes written here as keys.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// A socket that is readable when [`Program::child_statuses`] has new reports.
    pub fn monitor_socket(&self) -> io::Result<UnixStream> {
        self.statuses.try_clone()
    }

    /// The monitor's reports since the last call; `None` once it has ended. Never blocks.
    pub fn child_statuses(&mut self) -> io::Result<Option<Vec<ChildStatus>>> {
        let statuses = self.partial.read(&self.statuses)?;
        for status in statuses.iter().flatten() {
            match status {
                ChildStatus::Started(pid) => self.pid = Pid::from_raw(*pid),
                // From here on the process id may be reused.
                ChildStatus::Exited(_) | ChildStatus::Killed(_) | ChildStatus::Failed(_) => {
                    self.pid = None;
                }
                ChildStatus::Stopped(_) | ChildStatus::Continued => {}
            }
        }
        Ok(statuses)
    }

    /// Sets the size of the program's terminal.
    pub fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(&self.master, size)?)
    }

    /// Whether the program runs and can be signalled.
    pub fn has_started(&self) -> bool {
        self.pid.is_some()
    }

    /// The program's process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.pid.map(|pid| pid.as_raw_nonzero().get())
    }

    /// Sends a signal to the program alone, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _already_gone = rustix::process::kill_process(pid, signal);
        }
    }

    /// Continues the program's process group after a stop.
    pub fn continue_group(&self) {
        if let Some(pid) = self.pid {
            let _already_gone = rustix::process::kill_process_group(pid, Signal::CONT);
        }
    }

    /// Whether the program has read all of its input; `None` if the system does not tell. Valid in
    /// raw mode only, where input is not collected into lines.
    pub fn has_read_input(&self) -> Option<bool> {
        let name = rustix::pty::ptsname(&self.master, Vec::new()).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // The terminal is opened only for this call: if it stayed open, the program's end would go
        // unnoticed.
        let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).ok()?;
        // What was written may not have reached the terminal yet: the kernel hands it over later,
        // but before it answers a poll.
        let mut polled = [PollFd::new(&terminal, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).ok()?;
        Some(rustix::io::ioctl_fionread(&terminal).ok()? == 0)
    }

    /// Whether one of these bytes, as a key, makes the terminal send a signal and discard the input
    /// that the program has not read.
    pub fn discards_input_at(&self, bytes: &[u8]) -> bool {
        let Ok(modes) = rustix::termios::tcgetattr(&self.master) else {
            return false;
        };
        let codes = [
            SpecialCodeIndex::VINTR,
            SpecialCodeIndex::VQUIT,
            SpecialCodeIndex::VSUSP,
        ];
        // 0 turns a key off.
        let keys = codes.map(|code| modes.special_codes[code]);
        modes.local_modes.contains(LocalModes::ISIG)
            && !modes.local_modes.contains(LocalModes::NOFLSH)
            && bytes.iter().any(|byte| *byte != 0 && keys.contains(byte))
    }

    /// Whether every process has closed the terminal, or the session that it controlled has ended.
    /// Input that was not read is discarded then.
    pub fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.master, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Whether the terminal is in canonical mode, in which it truncates lines of more than 4,095
    /// bytes.
    pub fn reads_lines(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.master);
        modes.is_ok_and(|modes| modes.local_modes.contains(LocalModes::ICANON))
    }
}

/// Opens a new pseudo-terminal of this size: the master and the terminal.
pub(crate) fn open(size: Winsize) -> io::Result<(OwnedFd, OwnedFd)> {
    let size = PtySize {
        rows: size.ws_row,
        cols: size.ws_col,
        pixel_width: size.ws_xpixel,
        pixel_height: size.ws_ypixel,
    };
    let pair = portable_pty::native_pty_system()
        .openpty(size)
        .map_err(io::Error::other)?;
    let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
    let master = pair.master.as_raw_fd().ok_or_else(unsupported)?;
    // SAFETY: `pair.master` owns this descriptor and lives until the end of this function; the
    // borrow is only duplicated here.
    #[allow(unsafe_code)]
    let master = unsafe { BorrowedFd::borrow_raw(master) }.try_clone_to_owned()?;
    let name = pair.master.tty_name().ok_or_else(unsupported)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty())?;
    Ok((master, terminal))
}

impl Drop for Program {
    /// Reaps the monitor, which ends by itself after its last report or at the hang-up.
    fn drop(&mut self) {
        let _not_started = self.monitor.try_wait();
    }
}

/// The search path of `execvp` without `PATH`.
const PATH_OF_EXECVP: &str = "/bin:/usr/bin";

/// Finds the file that `program` names in `path`, as `execvp` does; `None` if there is no
/// executable file.
pub fn find_program(program: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    let executable = |candidate: &Path| {
        candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if program.as_encoded_bytes().contains(&b'/') {
        let candidate = PathBuf::from(program);
        return executable(&candidate).then_some(candidate);
    }
    std::env::split_paths(path.unwrap_or(OsStr::new(PATH_OF_EXECVP)))
        .map(|folder| folder.join(program))
        .find(|candidate| executable(candidate))
}
