//! The session's presence, and its answers to requests.
//!
//! Relies on the peer's presence.

use std::time::Instant;

use chrono::Utc;

use super::parked::ParkedMessage;
use super::{
    AnnouncedState, HistoryEvent, Job, PendingTake, ReportDetail, Session, SessionMessages,
};
use crate::peer::{
    Answer, HeldMessage, PeerState, Presence, Receipt, ReceiptState, ReceivedMessage, Removal,
    ReplyTo, Request,
};
use crate::wrap::agent_state::Condition;
use crate::wrap::delivery::{
    DeliveryMode, DeliveryState, InFlightMessage, MessageKey, publisher_mark,
};
use crate::wrap::hold::Hold;
use crate::wrap::seen::id_and_mark;
use crate::wrap::ways::{SubmissionNumber, Way};

impl Session {
    /// Announces the session's state if it has changed, or the connection is new.
    pub(in crate::wrap::session) fn announce(&mut self, now: Instant) {
        if self.messages.parts.brake.is_due(now) {
            self.deliveries.release_brake();
        }
        let current = self.present_state(now);
        self.notify(current.held);
        let is_announced = self.messages.announced.as_ref() == Some(&current);
        if is_announced && !self.messages.must_announce {
            return;
        }
        let is_same =
            |last: &AnnouncedState| last.state == current.state && last.detail == current.detail;
        if !self.messages.announced.as_ref().is_some_and(is_same) {
            self.messages.state_since = Utc::now();
        }
        if let Some(inbox) = &self.messages.parts.inbox {
            inbox
                .outgoing_sender()
                .announce(self.messages.presence(&current));
        }
        self.messages.announced = Some(current);
        self.messages.must_announce = false;
    }

    fn present_state(&self, now: Instant) -> AnnouncedState {
        // `Behind` is omitted: the first message's reason is shown.
        let hold = self.deliveries.first_hold(&self.agent, now);
        let hold = hold.filter(|hold| *hold != Hold::Behind);
        let (state, detail) = self.state(now);
        AnnouncedState {
            state,
            detail,
            hold,
            is_paused: self.deliveries.is_paused(),
            held: self.deliveries.table.held() + self.messages.parked.len(),
        }
    }

    /// The state, and what the agent asks its person. What needs the person comes before what the
    /// person has chosen.
    fn state(&self, now: Instant) -> (PeerState, Option<String>) {
        if self.deliveries.is_stuck() {
            return (PeerState::Stuck, None);
        }
        let state = match self.agent.condition(now) {
            Condition::NeedsYou(question) => return (PeerState::NeedsYou, Some(question)),
            _ if self.deliveries.is_paused() => PeerState::Paused,
            _ if self.deliveries.mode() == DeliveryMode::Notify => PeerState::Notify,
            Condition::Starting => PeerState::Starting,
            Condition::Idle => PeerState::Idle,
            Condition::Busy => PeerState::Busy,
            Condition::Draft => PeerState::Draft,
        };
        (state, None)
    }

    /// With `--delivery notify`, shows the number of waiting messages in the title, and rings the
    /// bell. Within an escape sequence of the program it does nothing; a later call does it.
    fn notify(&mut self, held: usize) {
        let last = self.messages.noticed;
        let is_announced = self.deliveries.mode() == DeliveryMode::Notify;
        if !is_announced || held == last || !self.modes.is_at_boundary() {
            return;
        }
        let shown = match held {
            0 => format!("\x1b]2;{}\x07", self.modes.title().unwrap_or_default()),
            1 => format!(
                "\x1b]2;{}: 1 message (cbroker inbox)\x07",
                self.messages.parts.presence.name
            ),
            _ => format!(
                "\x1b]2;{}: {held} messages (cbroker inbox)\x07",
                self.messages.parts.presence.name
            ),
        };
        self.relay.show(shown.as_bytes());
        if held > last {
            self.relay.show(b"\x07");
        }
        self.messages.noticed = held;
    }

