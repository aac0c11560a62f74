//! Messages from the broker's delivery to the ack: one table, one key, one state machine. Pure: no
//! terminal, no broker, no clock.
//!
//! ```text
//! Arriving ─▶ Queued ─▶ intent on disk ─▶ HandedOver(way)
//!               ▲                            │         │
//!               │    not taken, unseen,      │         │ proof
//!               └─── lost or stuck ──────────┘         ▼
//!                                              Delivered(way) ─▶ done on disk ─▶ acked
//! ```
//!
//! A proof may also come after its submission was given up (module `late`): the message is acked
//! then, wherever it is by that time. What goes back to `Queued` is marked as a possible repeat,
//! unless it was certainly not taken.
//!
//! A message is acked at the proof that it is in the model's context. Once the agent has accepted
//! it there is no time limit before that. Two ways do not have one message at once: the next way
//! gets it only after a drop or an error, or when nothing was seen of it for the time that its way
//! names. The exception is a text that is stuck in the input box: the keyboard still has it, no
//! Enter will follow, and another way may have it too. The caller reports what happened, then asks
//! [`Deliveries::step`] until it says [`Step::Wait`].
//!
//! Relies on [`super::agent_state`] for whether the agent is free, and on [`super::ways`].

mod late;
mod message;
mod order;
mod reports;
mod steps;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::agent_state::{AgentState, HookEvent};
use super::hold::Hold;
use super::ways::keyboard::{Keyboard, TurnProof};
use super::ways::{Sign, Submission, SubmissionNumber, Way};

use late::Late;
pub use message::{
    Claim, InFlightMessage, MessageKey, Precedence, State, Table, publisher, publisher_mark,
};
use order::Ways;

/// How messages get in (`--delivery`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The first way that is open; the keyboard last.
    Auto,
    /// Our plugin alone.
    Plugin,
    /// The agent's inbox socket alone.
    Inbox,
    /// The agent's own interface for programs alone.
    Api,
    /// The hook alone.
    Hook,
    /// The keyboard alone.
    Keyboard,
    /// None: title, bell and `cbroker inbox`.
    Notify,
}

impl Mode {
    /// The word that chooses it: `--delivery WORD`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plugin => "plugin",
            Self::Inbox => "inbox",
            Self::Api => "api",
            Self::Hook => "hook",
            Self::Keyboard => "pty",
            Self::Notify => "notify",
        }
    }

    pub(super) fn allows(self, way: Way) -> bool {
        match self {
            Self::Auto => way != Way::InboxCommand,
            Self::Plugin => way == Way::Plugin,
            Self::Inbox => way == Way::Inbox,
            Self::Api => way == Way::Api,
            Self::Hook => way == Way::Hook,
            Self::Keyboard => way == Way::Keyboard,
            Self::Notify => false,
        }
    }
}

/// The next step for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sync the intent to deliver these to disk, then say [`Deliveries::noted`].
    Note(Vec<MessageKey>),
    /// Note on disk that the agent certainly has none of these messages, by their identities: they
    /// only waited.
    Withdraw(Vec<String>),
    /// Move the text of this message to a file, then say [`Deliveries::moved_to_file`].
    ToFile(MessageKey),
    /// Give the submission to this way, and say [`Deliveries::not_handed`] if it does not take it.
    Hand(Way, Submission),
    /// Type this submission: write its bytes to the agent, then say [`Deliveries::written`] when
    /// all of them are out.
    Type(Submission, Vec<u8>),
    /// Write these bytes to the agent, then say [`Deliveries::written`] when all of them are out.
    Write(Vec<u8>),
    /// Write these keys of the person, kept back until now.
    Replay(Vec<u8>),
    /// They are with the agent: receipts may say so.
    HandedOver(Vec<MessageKey>, Way),
    /// The proof: note them as done, ack them, and tell their senders.
    Delivered(Vec<MessageKey>, Way),
    /// The model has these, by their identities, and the session does not: note them as done.
    Read(Vec<String>, Way),
    /// Nobody asks any more what became of this submission.
    Forget(SubmissionNumber),
    /// They wait for a reason that a sender has to know at once.
    Held(Vec<MessageKey>, Hold),
    /// Nothing now; ask again at this time or when something happened.
    Wait(Option<Instant>),
}

