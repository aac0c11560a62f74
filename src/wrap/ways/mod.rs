//! The ways into an agent. Plugin, API and inbox are actors with one interface; the session drives
//! the hook and the keyboard itself.
//!
//! The session hands an actor a [`Submission`] with [`WayIn::deliver`], and all actors report
//! through one channel of `(Way, WayReport)`. A way decides nothing about order, retries or acks:
//! the session's deliveries do that for all ways in one place.
//!
//! If `deliver` returns `false`, nothing was handed over and no report follows. After `true`, one
//! of these reports follows, and before it `HandedOver`, if the agent got the text and the way knew
//! this before the outcome:
//!
//! | report | meaning |
//! |---|---|
//! | `InContext` | the proof; the message is acked only now |
//! | `NotTaken` | it certainly never entered the session; another way may be tried |
//! | `Unread` | the agent took it and is at rest without a proof; it may have been read |
//! | `Unseen` | nothing shows that the agent accepted it; it may have been read |
//! | `Lost` | the agent ended before the proof; it may have been read |
//!
//! Once the agent has accepted a text there is no time limit: a dialog may be open for an hour. A
//! way that sees no sign of acceptance, or sees that an accepted text has left the agent's queue
//! without reaching the context, reports within seconds; the constants of each way say how many.
//!
//! Does not depend on the session.

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

/// The ways in, in the order in which `--delivery auto` prefers them. The last one is never chosen:
/// it only records how a message was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The plugin inside Claude Code; messages appear as the person's prompts.
    Plugin,
    /// Codex's control socket or `codex queue`, opencode's HTTP API; messages appear as the
    /// person's prompts.
    Api,
    /// Claude Code's inbox socket; messages appear as requests of a teammate.
    Inbox,
    /// Claude Code's `asyncRewake` hook; messages appear as notifications.
    Hook,
    /// Bracketed paste and Enter; messages appear as the person's prompts.
    Keyboard,
    /// `cbroker inbox --take`, by which a person or an agent's tool reads a message.
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

/// When a message is to be delivered (`send --when`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timing {
    /// In a turn of its own, after the current one.
    #[default]
    Idle,
    /// Between two tools of the running turn if the way can; otherwise as [`Timing::Idle`].
    Next,
    /// As [`Timing::Next`], and also after the person pressed Escape.
    Now,
}

/// The number of a submission in reports, unique within a session.
pub type SubmissionNumber = u64;

/// One text for one way in; it may hold several messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its number in reports.
    pub number: SubmissionNumber,
    /// The ids of its messages, which a proof looks for.
    pub ids: Vec<String>,
    /// One safe line for each message.
    pub text: String,
    /// The lines name files in place of everything that the senders wrote.
    pub is_hidden: bool,
    /// When it is to be delivered.
    pub timing: Timing,
}

/// A report of a way, about itself, a submission or the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayReport {
    /// The agent is bringing this way up, so messages should wait for it.
    Starting,
    /// The way takes submissions from now on.
    Open,
    /// Whether other users of the machine could read what the way takes; until the first such
    /// report, they could not.
    Exposed(bool),
    /// The way takes none, for this reason, which is logged.
    Closed(String),
    /// No process of the agent holds the session now: it is moving to another one. Texts that any
    /// way gets meanwhile are lost. `Open` or `Closed` follows later.
    Away,
    /// The session moved to this process from another one.
    Moved(i32),
    /// The agent has this submission now. Before this it may wait in the way itself.
    HandedOver(SubmissionNumber),
    /// The proof: this submission is in the model's context.
    InContext(SubmissionNumber),
    /// This submission never entered the session.
    NotTaken {
        /// The submission.
        number: SubmissionNumber,
        /// Why, in the agent's words if it gave any.
        why: String,
        /// What follows for the next attempt.
        refusal: Refusal,
    },
    /// The agent accepted this submission and is at rest, and no proof came: most likely a hook of
    /// the person refused it, but it may have been read.
    Unread(SubmissionNumber),
    /// Nothing showed that the agent accepted this submission: the way failed, but it may have been
    /// read.
    Unseen(SubmissionNumber),
    /// The agent's process ended before the proof of this submission, which may have been read.
    Lost(SubmissionNumber),
    /// A change of the agent's state.
    Sign(AgentSign),
}

