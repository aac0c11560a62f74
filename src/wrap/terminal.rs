//! The person's terminal: in raw mode while a session runs, and restored on every exit.
//!
//! The terminal is opened a second time in non-blocking mode. Setting the inherited descriptors to
//! non-blocking would affect the shell that started this process, because both share one open file.
//!
//! Relies on `rustix`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, Termios, Winsize};

/// The original modes of the terminal while it is raw.
static RAW: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal of standard input and output.
#[derive(Debug)]
pub(super) struct Terminal {
    input: OwnedFd,
    output: OwnedFd,
    original: Termios,
}

impl Terminal {
    /// Opens the terminal of this process; `None` if standard input or output is not a terminal.
    pub(super) fn of_this_process() -> io::Result<Option<Self>> {
        let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        if !rustix::termios::isatty(stdin) || !rustix::termios::isatty(stdout) {
            return Ok(None);
        }
        let original = rustix::termios::tcgetattr(stdin)?;
        Ok(Some(Self {
            input: own_descriptor(stdin)?,
            output: own_descriptor(stdout)?,
            original,
        }))
    }

    /// The descriptor to read the person's keys from.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// The descriptor to write the program's output to.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// The modes before the session, with which the wrapped program starts.
    pub(super) fn original(&self) -> &Termios {
        &self.original
    }

    /// The current size of the window.
    pub(super) fn size(&self) -> io::Result<Winsize> {
        Ok(rustix::termios::tcgetwinsize(&self.output)?)
    }

    /// Whether another process group has the terminal. Then a change of its modes would stop this
    /// process.
    pub(super) fn is_in_background(&self) -> bool {
        is_in_background(self.input())
    }

    /// Sets raw mode until [`Terminal::leave_raw`] or until this is dropped.
    pub(super) fn enter_raw(&self) -> io::Result<()> {
        let mut raw = self.original.clone();
        raw.make_raw();
        remember(Some(self.original.clone()));
        // The mode is set without flushing input: keys typed ahead belong to the program.
        rustix::termios::tcsetattr(&self.input, OptionalActions::Now, &raw)?;
        Ok(())
    }

    /// Restores the original modes.
    #[expect(
        clippy::unused_self,
        reason = "only the owner of the terminal may restore it"
    )]
    pub(super) fn leave_raw(&self) {
        restore_after_panic();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave_raw();
    }
}

/// Restores the terminal after a panic; does nothing if it is not raw, or if a shell has taken it,
/// which has set modes of its own.
pub(super) fn restore_after_panic() {
    if let Some(original) = remember(None)
        && !is_in_background(rustix::stdio::stdin())
    {
        let _terminal_is_gone =
            rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &original);
    }
}

fn is_in_background(terminal: BorrowedFd<'_>) -> bool {
    let foreground = rustix::termios::tcgetpgrp(terminal);
    foreground.is_ok_and(|group| group != rustix::process::getpgrp())
}

fn remember(modes: Option<Termios>) -> Option<Termios> {
    let mut raw = RAW
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::replace(&mut *raw, modes)
}

/// Opens the same terminal in non-blocking mode. A terminal without a name here (in another mount
/// namespace) is used as it is, and only read when input is available.
fn own_descriptor(of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let named = rustix::termios::ttyname(of, Vec::new())
        .and_then(|name| rustix::fs::open(name.as_c_str(), flags, Mode::empty()));
    match named {
        Ok(descriptor) => Ok(descriptor),
        Err(_) => of.try_clone_to_owned(),
    }
}
