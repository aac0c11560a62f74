//! Ways into an agent. Plugin, API and inbox are actors with one interface; the session drives the
//! hook and the keyboard.
//!
//! The session hands an actor a [`Submission`] with [`WayIn::deliver`] and hears from
//! it through one channel of `(Way, WayReport)`, whichever way reports. A way decides nothing about
//! order, retries or acks: the session's deliveries do, for all of them in one place.
//!
//! `deliver` returns `false` where nothing was handed over and nothing will be reported. After
//! `true` one of these follows:
//!
//! | report | means |
//! |---|---|
//! | `InContext` | the proof: the message is acked now, and only now |
//! | `NotTaken` | certain: it never entered the session; another way may have it |
//! | `Unseen` | nothing says that the agent accepted it; it may have been read |
//! | `Lost` | the agent ended first; it may have been read |
//!
//! Once the agent has accepted a text there is no time limit: a dialog may stand for an hour. A way
//! that sees no sign of acceptance, or sees that an accepted text is gone and not in the context,
//! reports after a few seconds; the constants of each way say how many.
//!
//! Relies on nothing of the session.

pub mod keyboard;

use std::fmt;
use std::path::PathBuf;

use tokio::sync::mpsc;

pub mod claude_hook;
pub mod claude_inbox;
pub(super) mod claude_moves;
pub mod claude_plugin;
pub mod codex;
pub mod opencode;
pub mod process;
pub mod proof;
pub mod transcript;

/// A way in, in the order in which `--delivery auto` prefers them. The last is never chosen: it
/// records how a message was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Our plugin inside Claude Code: the person's own words.
    Plugin,
    /// Codex's control socket or `codex queue`, opencode's HTTP API: the person's own words.
    Api,
    /// Claude Code's inbox socket: a teammate's request.
    Inbox,
    /// Claude Code's `asyncRewake` hook: a notification.
    Hook,
    /// Bracketed paste and Enter: the person's own words.
    Keyboard,
    /// A person read it with `cbroker inbox --take`.
    InboxCommand,
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Plugin => "plugin",
            Self::Api => "api",
            Self::Inbox => "inbox",
            Self::Hook => "hook",
            Self::Keyboard => "keyboard",
            Self::InboxCommand => "inbox-command",
        })
    }
}

/// When a message shall come in (`send --when`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timing {
    /// As a turn of its own after the current one.
    #[default]
    Idle,
    /// Between two tools of the running turn, where the way can; otherwise as [`Timing::Idle`].
    Next,
    /// As [`Timing::Next`], and also after the person pressed Escape.
    Now,
}

/// Names a submission in reports. Never used twice in a session.
pub type SubmissionNumber = u64;

/// One text on its way in; it may hold several messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its name in reports.
    pub number: SubmissionNumber,
    /// The ids of the messages in it: what a proof looks for.
    pub ids: Vec<String>,
    /// Safe lines, one a message.
    pub text: String,
    /// When it shall come in.
    pub timing: Timing,
}

/// What a way says, of itself, of a submission, or of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayReport {
    /// The agent is bringing this way up: it is worth waiting for.
    Starting,
    /// The way takes submissions from now on.
    Open,
    /// It takes none, and why; for the log and for `cbroker doctor`.
    Closed(String),
    /// No process of the agent's holds the session now: it moves to another one. What any way is
    /// given meanwhile is read by nobody. It is open again, or closed, later.
    Away,
    /// The session is in this process now, and was in another one.
    Moved(i32),
    /// The proof: this submission is in the model's context.
    InContext(SubmissionNumber),
    /// It did not enter the session and never will.
    NotTaken {
        /// Which submission.
        number: SubmissionNumber,
        /// Why, in the agent's words where it gave some.
        why: String,
        /// What that means for the next attempt.
        refusal: Refusal,
    },
    /// Nothing ever said that the agent accepted it: the way failed, and it may have been read all
    /// the same.
    Unseen(SubmissionNumber),
    /// The agent's process ended before its proof: it may have been read, or not.
    Lost(SubmissionNumber),
    /// Something was seen in the agent.
    Sign(Sign),
}

/// Why a submission was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The person pressed Escape: nothing is taken before they send something.
    Stopped,
    /// A hook or a setting of the person's refused this text: no other way may try it.
    Refused,
    /// The way failed: counted as a failure of the way, and the next way may try.
    Failed,
    /// The session is where the way does not reach, and the way has said that it is closed: no
    /// failure, and the next way may try.
    Elsewhere,
}

/// What a way knows of the agent's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A turn began.
    TurnBegan,
    /// The turn ended.
    TurnEnded,
    /// The person sent a prompt.
    PersonSpoke,
    /// The person pressed Escape.
    Stopped,
    /// A dialog asks for permission to use this tool.
    Asks(String),
    /// No such dialog is open any more.
    Answered,
    /// A menu or another view is open: its name.
    Menu(String),
    /// It is closed.
    MenuClosed,
    /// Whether the input box holds a draft.
    Draft(bool),
    /// The session writes this transcript from now on.
    Transcript(PathBuf),
}

/// Where the agent's session was when one of its hooks ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookOrigin {
    /// Its process, where this version names it.
    pub pid: Option<i32>,
    /// The transcript that it wrote.
    pub transcript: Option<PathBuf>,
    /// The process's status file, if this version names it.
    pub status_file: Option<PathBuf>,
    /// Its inbox socket, where this version has one.
    pub inbox: Option<claude_inbox::InboxAddress>,
    /// Whether it asks for no permissions, where the hook says so or otherwise.
    pub bypasses_permissions: Option<bool>,
}

/// A way in that the session holds. Dropping it ends it, and every submission in it counts as lost.
pub trait WayIn: fmt::Debug + Send {
    /// Which one it is.
    fn way(&self) -> Way;

    /// Whether it can bring a text in between two tools of a running turn.
    fn can_steer(&self) -> bool {
        false
    }

    /// The terminal's title is this now: some agents say in it which conversation is shown.
    fn title_changed(&self, _title: &str) {}

    /// A hook of the agent's ran here.
    fn hook_ran(&self, _origin: &HookOrigin) {}

    /// The session moved to this process: what other processes are given is read by nobody.
    fn moved(&self, _pid: i32) {}

    /// A hook of the agent's waits, and can write to the agent's inbox.
    fn hook_waits(&self, _writer: claude_inbox::HookWriter) {}

    /// Hands a submission over. `false`: it was not taken, and nothing will be reported about it.
    fn deliver(&self, submission: Submission) -> bool;
}

/// The ways into one agent that report through one channel.
#[derive(Debug)]
pub struct WaysIn {
    /// The ways.
    pub ways: Vec<Box<dyn WayIn>>,
    /// What they say.
    pub reports: mpsc::Receiver<(Way, WayReport)>,
}

impl WaysIn {
    /// The one of this name.
    pub fn get(&self, way: Way) -> Option<&dyn WayIn> {
        let mut ways = self.ways.iter();
        ways.find(|open| open.way() == way).map(AsRef::as_ref)
    }
}

/// Where one way reports to.
#[derive(Clone, Debug)]
pub struct WayReporter {
    way: Way,
    to: mpsc::Sender<(Way, WayReport)>,
}

impl WayReporter {
    /// Sends the reports of `way` to the channel that all ways of a session share.
    pub fn new(way: Way, to: mpsc::Sender<(Way, WayReport)>) -> Self {
        Self { way, to }
    }

    /// Says it; `false` when the session has ended.
    pub async fn send(&self, report: WayReport) -> bool {
        self.to.send((self.way, report)).await.is_ok()
    }
}
