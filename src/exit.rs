//! Exit codes. Scripts rely on them. Depends on nothing.

use std::process::ExitCode;

/// The result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: success.
    Done,
    /// 1: failure.
    Failed,
    /// 2: invalid command line.
    Usage,
    /// 3: the broker cannot be reached, or refused the login.
    Unreachable,
    /// 4: not confirmed, or timed out.
    Unconfirmed,
    /// The wrapped program's exit code, or 128 + n if signal n ended it.
    Child(u8),
}

impl Exit {
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
