//! Delivery of messages to the agent, from the broker's delivery to the ack: one table of messages
//! and one state machine. Pure: no terminal, no broker, no clock.
//!
//! ```text
//! Arriving ─▶ Queued ─▶ intent on disk ─▶ HandedOver(way)
//!               ▲                            │         │
//!               │    not taken, unseen,      │         │ proof
//!               └─── lost or stuck ──────────┘         ▼
//!                                              Delivered(way) ─▶ done on disk ─▶ acked
//! ```
//!
//! A proof may also come after its submission was given up (module `late`); the message is acked
//! then, whatever its state is. A message that goes back to `Queued` is marked as a possible
//! repeat, unless it was certainly not taken.
//!
//! A message is acked at the proof that it is in the model's context. Once the agent has accepted
//! it, there is no time limit for the proof. At most one way has a message at a time: the next way
//! gets it only after a refusal or an error, or after the time limit of its way without any sign.
//! The exception is a text that is stuck in the input box: the keyboard still has it, no Enter will
//! follow, and another way may get it too. The caller reports events, then carries out the steps of
//! [`Deliveries::step`] until that returns [`Step::Wait`].
//!
//! Relies on [`super::agent_state`] for whether the agent is free, and on [`super::ways`].

mod late;
mod message;
mod order;
mod reports;
mod steps;
mod takes;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Instant;

use super::agent_state::{AgentState, HookEvent};
use super::hold::Hold;
use super::ways::keyboard::{Keyboard, TurnProof};
use super::ways::{AgentSign, Submission, SubmissionNumber, Way};

pub use crate::config::DeliveryMode;
use late::LateSubmission;
pub use message::{
    Claim, DeliveryState, InFlightMessage, MessageKey, MessageTable, Precedence, TextPlace,
    Unsettled, publisher, publisher_mark,
};
use order::WayStatuses;
use takes::Take;

impl DeliveryMode {
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

/// A step for the caller to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the intent to deliver these messages to disk, then call
    /// [`Deliveries::intent_written`].
    WriteIntent(Vec<MessageKey>),
    /// Withdraw the intents of these messages (their identities): the agent certainly has none of
    /// them.
    WithdrawIntent(Vec<String>),
    /// Move the text of this message to a file, then call [`Deliveries::moved_to_file`].
    MoveToFile(MessageKey),
    /// Like [`Self::MoveToFile`], with everything that the sender wrote.
    HideInFile(MessageKey),
    /// Hand the submission to this way, and call [`Deliveries::not_handed_over`] if the way does
    /// not take it.
    Deliver(Way, Submission),
    /// Type this submission: write its bytes to the agent, then call [`Deliveries::written`] once
    /// all of them are written.
    Type(Submission, Vec<u8>),
    /// Write these bytes to the agent, then call [`Deliveries::written`] once all of them are
    /// written.
    Write(Vec<u8>),
    /// Write these keys of the person, which were kept back until now.
    Replay(Vec<u8>),
    /// Report that these messages were handed over.
    HandedOver(Vec<MessageKey>, Way),
    /// Write these messages as done, ack them, and report them as delivered.
    Delivered(Vec<MessageKey>, Way),
    /// Show these messages to the command that asked for them, and report that they were handed
    /// over to it.
    Show(SubmissionNumber, Vec<MessageKey>),
    /// Report that messages with these ids were shown to a command that did not confirm it.
    NotConfirmed(Vec<String>),
    /// Write messages that are no longer in the table (their identities) as done.
    WriteDone(Vec<String>, Way),
    /// End the search for this submission in the transcript.
    EndSearch(SubmissionNumber),
    /// Report that these messages are held for this reason.
    Held(Vec<MessageKey>, Hold),
    /// Nothing to do now; call [`Deliveries::step`] again at this time or after an event.
    Wait(Option<Instant>),
}