    pub(super) fn answer(&mut self, request: &Request, to: ReplyTo) {
        let now = Instant::now();
        let answer = match request {
            Request::Taken { session, .. } if *session != self.messages.parts.presence.session => {
                return;
            }
            Request::Taken { keys, .. } => {
                let taken = self.deliveries.taken(keys.iter().copied().map(MessageKey));
                self.read_screen_if_due(now);
                self.announce(now);
                let left = keys.len().saturating_sub(taken);
                Answer::Taken {
                    name: self.messages.parts.presence.name.clone(),
                    session: self.messages.parts.presence.session.clone(),
                    left: u32::try_from(left).unwrap_or(u32::MAX),
                }
            }
            Request::Pause { .. } => {
                self.deliveries.pause();
                self.log.write("paused");
                self.present(now)
            }
            Request::Resume { .. } => {
                self.deliveries.resume();
                self.messages.parts.brake.release();
                self.log.write("resumed");
                self.present(now)
            }
            Request::Inbox { take: true, .. } => {
                let held = self.held(now);
                let keys = held.iter().map(|(key, _)| *key);
                if let Some(number) = self.deliveries.take_for_command(keys) {
                    let take = PendingTake { number, to, held };
                    return self.messages.takes.push(take);
                }
                self.listed(Vec::new(), held.len())
            }
            Request::Inbox { take: false, .. } => {
                let held = self.held(now);
                self.listed(held, 0)
            }
            Request::Discard { removal, .. } => self.discard(*removal, now),
            Request::Who | Request::State(_) => self.present(now),
        };
        self.messages.send_answer(to, answer);
    }

    /// Reads the screen and returns the session's state.
    fn present(&mut self, now: Instant) -> Answer {
        self.read_screen_if_due(now);
        self.announce(now);
        let current = self.present_state(now);
        Answer::State(self.messages.presence(&current))
    }

    /// Removes the messages that are not with the agent yet, also those that a command was shown
    /// and has not confirmed: it may be dead.
    fn discard(&mut self, removal: Removal, now: Instant) -> Answer {
        let mut messages = Vec::new();
        let mut left = 0;
        for (key, message) in self.held(now) {
            if let Some(removed) = self.deliveries.discard(key) {
                self.messages.removed(removed, removal);
                messages.push((key, message));
            } else {
                left += 1;
            }
        }
        for parked in self.messages.parked.take_all() {
            let key = parked.key;
            if let Some(delivery) = self.deliveries.table.remove_without_message(key) {
                let removed = self.messages.removed_parked(parked, delivery, removal);
                messages.push((key, removed));
            }
        }
        let how = match removal {
            Removal::Purged => "purged",
            Removal::Deleted => "deleted with the queue",
        };
        let count = messages.len();
        self.log.write(&format!("held messages {how}: {count}"));
        self.listed(messages, left)
    }

    /// Sends messages to the command that takes them. Held messages that are not among them are
    /// with the agent, or were shown to another command.
    pub(in crate::wrap::session) fn show(&mut self, number: SubmissionNumber, keys: &[MessageKey]) {
        let mut takes = self.messages.takes.iter();
        let Some(place) = takes.position(|take| take.number == number) else {
            return;
        };
        let PendingTake { to, mut held, .. } = self.messages.takes.remove(place);
        held.retain(|(key, _)| self.deliveries.table.get(*key).is_some());
        let all = held.len();
        held.retain(|(key, _)| keys.contains(key));
        let left = all - held.len();
        let answer = self.listed(held, left);
        self.messages.send_answer(to, answer);
    }

    /// The answer that lists these messages; `left` is the number of held messages that are not
    /// listed.
    fn listed(&self, messages: Vec<(MessageKey, HeldMessage)>, left: usize) -> Answer {
        let (keys, messages) = messages
            .into_iter()
            .map(|(key, message)| (key.0, message))
            .unzip();
        Answer::Inbox {
            name: self.messages.parts.presence.name.clone(),
            session: self.messages.parts.presence.session.clone(),
            keys,
            messages,
            parked: u32::try_from(self.messages.parked.len()).unwrap_or(u32::MAX),
            left: u32::try_from(left).unwrap_or(u32::MAX),
        }
    }

    /// The messages that are not in the model's context, oldest first.
    fn held(&mut self, now: Instant) -> Vec<(MessageKey, HeldMessage)> {
        self.read_screen_if_due(now);
        let waiting = self.deliveries.waiting(&self.agent, now);
        let reason = |key| {
            let found = waiting.iter().find(|(waits, _)| *waits == key);
            found.map(|(_, hold): &(_, Hold)| hold.to_string())
        };
        let shown = self.deliveries.table.iter().filter_map(|(key, message)| {
            let (state, reason) = match (&message.state, reason(key)) {
                (DeliveryState::HandedOver(way), _) => {
                    (ReceiptState::HandedOver.word(), way.to_string())
                }
                (DeliveryState::Queued, Some(reason)) => (ReceiptState::Held.word(), reason),
                (DeliveryState::Queued, None) => ("queued", String::new()),
                _ => return None,
            };
            let shown = HeldMessage {
                id: message.envelope.id.clone(),
                from: message.envelope.from.clone(),
                ts: message.envelope.ts.clone(),
                state: state.to_owned(),
                reason,
                line: message.text().to_owned(),
            };
            Some((key, shown))
        });
        shown.collect()
    }
}

