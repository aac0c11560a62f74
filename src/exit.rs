//! Exit codes. Scripts rely on them. Depends on nothing.

use std::process::ExitCode;

/// The result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: success.
    Done,
    /// 1: failure.
    Failed,
    /// 2: invalid command line or `config.toml`.
    Usage,
    /// 3: the broker cannot be reached, or refused what was asked.
    Unreachable,
    /// 4: not confirmed, the queue is full, or the time is over.
    Unconfirmed,
    /// The wrapped program's exit code, or 128 + n if signal n ended it.
    Child(u8),
}

impl Exit {
    /// How a command of cbroker's own can end.
    pub const OWN: [Self; 5] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::Unconfirmed,
    ];

    /// What the exit code means, in the words of the help and of `docs/commands.md`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "broker unreachable or refused",
            Self::Unconfirmed => "not confirmed, queue full, or timed out",
            Self::Child(_) => "the code of the wrapped program",
        }
    }

    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Unconfirmed => 4,
            Self::Child(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
