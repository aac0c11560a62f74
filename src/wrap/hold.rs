//! The reasons why a message waits, as shown to a person.
//!
//! The same words are used in `cbroker list`, `cbroker inbox`, receipts, the page and the session's
//! log.

use std::fmt;

/// A reason why a message waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The agent has not drawn its prompt, or its hooks have not reported that the session began.
    Starting,
    /// A turn runs, or the output is not quiet yet.
    Busy,
    /// The box holds a person's text, or a person typed recently.
    Draft,
    /// A dialog waits for the person; the text is its name, if known.
    Dialog(String),
    /// The box is in shell mode, where its text would be executed.
    ShellMode,
    /// The box is in vim's NORMAL mode, where its text would be commands.
    VimNormal,
    /// The screen shows something that is not the prompt.
    UnknownScreen,
    /// This program in the terminal's foreground would execute the text.
    Executes(String),
    /// A person stopped the program (Ctrl-Z).
    Suspended,
    /// A person ran `cbroker pause`.
    Paused,
    /// A person pressed Escape; the agent takes messages again after their next input.
    Escaped,
    /// Two agents seem to answer each other endlessly.
    Loop,
    /// Messages are only announced; `cbroker inbox` shows them.
    Notify,
    /// Every way in is closed, or was disabled after failures.
    NoWay,
    /// The box holds a message, and no Enter will follow.
    Stuck,
    /// The window is too small to show a text, even one that names a file.
    SmallWindow,
    /// The message was typed and never shown; it may still appear in the box.
    Unseen,
    /// The person's hook or settings refused it.
    Refused(String),
    /// A command is shown messages, and has not confirmed that its reader has them.
    Taking,
    /// An earlier message is with the agent and not in its context yet.
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
            Self::Taking => out.write_str("a command is taking messages"),
            Self::Behind => out.write_str("behind the message before it"),
        }
    }
}