/// A submission, from the intent to its end.
#[derive(Clone, Debug)]
struct Submitted {
    number: SubmissionNumber,
    way: Way,
    messages: Vec<MessageKey>,
    phase: SubmissionPhase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubmissionPhase {
    /// The intent is on its way to the disk.
    Noting,
    /// It is there.
    Noted,
    /// The way has it.
    Handed,
}

/// All messages of one session, and what becomes of them.
#[derive(Debug)]
pub struct Deliveries {
    /// The messages.
    pub table: Table,
    mode: Mode,
    batch: usize,
    ways: Ways,
    keyboard: Keyboard,
    submissions: Vec<Submitted>,
    /// Submissions that were given up, and whose proof may still come.
    late: Vec<Late>,
    last_submission: SubmissionNumber,
    /// Messages that shared a submission which the person's own hook refused: each goes alone.
    alone: BTreeSet<MessageKey>,
    /// Steps that are due before anything else.
    due: VecDeque<Step>,
    is_paused: bool,
    /// A way said that the person pressed Escape.
    is_escaped: bool,
    /// Rows and columns of the terminal, where they limit what fits into the agent's box.
    window: Option<(u16, u16)>,
}

impl Deliveries {
    /// No messages yet. `batch` is how many waiting messages may share one submission.
    pub fn new(mode: Mode, batch: usize) -> Self {
        Self {
            table: Table::default(),
            mode,
            batch: batch.max(1),
            ways: Ways::default(),
            keyboard: Keyboard::default(),
            submissions: Vec::new(),
            late: Vec::new(),
            last_submission: 0,
            alone: BTreeSet::new(),
            due: VecDeque::new(),
            is_paused: false,
            is_escaped: false,
            window: None,
        }
    }

    /// How messages get in.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The terminal's size is this now.
    pub fn resized(&mut self, rows: u16, columns: u16) {
        self.window = Some((rows, columns));
    }

    /// Takes a waiting message out: a person reads or removes it by a command.
    ///
    /// `false` when it does not wait: it may be with the agent already.
    pub fn take_by_command(&mut self, key: MessageKey) -> bool {
        let is_under_way = self
            .submissions
            .iter()
            .any(|submitted| submitted.messages.contains(&key));
        let Some(message) = self.table.get_mut(key) else {
            return false;
        };
        if is_under_way || !message.is_queued() {
            return false;
        }
        message.state = State::Delivered(Way::InboxCommand);
        true
    }

    /// Takes out a message that another one displaces, with its delivery.
    ///
    /// `None` when it may be with the agent already.
    pub fn displace(&mut self, key: MessageKey) -> Option<InFlightMessage> {
        if self.table.is_arriving(key) || self.take_by_command(key) {
            return self.table.remove(key);
        }
        None
    }

    /// The connection to the broker is gone, and every open delivery with it: what is not with the
    /// agent comes again.
    ///
    /// A text that is being typed is with the agent, though no Enter was written yet.
    pub fn lose_deliveries(&mut self) {
        let handed: Vec<MessageKey> = self
            .submissions
            .iter()
            .filter(|submitted| submitted.phase == SubmissionPhase::Handed)
            .flat_map(|submitted| submitted.messages.iter().copied())
            .collect();
        self.table.lose_deliveries(|key, message| {
            handed.contains(&key) || matches!(message.state, State::Delivered(_))
        });
    }

    /// `cbroker pause`: nothing goes in until [`Deliveries::resume`].
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// `cbroker resume`: lets everything go in again, also what was held back for a reason of its
    /// own, and by every way, also one that was switched off.
    pub fn resume(&mut self) {
        self.is_paused = false;
        self.ways.try_again();
        self.unblock();
    }

    /// Lets in what was held back for a reason of its own.
    pub fn unblock(&mut self) {
        for message in self.table.values_mut() {
            message.blocked = None;
        }
    }

    /// Whether the next step may write something that a shell in the foreground would execute.
    pub fn may_type(&self, agent: &AgentState, now: Instant) -> bool {
        let is_noted =
            |one: &Submitted| one.way == Way::Keyboard && one.phase == SubmissionPhase::Noted;
        let waits = self.table.queued().next().is_some();
        self.keyboard.may_press()
            || self.submissions.iter().any(is_noted)
            || (self.mode.allows(Way::Keyboard)
                && !self.is_paused
                && waits
                && agent.asks_for_foreground(now))
    }

    /// Whether a person paused this session.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The input box holds a message that no Enter will follow.
    pub fn is_stuck(&self) -> bool {
        self.keyboard.is_stuck()
    }

    /// Whether nothing waits and nothing is under way; until that changes, nobody needs to look at
    /// the screen.
    pub fn is_idle(&self) -> bool {
        self.keyboard.is_idle()
            && self.submissions.is_empty()
            && self.due.is_empty()
            && self.is_late_timed()
            && self.table.queued().next().is_none()
    }