/// A submission, from its intent to its outcome.
#[derive(Clone, Debug)]
struct Submitted {
    number: SubmissionNumber,
    way: Way,
    messages: Vec<MessageKey>,
    /// Whose words it has, as it was handed over.
    wording: Wording,
    phase: SubmissionPhase,
}

/// Whose words a submission has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wording {
    /// Words of its senders.
    OfSenders,
    /// Names of files in place of them.
    OfFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubmissionPhase {
    /// The intent is being written to disk.
    WritingIntent,
    /// The intent is on disk.
    IntentWritten,
    /// The way has the submission, and the agent does too once the way reports it.
    HandedOver,
}

/// The deliveries of one session: its messages, ways and submissions.
#[derive(Debug)]
pub struct Deliveries {
    /// The messages.
    pub table: MessageTable,
    mode: DeliveryMode,
    batch: usize,
    ways: WayStatuses,
    keyboard: Keyboard,
    submissions: Vec<Submitted>,
    /// Messages that were shown to a command, which has not confirmed it.
    takes: Vec<Take>,
    /// Until then, takes hold back no other messages.
    behind_takes_from: Option<Instant>,
    /// Submissions that were given up and whose proof may still come.
    late: Vec<LateSubmission>,
    last_submission: SubmissionNumber,
    /// Messages of a submission that the person's hook refused: each is submitted alone.
    alone: BTreeSet<MessageKey>,
    /// Steps that are due first.
    due: VecDeque<Step>,
    is_paused: bool,
    /// The person pressed Escape, according to a way.
    is_escaped: bool,
    /// Rows and columns of the terminal, if they limit the text in the agent's box.
    window: Option<(u16, u16)>,
}

impl Deliveries {
    /// Creates an empty table. At most `batch` messages share one submission.
    pub fn new(mode: DeliveryMode, batch: usize) -> Self {
        Self {
            table: MessageTable::default(),
            mode,
            batch: batch.max(1),
            ways: WayStatuses::default(),
            keyboard: Keyboard::default(),
            submissions: Vec::new(),
            takes: Vec::new(),
            behind_takes_from: None,
            late: Vec::new(),
            last_submission: 0,
            alone: BTreeSet::new(),
            due: VecDeque::new(),
            is_paused: false,
            is_escaped: false,
            window: None,
        }
    }

    /// The mode of delivery.
    pub fn mode(&self) -> DeliveryMode {
        self.mode
    }

    /// Records the size of the terminal.
    pub fn resized(&mut self, rows: u16, columns: u16) {
        self.window = Some((rows, columns));
    }

    /// Removes a message that must not reach the agent, and returns it with its deliveries.
    ///
    /// Returns `None` if it may be with the agent.
    pub fn displace(&mut self, key: MessageKey) -> Option<InFlightMessage> {
        if self.table.is_arriving(key) || self.is_waiting(key) {
            return self.table.remove(key);
        }
        None
    }

    /// Whether the agent certainly does not have this message.
    fn is_waiting(&self, key: MessageKey) -> bool {
        let is_submitted = self
            .submissions
            .iter()
            .any(|submitted| submitted.messages.contains(&key));
        let message = self.table.get(key);
        !is_submitted && message.is_some_and(InFlightMessage::is_queued)
    }

    /// Handles the loss of the connection to the broker, with which all deliveries are lost.
    /// Messages that are not with the agent are dropped, and the broker delivers them again.
    ///
    /// A text that is being typed counts as with the agent before its Enter is written. Returns the
    /// files of dropped messages that the agent was not told to read.
    pub fn lose_deliveries(&mut self) -> Vec<PathBuf> {
        let handed_over: Vec<MessageKey> = self
            .submissions
            .iter()
            .filter(|submitted| submitted.phase == SubmissionPhase::HandedOver)
            .flat_map(|submitted| submitted.messages.iter().copied())
            .collect();
        self.table.lose_deliveries(|key, message| {
            handed_over.contains(&key) || matches!(message.state, DeliveryState::Delivered(_))
        })
    }

