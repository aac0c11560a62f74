//! The numbers that scripts rely on. Relies on nothing.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: what was typed makes no sense.
    Usage,
    /// 3: the broker cannot be reached, or it refused us.
    Unreachable,
    /// 4: not confirmed, or timed out.
    Unconfirmed,
    /// A wrapped program's own code; 128 + n where signal n ended it.
    Child(u8),
}

impl Exit {
    /// The number that the shell sees.
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
