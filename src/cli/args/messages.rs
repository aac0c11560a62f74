//! Arguments of the verbs about messages, queues and sessions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::duration::{Since, TimeToLive, seconds, since, time_to_live};
use crate::envelope::Priority;

/// Arguments that `send` and `ask` share.
#[derive(Args, Debug)]
pub struct MessageArgs {
    /// The recipient, or @GROUP (a word after --to is the text)
    #[arg(index = 1)]
    pub name: Option<String>,
    /// The text; without any, standard input
    #[arg(index = 2, allow_hyphen_values = true)]
    pub text: Option<String>,
    /// The text
    #[arg(
        short,
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with_all = ["message_file", "text"]
    )]
    pub message: Option<String>,
    /// A file that holds the text
    #[arg(long, value_name = "PATH", conflicts_with = "text")]
    pub message_file: Option<PathBuf>,
    /// A file to point the recipient to; repeats
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// The sender [default: the current session, else `cli`]
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// low, normal or high; information only, the order stays
    #[arg(long, value_name = "LEVEL", value_parser = priority)]
    pub priority: Option<Priority>,
    /// Further information; repeats
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub meta: Vec<(String, String)>,
    /// Milliseconds, or 10m, 2h: discard the message if it waits longer in its queue
    #[arg(long, value_name = "TIME", value_parser = time_to_live)]
    pub ttl: Option<TimeToLive>,
    /// Do not start the local broker when none answers
    #[arg(long)]
    pub no_start: bool,
}

impl MessageArgs {
    /// The text, if it looks like a mistyped option: one word of letters behind one or two dashes.
    pub(in crate::cli) fn option_like_text(&self) -> Option<&str> {
        let text = self.text.as_deref()?;
        let dashed = text.strip_prefix('-')?;
        let word = dashed.strip_prefix('-').unwrap_or(dashed);
        let is_word = word.starts_with(char::is_alphabetic) && !word.contains(char::is_whitespace);
        is_word.then_some(text)
    }
}

/// When a message comes in.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenArg {
    /// As a turn of its own, when the agent is idle
    #[default]
    Idle,
    /// Between two tools of the running turn
    Next,
    /// As next, and also after the person pressed Escape
    Now,
}

/// What `send --wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitArg {
    /// The message is in the model's context
    Delivered,
    /// The recipient has answered it; prints the answer
    Answered,
}

/// Arguments of `send`.
#[derive(Args, Debug)]
pub struct SendArgs {
    /// The recipient, or @GROUP for its members; several with commas; repeats
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub to: Vec<String>,
    /// The message and its sender.
    #[command(flatten)]
    pub message: MessageArgs,
    /// The session to send answers to
    #[arg(long, value_name = "NAME")]
    pub reply_to: Option<String>,
    /// The id of the message that this one answers
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    /// Refuse a name that no session has used
    #[arg(long)]
    pub must_exist: bool,
    /// If 1000 messages wait in the recipient's queue, delete the oldest of them, unread, instead
    /// of refusing this one; what its session holds stays
    #[arg(long)]
    pub drop_oldest: bool,
    /// When the message is delivered, where the agent can choose
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = WhenArg::Idle)]
    pub when: WhenArg,
    /// Wait until the recipient's model has the message, or until it has answered
    #[arg(
        long,
        value_name = "STATE",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "delivered"
    )]
    pub wait: Option<WaitArg>,
    /// Seconds, or 10m, 2h: how long --wait waits
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60",
        value_parser = seconds,
        requires = "wait"
    )]
    pub timeout: Duration,
}

/// Arguments of `ask`.
#[derive(Args, Debug)]
pub struct AskArgs {
    /// The recipient, or @GROUP for its members
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// The message and its sender.
    #[command(flatten)]
    pub message: MessageArgs,
    /// Seconds, or 10m, 2h: how long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "300", value_parser = seconds)]
    pub timeout: Duration,
}

/// What to do with groups.
#[derive(Subcommand, Debug)]
pub enum GroupVerb {
    /// Show the groups and their members
    #[command(after_help = "Examples:\n  cbroker group list\n  cbroker group list @backend")]
    List(GroupListArgs),
    /// Make sessions members of a group
    #[command(after_help = "Example:\n  cbroker group join backend api tests")]
    Join(MembershipArgs),
    /// Take sessions out of a group
    #[command(after_help = "Example:\n  cbroker group leave backend tests")]
    Leave(MembershipArgs),
}