    /// Messages that the agent does not have, in queue order, each with the reason that it would be
    /// given now.
    pub fn waiting(&self, agent: &AgentState, now: Instant) -> Vec<(MessageKey, Hold)> {
        // What is noted on disk goes in at once.
        let is_going_in = |key: MessageKey| {
            self.submissions.iter().any(|submitted| {
                submitted.phase != SubmissionPhase::Handed && submitted.messages.contains(&key)
            })
        };
        self.table
            .queued()
            .filter(|(key, _)| !is_going_in(*key))
            .filter_map(|(key, message)| Some((key, self.reason((key, message), agent, now)?)))
            .collect()
    }

    /// Why the first waiting message waits.
    pub fn hold(&self, agent: &AgentState, now: Instant) -> Option<Hold> {
        let mut queued = self.table.queued();
        queued.find_map(|queued| self.reason(queued, agent, now))
    }

    /// Ways in that are switched off after failures, for the log.
    pub fn disabled_ways(&self) -> Vec<Way> {
        self.ways.off().collect()
    }

    /// A person's bytes: those to pass on now. `None` while they are kept back.
    pub fn keys<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        self.keyboard.keys(bytes, now)
    }

    /// The same for answers and reports of the terminal: no person typed them.
    pub fn reports<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.keyboard.reports(bytes)
    }

    /// All bytes of the last [`Step::Write`] are with the terminal.
    pub fn written(&mut self, now: Instant) {
        self.keyboard.written(now);
    }

    /// The intent of the noted messages is on disk.
    pub fn noted(&mut self) {
        for submitted in &mut self.submissions {
            if submitted.phase == SubmissionPhase::Noting {
                submitted.phase = SubmissionPhase::Noted;
                return;
            }
        }
    }

    /// A hook of the agent spoke.
    pub fn event(&mut self, event: &HookEvent, now: Instant) {
        match event {
            HookEvent::SessionStart => self.ways.began(now),
            // Where the plugin reports, it says when the person speaks; a hook may be heard late.
            HookEvent::PromptSubmitted(_) if !self.ways.is_open(Way::Plugin) => {
                self.is_escaped = false;
            }
            _ => {}
        }
        self.keyboard.event(event, now);
    }

    /// The agent's hooks work: a better way that was given to it has a moment to open from now on.
    pub fn hooks_work(&mut self, now: Instant) {
        self.ways.began(now);
    }

    /// A way saw something in the agent.
    pub fn sign(&mut self, sign: &Sign) {
        match sign {
            Sign::PersonSpoke | Sign::TurnBegan => self.is_escaped = false,
            _ => {}
        }
    }

    /// Returns the remaining steps after the program ended.
    pub fn ended(&mut self, agent: &AgentState, now: Instant) -> Vec<Step> {
        self.pause();
        self.keyboard.ended();
        let mut steps = Vec::new();
        loop {
            match self.step(agent, now) {
                Step::Wait(_) => return steps,
                Step::Type(..) | Step::Write(_) | Step::Replay(_) => {}
                step => steps.push(step),
            }
        }
    }

    /// Whether a way that reports to the session has a submission whose fate is not known.
    pub fn is_handed_over(&self) -> bool {
        self.submissions.iter().any(|submitted| {
            let reports = matches!(submitted.way, Way::Plugin | Way::Api | Way::Inbox);
            reports && submitted.phase == SubmissionPhase::Handed
        })
    }

    /// What proves from now on that the agent has read a text of the keyboard's.
    pub fn proves_by(&mut self, proof: TurnProof) {
        self.keyboard.proves_by(proof);
    }

    /// This way was given to the agent, and opens when the agent says so.
    pub fn expect(&mut self, way: Way) {
        self.ways.expect(way);
    }

    /// The agent is bringing this way up.
    pub fn starts(&mut self, way: Way, now: Instant) {
        self.ways.starts(way, now);
    }

    /// This way takes messages. `can_steer`: also between two tools of a running turn.
    pub fn open(&mut self, way: Way, can_steer: bool) {
        self.ways.open(way, can_steer);
        for message in self.table.values_mut() {
            message.unseen_by.retain(|unseen| *unseen != way);
        }
    }

    /// This way says that no process of the agent's holds the session: none takes any.
    pub fn away(&mut self, way: Way) {
        self.ways.away(way);
    }

    /// This way takes none.
    pub fn close(&mut self, way: Way, now: Instant) {
        self.ways.close(way, now);
    }
}

#[cfg(test)]
mod tests;
