//! One message on its way from the broker to the model, and the table of all of them.
//!
//! A message whose broker delivery was lost with the connection comes again. What is with the agent
//! by then keeps its key and takes the new delivery, so that it is acked and not delivered twice.
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
/// Further deliveries of one message that are kept: they count among those that a session may have.
const SPARES: usize = 4;

/// Names one delivery of one message for as long as this session has it. Keys ascend in queue
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey(pub u64);

/// How far a message has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its id is being looked up on disk.
    Arriving,
    /// It waits; the reason is computed when it is asked for.
    Queued,
    /// It is with the agent, and not in the model's context yet.
    HandedOver(Way),
    /// It is in the model's context; `done` is being written to disk.
    Delivered(Way),
}

/// Which messages come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// It comes in queue order.
    Ordinary,
    /// The brake has held it, and another user published it: it comes after all ordinary ones.
    Late,
}

/// Whose a message is at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It waits for our ack.
    Ours,
    /// The connection was lost: the broker gives it to us again, or to another session.
    Lost,
}

/// One message.
#[derive(Debug)]
pub struct InFlightMessage {
    /// What it says.
    pub envelope: Envelope,
    /// The beginning of its body, for the case that it becomes a dead letter.
    pub(in crate::wrap) body: DeadBody,
    /// The publisher; ids are unique per publisher only.
    pub publisher: Publisher,
    /// The safe line.
    pub line: String,
    /// The same, marked as a possible repeat.
    pub line_again: String,
    /// Sessions' messages that led to it; `None` where no session sent it.
    pub hops: Option<u32>,
    /// Hop count for the agent's next message; 0 for an unauthenticated publisher.
    pub hops_to_pass_on: u32,
    /// Where its sender waits for receipts.
    pub receipt_to: Option<String>,
    /// The broker's delivery; `None` when the connection was lost.
    pub delivery: Option<ReceivedMessage>,
    /// Further deliveries of it, which was sent twice: settled with it, so that no ack says too
    /// early that it arrived.
    pub spares: Vec<ReceivedMessage>,
    /// How far it has come.
    pub state: State,
    /// When it shall come in.
    pub timing: Timing,
    /// It may have reached the agent before.
    pub may_repeat: bool,
    /// Ways that were given it and of which nothing was ever seen.
    pub unseen_by: Vec<Way>,
    /// Its text is in a file already.
    pub is_in_file: bool,
    /// Files with its text that its lines have named.
    pub text_files: Vec<PathBuf>,
    /// Why this one waits whatever the agent does.
    pub blocked: Option<Hold>,
    /// Its place among those that wait.
    pub precedence: Precedence,
    /// The keyboard's text with it stands in the box.
    pub is_stuck: bool,
    /// Whether the broker waits for our ack.
    pub claim: Claim,
    pub(super) since: Instant,
    /// The holds that were reported, the current one last.
    reported_holds: Vec<(Hold, Instant)>,
}

