//! A message in delivery, and the table of all messages of a session.
//!
//! The broker delivers a message again after the connection was lost. A message that is with the
//! agent keeps its key and takes the new delivery, so that it is acked and not delivered twice.
//!
//! Relies on the peer for deliveries and on the envelope for what a message is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::envelope::Envelope;
use crate::peer::{ReceivedMessage, When};
use crate::wrap::dead_letter::DeadBody;
use crate::wrap::hold::Hold;
use crate::wrap::seen::Publisher;
use crate::wrap::ways::{Timing, Way};

/// A hold shorter than this is not reported to the sender.
const REPORT_HOLD_AFTER: Duration = Duration::from_millis(500);
/// A reason that comes back within this is not reported again: some change with every frame of the
/// screen.
const REPORT_HOLD_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Maximum number of further deliveries of one message that are kept; they count against the
/// prefetch.
const MAX_DUPLICATES: usize = 4;

/// The key of a message in the table. Keys ascend in queue order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey(pub u64);

/// The state of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is being looked up on disk.
    Arriving,
    /// It waits; the reason is computed on request.
    Queued,
    /// It was handed to the agent by this way and has no proof yet.
    HandedOver(Way),
    /// It is in the model's context by this way; `done` is being written to disk.
    Delivered(Way),
}

/// Which messages come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// In queue order.
    Ordinary,
    /// After all ordinary messages. So are messages of other users that the brake has held.
    Late,
}

/// Where the text of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPlace {
    /// In its line, unless it was too long for one from the start.
    Line,
    /// It is being written to a file.
    BeingWritten,
    /// In a file, which its line names. Short lists of files and metadata are in the line.
    File,
    /// In a file with everything else that the sender wrote.
    HiddenInFile,
    /// In its line, because the file could not be written.
    Unwritable,
}

impl TextPlace {
    /// Whether moving the text to a file was tried.
    pub fn was_moved(self) -> bool {
        match self {
            Self::Line | Self::BeingWritten => false,
            Self::File | Self::HiddenInFile | Self::Unwritable => true,
        }
    }
}

/// Whether this session may ack a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The broker waits for this session's ack.
    Ours,
    /// The connection was lost: the broker delivers the message again, to this or another session.
    Lost,
}

/// A message of the session.
#[derive(Debug)]
pub struct InFlightMessage {
    /// Its envelope.
    pub envelope: Envelope,
    /// The beginning of its body, in case it becomes a dead letter.
    pub(in crate::wrap) body: DeadBody,
    /// Its publisher; ids are unique for each publisher only.
    pub publisher: Publisher,
    /// Its safe line.
    pub line: String,
    /// The line, marked as a possible repeat.
    pub repeat_line: String,
    /// Whether it was in the queue when the session attached.
    pub is_backlog: bool,
    /// Number of sessions' messages that led to it; `None` if no session sent it.
    pub hops: Option<u32>,
    /// Hop count for the agent's next message; 0 for an unauthenticated publisher.
    pub hops_to_pass_on: u32,
    /// The queue on which its sender waits for receipts.
    pub receipt_to: Option<String>,
    /// The broker's delivery; `None` if the connection was lost.
    pub delivery: Option<ReceivedMessage>,
    /// Further deliveries of the same message, which was sent more than once. They are settled with
    /// it, so that none is acked before the proof.
    pub duplicates: Vec<ReceivedMessage>,
    /// Its state.
    pub state: DeliveryState,
    /// When it is to be delivered.
    pub timing: Timing,
    /// Whether it may have reached the agent before.
    pub may_repeat: bool,
    /// The ways that had it without any sign in the transcript.
    pub unseen_by: Vec<Way>,
    /// Where its text is.
    pub place: TextPlace,
    /// The files with its text that its lines name.
    pub text_files: Vec<PathBuf>,
    /// Why it waits regardless of the agent's state.
    pub blocked: Option<Hold>,
    /// Its precedence among waiting messages.
    pub precedence: Precedence,
    /// Whether a typed text with it is stuck in the box.
    pub is_stuck: bool,
    /// Whether this session may ack it.
    pub claim: Claim,
    pub(super) since: Instant,
    /// The holds that were reported, the current one last.
    reported_holds: Vec<(Hold, Instant)>,
}

