//! Why a message waits, in words that a person reads.
//!
//! The same words stand in `cbroker list`, `cbroker inbox`, receipts, the page and the session's
//! log. Relies on nothing.

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
    /// A dialog waits for a person: what it asks, where that is known.
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
    /// A person pressed Escape; the agent takes messages again after their next input.
    Escaped,
    /// Two agents seem to answer each other without end.
    Loop,
    /// Nothing is ever typed into this program; `cbroker inbox` reads.
    Notify,
    /// Every way in is closed, or was switched off after failures.
    NoWay,
    /// The message stands in the box, and no Enter will follow.
    Stuck,
    /// The window cannot show a text whole, not even one that names a file.
    SmallWindow,
    /// The message was typed and never seen; it may still appear in the box.
    Unseen,
    /// The person's own hook or settings refused it.
    Refused(String),
    /// Another message is with the agent and not in its context yet.
    Behind,
}

impl fmt::Display for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => out.write_str("starting"),
            Self::Busy => out.write_str("busy"),
            Self::Draft => out.write_str("draft"),
            Self::Dialog(name) if name.is_empty() => out.write_str("needs you"),
            Self::Dialog(name) => write!(out, "needs you: {name}"),
            Self::ShellMode => out.write_str("shell mode"),
            Self::VimNormal => out.write_str("vim normal mode"),
            Self::UnknownScreen => out.write_str("unknown screen"),
            Self::Executes(program) => write!(out, "{program} executes what is typed"),
            Self::Suspended => out.write_str("suspended"),
            Self::Paused => out.write_str("paused"),
            Self::Escaped => out.write_str("you pressed Escape"),
            Self::Loop => out.write_str("loop?"),
            Self::Notify => out.write_str("read it with `cbroker inbox`"),
            Self::NoWay => out.write_str("no way in works"),
            Self::Stuck => out.write_str("your input box holds a message; press Enter or clear it"),
            Self::SmallWindow => out.write_str("the window is too small to type into"),
            Self::Unseen => out.write_str("the agent does not show what was typed"),
            Self::Refused(why) if why.is_empty() => out.write_str("your agent refused it"),
            Self::Refused(why) => write!(out, "your agent refused it: {why}"),
            Self::Behind => out.write_str("behind the message before it"),
        }
    }
}