impl SessionMessages {
    fn send_answer(&self, to: ReplyTo, answer: Answer) {
        if let Some(inbox) = &self.parts.inbox {
            inbox.outgoing_sender().answer(to, answer);
        }
    }

    /// Reports and rejects a message that an operator removed.
    fn removed(&mut self, mut message: InFlightMessage, removal: Removal) {
        self.remove_texts(&mut message);
        let (event, state) = event_and_state(removal);
        self.report_state(&message, event, state, ReportDetail::None);
        self.reject(message.into_deliveries());
    }

    /// Records and rejects a parked message that an operator removed.
    fn removed_parked(
        &mut self,
        parked: ParkedMessage,
        delivery: ReceivedMessage,
        removal: Removal,
    ) -> HeldMessage {
        let id_and_mark = (parked.id.as_str(), parked.publisher.mark());
        self.record_by_id(id_and_mark, event_and_state(removal).0, None);
        self.reject([delivery]);
        HeldMessage {
            id: parked.id,
            from: String::new(),
            ts: String::new(),
            state: ReceiptState::Held.word().to_owned(),
            reason: Hold::Behind.to_string(),
            line: String::new(),
        }
    }

    /// Writes messages as done that are no longer in the table, so that they are acked when they
    /// are delivered again.
    pub(in crate::wrap::session) fn write_done_without_message(
        &mut self,
        messages: impl Iterator<Item = (MessageKey, String)>,
        way: Way,
    ) {
        let messages: Vec<(MessageKey, String)> = messages.collect();
        for (_, identity) in &messages {
            let whose = id_and_mark(identity);
            self.record_by_id(whose, HistoryEvent::Delivered, Some(way.to_string()));
        }
        self.parts.disk.submit(Job::WriteDone(messages));
    }

    /// Adds an event of a message to the history.
    pub(super) fn record(
        &self,
        message: &InFlightMessage,
        event: HistoryEvent,
        detail: Option<String>,
    ) {
        self.record_by_id(
            (&message.envelope.id, message.publisher.mark()),
            event,
            detail,
        );
    }

    /// Adds an event of the message with this id and this publisher's mark to the history.
    fn record_by_id(
        &self,
        (id, publisher): (&str, Option<&str>),
        event: HistoryEvent,
        detail: Option<String>,
    ) {
        self.parts.disk.submit(Job::WriteHistory {
            id: id.to_owned(),
            publisher: publisher.map(str::to_owned),
            event,
            detail,
            message: None,
        });
    }

    fn presence(&self, current: &AnnouncedState) -> Presence {
        Presence {
            state: current.state,
            detail: current.detail.clone(),
            reason: current.hold.as_ref().map(ToString::to_string),
            paused: current.is_paused,
            held: u32::try_from(current.held).unwrap_or(u32::MAX),
            since: self.state_since,
            ..self.parts.presence.clone()
        }
    }

    /// Rejects a delivery whose dead letter is on disk, and sends its sender a receipt.
    pub(super) fn refuse(&mut self, delivery: ReceivedMessage, id: String, error: &str) {
        if let (Some(queue), Some(inbox)) = (delivery.receipt_to(), &self.parts.inbox) {
            let receipt = Receipt {
                id: id.clone(),
                to: Some(self.parts.presence.name.clone()),
                state: ReceiptState::DeadLettered,
                reason: Some(error.to_owned()),
                way: None,
            };
            inbox.outgoing_sender().receipt(queue, receipt);
        }
        self.parts.disk.submit(Job::WriteHistory {
            id,
            publisher: publisher_mark(&delivery),
            event: HistoryEvent::DeadLettered,
            detail: Some(error.to_owned()),
            message: None,
        });
        self.reject(Some(delivery));
    }
}

/// The event in the history and the state in the receipt of a message that an operator removed.
fn event_and_state(removal: Removal) -> (HistoryEvent, ReceiptState) {
    match removal {
        Removal::Purged => (HistoryEvent::Purged, ReceiptState::Purged),
        Removal::Deleted => (HistoryEvent::Deleted, ReceiptState::Deleted),
    }
}