/// Why a submission was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The person pressed Escape: nothing is taken before they send a prompt.
    Escaped,
    /// A hook or a setting of the person refused this text: no other way may try it.
    Refused,
    /// The way failed. This counts as a failure of the way, and the next way may try.
    Failed,
    /// The session is where the way does not reach, and the way has reported that it is closed.
    /// This is not a failure, and the next way may try. While the way counts as open, it is one.
    Elsewhere,
    /// Other users of the machine could have read the text while it was handed over. This is not a
    /// failure: the way takes it once the words of its senders are in files. For a text that had
    /// none, it is one.
    Exposed,
}

/// A change of the agent's state that a way saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSign {
    /// A turn began.
    TurnBegan,
    /// The turn ended.
    TurnEnded,
    /// The person sent a prompt.
    PersonSpoke,
    /// The person pressed Escape.
    Escaped,
    /// A dialog asks for permission to use this tool.
    Asks(String),
    /// The dialog was answered.
    Answered,
    /// A menu or another view with this name is open.
    Menu(String),
    /// The menu is closed.
    MenuClosed,
    /// Whether the input box holds a draft.
    Draft(bool),
    /// The session writes this transcript from now on.
    Transcript(PathBuf),
}

/// The process and the files of the agent's session when one of its hooks ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookOrigin {
    /// Its process id, if this version names it.
    pub pid: Option<i32>,
    /// The transcript that it wrote.
    pub transcript: Option<PathBuf>,
    /// The process's status file, if this version names it.
    pub status_file: Option<PathBuf>,
    /// Its inbox socket, if this version has one.
    pub inbox: Option<claude_inbox::InboxAddress>,
    /// Whether the session bypasses permissions; `None` if the hook does not tell.
    pub bypasses_permissions: Option<bool>,
}

/// A way in that runs as an actor. Dropping it ends it, and its submissions count as lost.
pub trait WayIn: fmt::Debug + Send {
    /// Which way it is.
    fn way(&self) -> Way;

    /// Whether it can deliver a text between two tools of a running turn.
    fn can_steer(&self) -> bool {
        false
    }

    /// Handles a new title of the terminal: some agents name the current conversation in it.
    fn title_changed(&self, _title: &str) {}

    /// Handles the run of one of the agent's hooks.
    fn hook_ran(&self, _origin: &HookOrigin) {}

    /// Handles a move of the session to this process: texts for other processes are lost.
    fn moved(&self, _pid: i32) {}

    /// Handles the arrival of a waiting hook, which can write to the agent's inbox.
    fn hook_waits(&self, _writer: claude_inbox::HookWriter) {}

    /// Hands a submission over. Returns `false` if it was not taken; no report follows then.
    fn deliver(&self, submission: Submission) -> bool;
}

/// The actors of one agent, which report through one channel.
#[derive(Debug)]
pub struct WayActors {
    /// The actors.
    pub actors: Vec<Box<dyn WayIn>>,
    /// Their reports.
    pub reports: mpsc::Receiver<(Way, WayReport)>,
}

impl WayActors {
    /// The actor of this way.
    pub fn get(&self, way: Way) -> Option<&dyn WayIn> {
        let mut actors = self.actors.iter();
        let actor = actors.find(|actor| actor.way() == way);
        actor.map(AsRef::as_ref)
    }
}

/// The sender of one way's reports.
#[derive(Clone, Debug)]
pub struct WayReporter {
    way: Way,
    to: mpsc::Sender<(Way, WayReport)>,
}

impl WayReporter {
    /// Creates a sender of the reports of `way` to the channel that all ways of a session share.
    pub fn new(way: Way, to: mpsc::Sender<(Way, WayReport)>) -> Self {
        Self { way, to }
    }

    /// Sends a report; returns `false` if the session has ended.
    pub async fn send(&self, report: WayReport) -> bool {
        self.to.send((self.way, report)).await.is_ok()
    }
}