/// Arguments of `group list`.
#[derive(Args, Debug)]
pub struct GroupListArgs {
    /// Only this group
    pub group: Option<String>,
}

/// Arguments of `group join` and `group leave`.
#[derive(Args, Debug)]
pub struct MembershipArgs {
    /// The group
    pub group: String,
    /// The sessions [default: the current one]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Arguments of `list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Keep running, and show what changes
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// The session
    pub name: String,
    /// What to wait for
    #[arg(long, value_name = "STATE", value_enum)]
    pub until: UntilArg,
    /// Seconds, or 10m, 2h: how long to wait
    #[arg(long, value_name = "TIME", default_value = "300", value_parser = seconds)]
    pub timeout: Duration,
}

/// The state that `wait` waits for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum UntilArg {
    /// The agent waits for a prompt
    Idle,
    /// The agent waits for its person's answer, or a message is stuck in its box
    NeedsYou,
    /// A session of this name is attached
    Attached,
    /// No session of this name is attached
    Closed,
}

impl UntilArg {
    /// The state in a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::NeedsYou => "in need of you",
            Self::Attached => "attached",
            Self::Closed => "closed",
        }
    }
}

/// Arguments of `screen`.
#[derive(Args, Debug)]
pub struct ScreenArgs {
    /// The session
    pub name: String,
}

/// Arguments of `inbox`.
#[derive(Args, Debug)]
pub struct InboxArgs {
    /// The session [default: the current one]
    pub name: Option<String>,
    /// Print the messages, and remove them: the agent does not get them; what it already has stays
    #[arg(long)]
    pub take: bool,
}

/// Arguments of `dead`.
#[derive(Args, Debug)]
pub struct DeadArgs {
    /// Only those of this session
    pub name: Option<String>,
    /// Send this one to its session again, with a new id; missing fields are filled in; of an id,
    /// the first four characters are enough
    #[arg(long, value_name = "ID", conflicts_with = "drop")]
    pub resend: Option<String>,
    /// Delete this one for good; of an id, the first four characters are enough
    #[arg(long, value_name = "ID")]
    pub drop: Option<String>,
    /// Send it also where another user may have published it
    #[arg(long, requires = "resend")]
    pub yes: bool,
}

/// Arguments of `why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// The message's id, as `send` printed it, or its last characters, at least six
    pub id: String,
}

/// Arguments of `history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Only messages from or to this session
    pub name: Option<String>,
    /// Only messages since then: 10m, 2h, 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Since>,
    /// Only messages whose text contains this; upper and lower case are the same
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub grep: Option<String>,
    /// Only the last N of them
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
}

/// Arguments of `tail`.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// The queue
    pub name: String,
    /// Only show messages; all stay in the queue
    #[arg(long)]
    pub no_ack: bool,
    /// Stop after this many messages
    #[arg(long, short = 'n', value_name = "N")]
    pub count: Option<u64>,
}

/// A queue, and the confirmation of a destructive command.
#[derive(Args, Debug)]
pub struct ConfirmedArgs {
    /// The queue
    pub name: String,
    /// Required: confirms the command
    #[arg(long)]
    pub yes: bool,
    /// Also while a session is attached, with what it holds; what its agent has stays
    #[arg(long)]
    pub force: bool,
}

/// The confirmation of a destructive command.
#[derive(Args, Debug)]
pub struct YesArgs {
    /// Required: confirms the command
    #[arg(long)]
    pub yes: bool,
}

/// One session or all.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct ScopeArgs {
    /// The session, or @GROUP
    pub name: Option<String>,
    /// Every attached session
    #[arg(long)]
    pub all: bool,
}

/// Why the value of an option cannot be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum ValueError {
    #[error("expected low, normal or high")]
    Priority,
    #[error("expected KEY=VALUE")]
    KeyValue,
}

fn priority(text: &str) -> Result<Priority, ValueError> {
    match text {
        "low" => Ok(Priority::Low),
        "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        _ => Err(ValueError::Priority),
    }
}

fn key_value(text: &str) -> Result<(String, String), ValueError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(ValueError::KeyValue),
    }
}