    /// `cbroker pause`: stops all deliveries until [`Deliveries::resume`].
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// `cbroker resume`: allows deliveries again. Releases messages that are blocked, and enables
    /// ways that are disabled.
    pub fn resume(&mut self) {
        self.is_paused = false;
        self.ways.reset_failures();
        for message in self.table.values_mut() {
            message.blocked = None;
        }
    }

    /// Releases messages that the brake held. A message that the person's own hook refused stays
    /// blocked.
    pub fn release_brake(&mut self) {
        let braked = |message: &&mut InFlightMessage| message.blocked == Some(Hold::Loop);
        for message in self.table.values_mut().filter(braked) {
            message.blocked = None;
        }
    }

    /// Whether the next step depends on the foreground programs and on the agent's status file: it
    /// may write input that a shell in the foreground would execute, or decide by rest that a text
    /// was read.
    pub fn needs_process_check(&self, agent: &AgentState, now: Instant) -> bool {
        let is_intent_written = |one: &Submitted| {
            one.way == Way::Keyboard && one.phase == SubmissionPhase::IntentWritten
        };
        let waits = self.table.queued().next().is_some();
        let may_end_at_rest = self.keyboard.may_end_at_rest(now);
        self.keyboard.may_press_enter()
            || (may_end_at_rest && agent.needs_foreground_check(now))
            || self.submissions.iter().any(is_intent_written)
            || (self.mode.allows(Way::Keyboard)
                && !self.is_paused
                && waits
                && agent.needs_foreground_check(now))
    }

    /// Whether deliveries are paused.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether the input box holds a message that no Enter will follow.
    pub fn is_stuck(&self) -> bool {
        self.keyboard.is_stuck()
    }

    /// Whether no message waits or is being delivered, so that the screen need not be read.
    pub fn is_idle(&self) -> bool {
        self.keyboard.is_idle()
            && self.submissions.is_empty()
            && self.due.is_empty()
            && self.is_late_timed()
            && self.table.queued().next().is_none()
    }

    /// The messages that wait, in queue order, each with its current reason.
    pub fn waiting(&self, agent: &AgentState, now: Instant) -> Vec<(MessageKey, Hold)> {
        // Messages with an intent are handed over at once.
        let is_going_in = |key: MessageKey| {
            self.submissions.iter().any(|submitted| {
                submitted.phase != SubmissionPhase::HandedOver && submitted.messages.contains(&key)
            })
        };
        self.table
            .queued()
            .filter(|(key, _)| !is_going_in(*key))
            .filter_map(|(key, message)| Some((key, self.reason((key, message), agent, now)?)))
            .collect()
    }

    /// The reason of the first waiting message, or of those that a command takes.
    pub fn first_hold(&self, agent: &AgentState, now: Instant) -> Option<Hold> {
        let mut queued = self.table.queued();
        let hold = queued.find_map(|queued| self.reason(queued, agent, now));
        hold.or_else(|| self.is_being_taken().then_some(Hold::Taking))
    }

    /// The ways in that are disabled after failures, for the log.
    pub fn disabled_ways(&self) -> Vec<Way> {
        self.ways.disabled().collect()
    }