impl InFlightMessage {
    /// Creates a message that has just arrived.
    pub fn new(envelope: Envelope, delivery: Option<ReceivedMessage>, now: Instant) -> Self {
        Self {
            publisher: delivery.as_ref().map_or(Publisher::Own, publisher),
            line: String::new(),
            repeat_line: String::new(),
            is_backlog: false,
            hops: delivery.as_ref().and_then(ReceivedMessage::hops),
            hops_to_pass_on: delivery
                .as_ref()
                .filter(|delivery| delivery.is_of_own_user())
                .and_then(ReceivedMessage::hops)
                .unwrap_or(0),
            receipt_to: delivery
                .as_ref()
                .and_then(|delivery| delivery.receipt_to().map(str::to_owned)),
            state: DeliveryState::Arriving,
            timing: delivery
                .as_ref()
                .and_then(ReceivedMessage::when)
                .map_or(Timing::Idle, timing),
            delivery,
            duplicates: Vec::new(),
            may_repeat: false,
            unseen_by: Vec::new(),
            place: TextPlace::Line,
            text_files: Vec::new(),
            blocked: None,
            precedence: Precedence::Ordinary,
            is_stuck: false,
            claim: Claim::Ours,
            since: now,
            reported_holds: Vec::new(),
            body: DeadBody::default(),
            envelope,
        }
    }

    /// Takes the files that the agent was not told to read, when the message is removed without
    /// having reached the agent.
    pub fn unread_files(&mut self) -> Vec<PathBuf> {
        if self.may_repeat || !matches!(self.state, DeliveryState::Arriving | DeliveryState::Queued)
        {
            return Vec::new();
        }
        std::mem::take(&mut self.text_files)
    }

    /// Converts it into all its deliveries, to settle them.
    pub fn into_deliveries(self) -> impl Iterator<Item = ReceivedMessage> {
        self.delivery.into_iter().chain(self.duplicates)
    }

    /// The line to hand over.
    pub fn text(&self) -> &str {
        if self.may_repeat {
            &self.repeat_line
        } else {
            &self.line
        }
    }

    /// The identity that is written to disk.
    pub fn identity(&self) -> String {
        self.publisher.identity(&self.envelope)
    }

    /// Whether it waits.
    pub fn is_queued(&self) -> bool {
        self.state == DeliveryState::Queued
    }

    /// Whether another user published it and it is or was blocked.
    pub fn is_held_of_others(&self) -> bool {
        self.publisher != Publisher::Own
            && (self.precedence == Precedence::Late || self.blocked.is_some())
    }

    /// All its deliveries.
    fn deliveries(&self) -> impl Iterator<Item = &ReceivedMessage> {
        self.delivery.iter().chain(&self.duplicates)
    }

    /// The approximate number of bytes that it uses in memory: its fields, the beginning of its
    /// body, and its lines.
    pub fn bytes(&self) -> usize {
        let lines = self.line.len() + self.repeat_line.len();
        self.body.whole_bytes() + self.body.kept_bytes() + lines
    }

    /// Whether it is not known to be in the model's context.
    pub fn is_held(&self) -> bool {
        matches!(
            self.state,
            DeliveryState::Arriving | DeliveryState::Queued | DeliveryState::HandedOver(_)
        )
    }
}

/// The publisher of a delivery.
pub fn publisher(delivery: &ReceivedMessage) -> Publisher {
    if delivery.is_of_own_user() {
        return Publisher::Own;
    }
    delivery.user().map_or(Publisher::Unnamed, Publisher::other)
}

/// The mark of a delivery's publisher in the history; `None` for its session's own user.
pub fn publisher_mark(delivery: &ReceivedMessage) -> Option<String> {
    publisher(delivery).mark().map(str::to_owned)
}

fn timing(when: When) -> Timing {
    match when {
        When::Next => Timing::Next,
        When::Now => Timing::Now,
    }
}

