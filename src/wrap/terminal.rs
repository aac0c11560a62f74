//! The person's terminal: raw while a session runs, and as it was before on every way out.
//!
//! The terminal is opened a second time, without blocking. Switching the inherited descriptors to
//! non-blocking would switch them for the shell that started us too, since both share one open
//! file.
//!
//! Relies on `rustix`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, Termios, Winsize};

/// Modes of the terminal in use, as they were.
static RAW: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal that standard input and output belong to.
#[derive(Debug)]
pub(super) struct Terminal {
    input: OwnedFd,
    output: OwnedFd,
    original: Termios,
}

impl Terminal {
    /// The terminal of this process, or `None` where standard input or output is none.
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

    /// Where the person's keys come from.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Where the program's output goes.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// The modes before the session began; the wrapped program starts with the same.
    pub(super) fn original(&self) -> &Termios {
        &self.original
    }

    /// The window's size now.
    pub(super) fn size(&self) -> io::Result<Winsize> {
        Ok(rustix::termios::tcgetwinsize(&self.output)?)
    }

    /// Every key goes to the program unread, from now until [`Terminal::leave_raw`] or the drop of
    /// `self`.
    pub(super) fn enter_raw(&self) -> io::Result<()> {
        let mut raw = self.original.clone();
        raw.make_raw();
        remember(Some(self.original.clone()));
        // Now, not "after a flush": what the person typed ahead belongs to the program.
        rustix::termios::tcsetattr(&self.input, OptionalActions::Now, &raw)?;
        Ok(())
    }

    /// Gives the terminal back as it was; to stay raw again, [`Terminal::enter_raw`].
    #[expect(
        clippy::unused_self,
        reason = "whoever has the terminal gives it back; what it was is kept for panics too"
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

/// Gives the terminal back from wherever a panic happens; does nothing where none is raw.
pub(super) fn restore_after_panic() {
    if let Some(original) = remember(None) {
        let _terminal_is_gone =
            rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &original);
    }
}

fn remember(modes: Option<Termios>) -> Option<Termios> {
    let mut raw = RAW
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::replace(&mut *raw, modes)
}

/// The same terminal, non-blocking, without touching the flags that others see. A terminal without
/// a name here (another mount namespace) is used as it is: it is only read when it has something.
fn own_descriptor(of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let named = rustix::termios::ttyname(of, Vec::new())
        .and_then(|name| rustix::fs::open(name.as_c_str(), flags, Mode::empty()));
    match named {
        Ok(descriptor) => Ok(descriptor),
        Err(_) => of.try_clone_to_owned(),
    }
}