    /// Handles a person's input. Returns the bytes to forward now; `None` if they are kept back.
    pub fn filter_keys<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        self.keyboard.filter_keys(bytes, now)
    }

    /// As [`Deliveries::filter_keys`], for responses and reports of the terminal.
    pub fn filter_reports<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.keyboard.filter_reports(bytes)
    }

    /// All bytes of the last [`Step::Type`] or [`Step::Write`] have been written.
    pub fn written(&mut self, now: Instant) {
        self.keyboard.written(now);
    }

    /// Whether a typed text is lost if the program ends, or the terminal discards input, before the
    /// program has read it.
    pub fn may_be_flushed(&self) -> bool {
        self.keyboard.unread_since().is_some()
    }

    /// The agent's state knows whether the program has read its input.
    pub fn input_checked(&mut self, agent: &AgentState) {
        self.keyboard.input_checked(agent);
    }

    /// The next key of the person makes the terminal discard the input that was not read.
    pub fn note_flush(&mut self) {
        self.keyboard.note_flush();
    }

    /// The oldest intent that was being written is on disk.
    pub fn intent_written(&mut self) {
        for submitted in &mut self.submissions {
            if submitted.phase == SubmissionPhase::WritingIntent {
                submitted.phase = SubmissionPhase::IntentWritten;
                return;
            }
        }
    }

    /// Handles an event of the agent's hooks.
    pub fn event(&mut self, event: &HookEvent, now: Instant) {
        match event {
            HookEvent::SessionStart => self.ways.session_began(now),
            // The plugin reports the person's prompts itself; a hook may report late.
            HookEvent::PromptSubmitted(_) if !self.ways.is_open(Way::Plugin) => {
                self.is_escaped = false;
            }
            _ => {}
        }
        self.keyboard.event(event, now);
    }

    /// The agent's hooks work: the time limit for expected ways to open starts now.
    pub fn hooks_work(&mut self, now: Instant) {
        self.ways.session_began(now);
    }

    /// Handles a change of the agent's state that a way saw.
    pub fn sign(&mut self, sign: &AgentSign) {
        match sign {
            AgentSign::PersonSpoke | AgentSign::TurnBegan => self.is_escaped = false,
            _ => {}
        }
    }

    /// Returns the remaining steps after the program ended.
    pub fn finish(&mut self, agent: &AgentState, now: Instant) -> Vec<Step> {
        self.pause();
        self.keyboard.input_checked(agent);
        let mut steps = Vec::new();
        loop {
            match self.step(agent, now) {
                Step::Wait(_) => break,
                Step::Type(..) | Step::Write(_) | Step::Replay(_) => {}
                step => steps.push(step),
            }
        }
        // A way may have given its text to an agent that goes on, as Codex's daemon does.
        for key in self.with_ways().collect::<Vec<_>>() {
            if let Some(message) = self.table.get_mut(key) {
                message.may_repeat = true;
            }
        }
        steps
    }

    /// Whether an actor has a submission without an outcome.
    pub fn has_open_submission(&self) -> bool {
        self.submissions.iter().any(|submitted| {
            let reports = matches!(submitted.way, Way::Plugin | Way::Api | Way::Inbox);
            reports && submitted.phase == SubmissionPhase::HandedOver
        })
    }

    /// Sets what proves that the agent has read a typed text.
    pub fn set_turn_proof(&mut self, proof: TurnProof) {
        self.keyboard.set_turn_proof(proof);
    }

    /// Records that this way was set up and will open later.
    pub fn expect(&mut self, way: Way) {
        self.ways.expect(way);
    }

    /// Records that the agent is bringing this way up.
    pub fn mark_starting(&mut self, way: Way, now: Instant) {
        self.ways.mark_starting(way, now);
    }

    /// Records that this way takes messages; with `can_steer`, also between two tools of a running
    /// turn.
    pub fn open(&mut self, way: Way, can_steer: bool) {
        self.ways.open(way, can_steer);
        for message in self.table.values_mut() {
            message.unseen_by.retain(|unseen| *unseen != way);
        }
    }

    /// Records whether other users of the machine could read what this way takes. If so, the words
    /// of the senders are moved to files first.
    pub fn set_exposed(&mut self, way: Way, is_exposed: bool) {
        self.ways.set_exposed(way, is_exposed);
    }

    /// Records that no process of the agent holds the session, so no way takes messages.
    pub fn mark_away(&mut self, way: Way) {
        self.ways.mark_away(way);
    }

    /// Records that this way takes no messages.
    pub fn close(&mut self, way: Way, now: Instant) {
        self.ways.close(way, now);
    }
}

#[cfg(test)]
mod tests;