/// All messages of a session.
#[derive(Debug, Default)]
pub struct MessageTable {
    last: u64,
    messages: BTreeMap<MessageKey, InFlightMessage>,
    /// Deliveries without a message in the table: parked messages, and future dead letters until
    /// these are on disk.
    without_message: BTreeMap<MessageKey, ReceivedMessage>,
}

/// Numbers of deliveries that the session has not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Deliveries of one round.
    pub of_round: usize,
    /// Deliveries of the session's own user, of any round.
    pub own: usize,
}

impl MessageTable {
    /// Allocates a key.
    pub fn next_key(&mut self) -> MessageKey {
        self.last += 1;
        MessageKey(self.last)
    }

    /// Adds a message.
    pub fn insert(&mut self, key: MessageKey, message: InFlightMessage) {
        self.messages.insert(key, message);
    }

    /// Adds a delivery whose message is not in the table: it is parked or becomes a dead letter.
    pub fn add_without_message(&mut self, key: MessageKey, delivery: ReceivedMessage) {
        self.without_message.insert(key, delivery);
    }

    /// Whether this key belongs to a delivery without a message in the table.
    pub fn is_without_message(&self, key: MessageKey) -> bool {
        self.without_message.contains_key(&key)
    }

    /// Removes a delivery without a message in the table.
    pub fn remove_without_message(&mut self, key: MessageKey) -> Option<ReceivedMessage> {
        self.without_message.remove(&key)
    }

    /// Counts the deliveries that are not settled.
    pub fn unsettled(&self, round: u32) -> Unsettled {
        let messages = self.messages.values();
        let deliveries = messages.flat_map(InFlightMessage::deliveries);
        let mut unsettled = Unsettled::default();
        for delivery in deliveries.chain(self.without_message.values()) {
            unsettled.of_round += usize::from(delivery.round() == round);
            unsettled.own += usize::from(delivery.is_of_own_user());
        }
        unsettled
    }

    /// The message with this key.
    pub fn get(&self, key: MessageKey) -> Option<&InFlightMessage> {
        self.messages.get(&key)
    }

    /// Whether this message is being looked up on disk.
    pub fn is_arriving(&self, key: MessageKey) -> bool {
        self.get(key)
            .is_some_and(|message| message.state == DeliveryState::Arriving)
    }

    /// The message with this key, mutable.
    pub fn get_mut(&mut self, key: MessageKey) -> Option<&mut InFlightMessage> {
        self.messages.get_mut(&key)
    }

    /// Removes a message.
    pub fn remove(&mut self, key: MessageKey) -> Option<InFlightMessage> {
        self.messages.remove(&key)
    }

    /// All messages, in queue order.
    pub fn iter(&self) -> impl Iterator<Item = (MessageKey, &InFlightMessage)> {
        self.messages.iter().map(|(key, message)| (*key, message))
    }