impl InFlightMessage {
    /// A message that has just come in.
    pub fn new(envelope: Envelope, delivery: Option<ReceivedMessage>, now: Instant) -> Self {
        Self {
            publisher: delivery.as_ref().map_or(Publisher::Own, publisher),
            line: String::new(),
            line_again: String::new(),
            hops: delivery.as_ref().and_then(ReceivedMessage::hops),
            hops_to_pass_on: delivery
                .as_ref()
                .filter(|delivery| delivery.is_of_own_user())
                .and_then(ReceivedMessage::hops)
                .unwrap_or(0),
            receipt_to: delivery
                .as_ref()
                .and_then(|delivery| delivery.receipt_to().map(str::to_owned)),
            state: State::Arriving,
            timing: delivery
                .as_ref()
                .and_then(ReceivedMessage::when)
                .map_or(Timing::Idle, timing),
            delivery,
            spares: Vec::new(),
            may_repeat: false,
            unseen_by: Vec::new(),
            is_in_file: false,
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

    /// All its deliveries, to settle them.
    pub fn into_deliveries(self) -> impl Iterator<Item = ReceivedMessage> {
        self.delivery.into_iter().chain(self.spares)
    }

    /// What is handed over.
    pub fn text(&self) -> &str {
        if self.may_repeat {
            &self.line_again
        } else {
            &self.line
        }
    }

    /// What is written to disk of it.
    pub fn identity(&self) -> String {
        self.publisher.identity(&self.envelope)
    }

    /// It waits.
    pub fn is_queued(&self) -> bool {
        self.state == State::Queued
    }

    /// Whether another user published it, and it was held for a reason of its own.
    pub fn is_held_of_others(&self) -> bool {
        self.publisher != Publisher::Own
            && (self.precedence == Precedence::Late || self.blocked.is_some())
    }

    /// How many of the broker's deliveries are it.
    pub fn deliveries(&self) -> usize {
        self.delivery.iter().len() + self.spares.len()
    }

    /// About so many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let files = self.envelope.files.iter().flatten().map(String::len);
        let metadata = self.envelope.metadata.as_ref();
        let fields = self.envelope.message.len() + files.sum::<usize>();
        let fields = fields + metadata.map_or(0, |metadata| metadata.as_str().len());
        fields + self.body.kept_bytes() + self.line.len() + self.line_again.len()
    }

    /// The agent does not have it in its context, as far as is known.
    pub fn is_held(&self) -> bool {
        matches!(
            self.state,
            State::Arriving | State::Queued | State::HandedOver(_)
        )
    }
}

/// Who published a delivery.
pub fn publisher(delivery: &ReceivedMessage) -> Publisher {
    if delivery.is_of_own_user() {
        return Publisher::Own;
    }
    delivery.user().map_or(Publisher::Nobody, Publisher::other)
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
pub struct Table {
    last: u64,
    messages: BTreeMap<MessageKey, InFlightMessage>,
    /// Deliveries that are no messages, until their dead letters are on disk.
    dead: BTreeMap<MessageKey, ReceivedMessage>,
}

impl Table {
    /// A key for what has just come in.
    pub fn next_key(&mut self) -> MessageKey {
        self.last += 1;
        MessageKey(self.last)
    }

    /// Keeps a message.
    pub fn insert(&mut self, key: MessageKey, message: InFlightMessage) {
        self.messages.insert(key, message);
    }

    /// Keeps a delivery that is no message until its dead letter is on disk.
    pub fn insert_dead(&mut self, key: MessageKey, delivery: ReceivedMessage) {
        self.dead.insert(key, delivery);
    }

    /// Takes such a delivery out.
    pub fn remove_dead(&mut self, key: MessageKey) -> Option<ReceivedMessage> {
        self.dead.remove(&key)
    }

    /// One message.
    pub fn get(&self, key: MessageKey) -> Option<&InFlightMessage> {
        self.messages.get(&key)
    }

    /// Whether this message is still being looked up on disk.
    pub fn is_arriving(&self, key: MessageKey) -> bool {
        self.get(key)
            .is_some_and(|message| message.state == State::Arriving)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: MessageKey) -> Option<&mut InFlightMessage> {
        self.messages.get_mut(&key)
    }

    /// Takes one out.
    pub fn remove(&mut self, key: MessageKey) -> Option<InFlightMessage> {
        self.messages.remove(&key)
    }

    /// All of them, in queue order.
    pub fn iter(&self) -> impl Iterator<Item = (MessageKey, &InFlightMessage)> {
        self.messages.iter().map(|(key, message)| (*key, message))
    }

    /// All of them, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut InFlightMessage> {
        self.messages.values_mut()
    }

    /// Messages that wait, in queue order, and those of others that the brake has held after all
    /// others.
    pub fn queued(&self) -> impl Iterator<Item = (MessageKey, &InFlightMessage)> {
        let of = |precedence: Precedence| {
            self.iter()
                .filter(move |(_, message)| message.is_queued() && message.precedence == precedence)
        };
        of(Precedence::Ordinary).chain(of(Precedence::Late))
    }

    /// The key that was given last.
    pub fn last_key(&self) -> MessageKey {
        MessageKey(self.last)
    }

    /// The message of this identity that is here already: it came again.
    pub fn find(&self, identity: &str) -> Option<MessageKey> {
        self.iter()
            .find(|(_, message)| message.identity() == identity)
            .map(|(key, _)| key)
    }

    /// Takes the new delivery of a message that lost its own, or a spare one where it was sent
    /// twice. Gives it back where the message has [`SPARES`] of those.
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
            Some(message) if message.spares.len() < SPARES => {
                message.spares.push(delivery);
                None
            }
            _ => Some(delivery),
        }
    }

    /// The messages under this id that are here.
    pub fn under_id(&self, id: &str) -> impl Iterator<Item = (MessageKey, &InFlightMessage)> {
        self.iter()
            .filter(move |(_, message)| message.envelope.id == id)
    }

    /// Whether a message under the same id came before this one and is still here. What proves that
    /// one of them arrived would prove it of both.
    pub(super) fn has_namesake_before(&self, key: MessageKey, message: &InFlightMessage) -> bool {
        let mut namesakes = self.under_id(&message.envelope.id);
        namesakes.any(|(other, _)| other < key)
    }

    /// Identities of these messages: what is written to disk.
    pub fn identities(&self, keys: &[MessageKey]) -> Vec<String> {
        let known = keys.iter().filter_map(|key| self.messages.get(key));
        known.map(InFlightMessage::identity).collect()
    }

    /// Ids of these messages.
    pub fn ids(&self, keys: &[MessageKey]) -> Vec<String> {
        let known = keys.iter().filter_map(|key| self.messages.get(key));
        known.map(|message| message.envelope.id.clone()).collect()
    }

    /// The connection is gone, and every open delivery with it. What `is_kept` is all that stays.
    pub(super) fn lose_deliveries(
        &mut self,
        is_kept: impl Fn(MessageKey, &InFlightMessage) -> bool,
    ) {
        self.dead.clear();
        self.messages.retain(|key, message| {
            message.delivery = None;
            message.spares.clear();
            message.claim = Claim::Lost;
            is_kept(*key, message)
        });
    }

    /// How many the agent does not have in its context.
    pub fn held(&self) -> usize {
        self.iter().filter(|(_, message)| message.is_held()).count()
    }

    /// Some were delivered and are not noted as done yet.
    pub fn has_unfinished(&self) -> bool {
        self.iter()
            .any(|(_, message)| matches!(message.state, State::Delivered(_)))
    }

    /// When the hold of a queued message is to be reported next.
    pub fn next_hold_report(&self, now: Instant) -> Option<Instant> {
        self.queued()
            .filter(|(_, message)| message.reported_holds.is_empty())
            .map(|(_, message)| message.since + REPORT_HOLD_AFTER)
            .filter(|&at| at > now)
            .min()
    }

    /// Records that this hold was reported.
    pub fn hold_reported(&mut self, key: MessageKey, hold: &Hold, now: Instant) {
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
