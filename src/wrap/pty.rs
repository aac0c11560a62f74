//! The wrapped program in a pseudo-terminal of its own, under a [`monitor`].
//!
//! Relies on `portable-pty` to open the terminal, on `rustix` for its modes and size, and on the
//! standard library for the processes: the monitor needs a socket beside the terminal and raw exit
//! statuses, which `portable-pty`'s own spawning closes and loses.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portable_pty::PtySize;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize};

use super::monitor::{self, Afterlife, ChildStatus, ChildStatusReader};

/// What to run, and with which additions to our own environment.
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
    /// This command with the environment applied, ready for more.
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

/// How a program starts: modes and size of its pseudo-terminal, and what its end depends on.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Terminal modes; the system's own where there is none to copy.
    pub modes: Option<Termios>,
    /// Rows, columns and, where known, pixels.
    pub size: Winsize,
    /// What becomes of it when this process is gone.
    pub afterlife: Afterlife,
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
    pub fn start(command: &CommandLine, shape: &Shape) -> io::Result<Self> {
        let (master, terminal) = open(shape.size)?;
        if let Some(modes) = &shape.modes {
            rustix::termios::tcsetattr(&terminal, OptionalActions::Now, modes)?;
        }
        let (statuses, theirs) = UnixStream::pair()?;
        let monitor = command
            .to_command(std::env::current_exe()?.as_os_str())
            .arg(monitor::MONITOR)
            .arg(shape.afterlife.word())
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

    /// The master side, non-blocking: what is written here the program reads as keys.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// A socket that is readable when [`Program::child_statuses`] has something to say.
    pub fn monitor_socket(&self) -> io::Result<UnixStream> {
        self.statuses.try_clone()
    }

    /// What the monitor reported since the last call; `None` once it is gone. Never blocks.
    pub fn child_statuses(&mut self) -> io::Result<Option<Vec<ChildStatus>>> {
        let statuses = self.partial.read(&self.statuses)?;
        for status in statuses.iter().flatten() {
            match status {
                ChildStatus::Started(pid) => self.pid = Pid::from_raw(*pid),
                // From here on the number may belong to another process.
                ChildStatus::Exited(_) | ChildStatus::Killed(_) | ChildStatus::Failed(_) => {
                    self.pid = None;
                }
                ChildStatus::Stopped(_) | ChildStatus::Continued => {}
            }
        }
        Ok(statuses)
    }

    /// Tells the program that its window changed.
    pub fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(&self.master, size)?)
    }

    /// There is a program to signal.
    pub fn has_started(&self) -> bool {
        self.pid.is_some()
    }

    /// The program's process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.pid.map(|pid| pid.as_raw_nonzero().get())
    }

    /// Sends a signal to the program alone; nothing before it runs and once it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _already_gone = rustix::process::kill_process(pid, signal);
        }
    }

    /// Lets the program and all in its process group run again after a stop.
    pub fn continue_group(&self) {
        if let Some(pid) = self.pid {
            let _already_gone = rustix::process::kill_process_group(pid, Signal::CONT);
        }
    }

    /// Whether the program has read all that was written to it; `None` where the system does not
    /// tell. Only in raw mode, where input is not collected into lines.
    pub fn has_read_input(&self) -> Option<bool> {
        let name = rustix::pty::ptsname(&self.master, Vec::new()).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Opened for this question alone: a terminal that we kept open would hide the program's end
        // from us.
        let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).ok()?;
        Some(rustix::io::ioctl_fionread(&terminal).ok()? == 0)
    }

    /// The terminal collects lines for the program: it cuts those of more than 4,095 bytes.
    pub fn reads_lines(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.master);
        modes.is_ok_and(|modes| modes.local_modes.contains(LocalModes::ICANON))
    }
}

/// Both sides of a new pseudo-terminal of this size: the master, and the terminal itself.
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
    /// Collects the monitor, which ends by itself after its last report or at the hang-up.
    fn drop(&mut self) {
        let _not_started = self.monitor.try_wait();
    }
}

/// Where `execvp` looks when there is no `PATH`.
const PATH_OF_EXECVP: &str = "/bin:/usr/bin";

/// The file that `program` names, looked for as `execvp` does in `path`; `None` when there is none
/// to execute.
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