    /// All messages, mutable.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut InFlightMessage> {
        self.messages.values_mut()
    }

    /// The messages that wait, in queue order, with those of [`Precedence::Late`] last.
    pub fn queued(&self) -> impl Iterator<Item = (MessageKey, &InFlightMessage)> {
        let of = |precedence: Precedence| {
            self.iter()
                .filter(move |(_, message)| message.is_queued() && message.precedence == precedence)
        };
        of(Precedence::Ordinary).chain(of(Precedence::Late))
    }

    /// The key of the message with this identity.
    pub fn find(&self, identity: &str) -> Option<MessageKey> {
        self.iter()
            .find(|(_, message)| message.identity() == identity)
            .map(|(key, _)| key)
    }

    /// Adds a delivery to a message: its new one if its own was lost, otherwise a duplicate.
    /// Returns the delivery if the message has [`MAX_DUPLICATES`].
    pub fn attach(
        &mut self,
        key: MessageKey,
        delivery: ReceivedMessage,
    ) -> Option<ReceivedMessage> {
        match self.messages.get_mut(&key) {
            Some(message) if message.claim == Claim::Lost => {
                message.claim = Claim::Ours;
                message.delivery = Some(delivery);
                None
            }
            Some(message) if message.duplicates.len() < MAX_DUPLICATES => {
                message.duplicates.push(delivery);
                None
            }
            _ => Some(delivery),
        }
    }

    /// The messages with this id.
    pub fn with_id(&self, id: &str) -> impl Iterator<Item = (MessageKey, &InFlightMessage)> {
        self.iter()
            .filter(move |(_, message)| message.envelope.id == id)
    }

    /// Whether an earlier message with the same id is in the table. A proof of one of them would
    /// also prove the other.
    pub(super) fn has_earlier_with_same_id(
        &self,
        key: MessageKey,
        message: &InFlightMessage,
    ) -> bool {
        let mut earlier = self.messages.range(..key);
        earlier.any(|(_, other)| other.envelope.id == message.envelope.id)
    }

    /// The identities of these messages.
    pub fn identities(&self, keys: &[MessageKey]) -> Vec<String> {
        let known = keys.iter().filter_map(|key| self.messages.get(key));
        known.map(InFlightMessage::identity).collect()
    }

    /// The ids of these messages.
    pub fn ids(&self, keys: &[MessageKey]) -> Vec<String> {
        let known = keys.iter().filter_map(|key| self.messages.get(key));
        known.map(|message| message.envelope.id.clone()).collect()
    }

    /// Drops all deliveries after the connection was lost, and all messages but those that
    /// `is_kept`. Returns the files of dropped messages that the agent was not told to read.
    pub(super) fn lose_deliveries(
        &mut self,
        is_kept: impl Fn(MessageKey, &InFlightMessage) -> bool,
    ) -> Vec<PathBuf> {
        self.without_message.clear();
        let mut files = Vec::new();
        self.messages.retain(|key, message| {
            message.delivery = None;
            message.duplicates.clear();
            message.claim = Claim::Lost;
            let is_kept = is_kept(*key, message);
            if !is_kept {
                files.extend(message.unread_files());
            }
            is_kept
        });
        files
    }

    /// The number of messages that are not known to be in the model's context.
    pub fn held(&self) -> usize {
        self.iter().filter(|(_, message)| message.is_held()).count()
    }

    /// Whether delivered messages are not written as done yet.
    pub fn has_unfinished(&self) -> bool {
        self.iter()
            .any(|(_, message)| matches!(message.state, DeliveryState::Delivered(_)))
    }

    /// When the hold of a queued message is to be reported next.
    pub fn next_hold_report(&self, now: Instant) -> Option<Instant> {
        self.queued()
            .filter(|(_, message)| message.reported_holds.is_empty())
            .map(|(_, message)| message.since + REPORT_HOLD_AFTER)
            .filter(|&at| at > now)
            .min()
    }

    /// Forgets which holds of a message were reported: another state was reported since.
    pub(super) fn forget_reported_holds(&mut self, key: MessageKey) {
        if let Some(message) = self.messages.get_mut(&key) {
            message.reported_holds.clear();
        }
    }

    /// Records that this hold was reported.
    pub fn note_reported_hold(&mut self, key: MessageKey, hold: &Hold, now: Instant) {
        if let Some(message) = self.messages.get_mut(&key) {
            message.reported_holds.push((hold.clone(), now));
        }
    }

    /// Whether this hold is to be reported now; if so, records it as reported.
    pub fn should_report_hold(&mut self, key: MessageKey, hold: &Hold, now: Instant) -> bool {
        let Some(message) = self.messages.get_mut(&key) else {
            return false;
        };
        let is_last = message
            .reported_holds
            .last()
            .is_some_and(|(reported, _)| reported == hold);
        if !message.is_queued() || now < message.since + REPORT_HOLD_AFTER || is_last {
            return false;
        }
        message
            .reported_holds
            .retain(|(_, at)| now < *at + REPORT_HOLD_AGAIN_AFTER);
        let is_new = message
            .reported_holds
            .iter()
            .all(|(reported, _)| reported != hold);
        if is_new {
            message.reported_holds.push((hold.clone(), now));
        }
        is_new
    }
}
