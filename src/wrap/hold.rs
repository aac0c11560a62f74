//! Why a message is not typed now, in words that a person reads.
//!
//! The same words stand in `cbroker list`, in receipts and in the session's log. Relies on nothing.

use std::fmt;

/// A reason to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The agent has not drawn its prompt, or has not said that its session began.
    Starting,
    /// A turn runs, or the screen has not come to rest.
    Busy,
    /// A person's text stands in the box, or a person typed a moment ago.
    Draft,
    /// A dialog waits for a person; its name where it is known.
    Dialog(String),
    /// The box is in shell mode: its text would be executed.
    ShellMode,
    /// The box is in vim's NORMAL mode: its text would be commands.
    VimNormal,
    /// The screen shows something that is not the prompt.
    UnknownScreen,
    /// The terminal's foreground runs this, which would execute the text.
    Executes(String),
    /// A person stopped the program (Ctrl-Z).
    Suspended,
    /// A person said `cbroker pause`.
    Paused,
    /// Two agents seem to answer each other without end.
    Loop,
    /// Nothing is ever typed into this program; `cbroker inbox` reads.
    Notify,
    /// The keyboard and the hook are both switched off after failures.
    NoWay,
    /// The text stands in the box, but the agent did not take its Enter.
    EnterNotTaken,
    /// The text was typed, but a person typed on before it could be submitted.
    Mixed,
}

impl fmt::Display for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => out.write_str("starting"),
            Self::Busy => out.write_str("busy"),
            Self::Draft => out.write_str("draft"),
            Self::Dialog(name) if name.is_empty() => out.write_str("dialog"),
            Self::Dialog(name) => write!(out, "dialog: {name}"),
            Self::ShellMode => out.write_str("shell mode"),
            Self::VimNormal => out.write_str("vim normal mode"),
            Self::UnknownScreen => out.write_str("unknown screen"),
            Self::Executes(program) => write!(out, "{program} executes what is typed"),
            Self::Suspended => out.write_str("suspended"),
            Self::Paused => out.write_str("paused"),
            Self::Loop => out.write_str("loop?"),
            Self::Notify => out.write_str("read it with `cbroker inbox`"),
            Self::NoWay => out.write_str("no way in works"),
            Self::EnterNotTaken => out.write_str("typed, but Enter was not taken"),
            Self::Mixed => out.write_str("typed, but not submitted: somebody typed on"),
        }
    }
}
