//! The arrival of a message: it is parsed, looked up on disk and queued; a long text is written to
//! a file.
//!
//! Relies on the disk thread, the brake and the table of messages.

use std::time::Instant;

use super::dead_letters::{DeadMessage, ID_USED_TWICE};
use super::line::{compose_with_file, compose_within, long_text};
use super::{HistoryEvent, Job, MessageKey, ReportDetail, Session};
use crate::envelope::Envelope;
use crate::message_history::MessageText;
use crate::peer::{ReceiptState, ReceivedMessage};
use crate::platform;
use crate::wrap::brake::ArrivedMessage;
use crate::wrap::dead_letter::{DeadBody, claimed_id};
use crate::wrap::delivery::{
    Claim, DeliveryState, InFlightMessage, Precedence, TextPlace, publisher,
};
use crate::wrap::disk::{LongText, Spilled};
use crate::wrap::hold::Hold;
use crate::wrap::seen::{Publisher, Seen};
use crate::wrap::spill::{self, Pointer};

impl Session {
    /// Parses a message and looks it up on disk.
    pub(super) fn parse_and_look_up(
        &mut self,
        key: MessageKey,
        (delivery, body): (ReceivedMessage, Vec<u8>),
        is_backlog: bool,
    ) {
        let envelope = match Envelope::parse(&body, self.messages.parts.body_limit_bytes) {
            Ok(envelope) => envelope,
            Err(invalid) => {
                let dead = DeadMessage {
                    id: claimed_id(&body),
                    body: DeadBody::cut(body),
                    error: invalid.to_string(),
                };
                return self.dead_letter(key, delivery, dead);
            }
        };
        let body = DeadBody::cut(body);
        let publisher = publisher(&delivery);
        let identity = publisher.identity(&envelope);
        if let Some(known) = self.deliveries.table.find(&identity) {
            return self.handle_redelivery(known, delivery);
        }
        if !self.may_use_id(&envelope.id, &publisher) {
            let dead = DeadMessage {
                id: envelope.id,
                body,
                error: ID_USED_TWICE.to_owned(),
            };
            return self.dead_letter(key, delivery, dead);
        }
        let mut message = InFlightMessage::new(envelope, Some(delivery), Instant::now());
        message.body = body;
        message.is_backlog = is_backlog;
        let text = self.set_lines(&mut message);
        self.deliveries.table.insert(key, message);
        self.messages
            .parts
            .disk
            .submit(Job::LookUp(key, identity, text));
    }

    /// Sets the lines of a message. If they are too long, returns the text to write to a file
    /// first.
    fn set_lines(&self, message: &mut InFlightMessage) -> Option<Box<LongText>> {
        let lines_only = self.program.reads_lines() && !self.modes.takes_paste();
        let limit = if lines_only {
            platform::CANONICAL_LIMIT
        } else {
            spill::LINE_LIMIT
        };
        let breaks = self.messages.parts.breaks;
        let Some(lines) = compose_within(&message.envelope, breaks, limit) else {
            return Some(long_text(&message.envelope, limit));
        };
        (message.line, message.repeat_line) = lines;
        None
    }

    /// Queues a message after its lookup on disk, unless it is known already.
    pub(super) fn queue_after_lookup(
        &mut self,
        key: MessageKey,
        seen: Seen,
        spilled: Option<Box<Spilled>>,
    ) {
        // The proof of an earlier submission arrived meanwhile, or the connection was lost.
        if !self.deliveries.table.is_arriving(key) {
            let file = spilled.and_then(|spilled| spilled.ok());
            return self.messages.remove_files(file.map(|(_, file)| file));
        }
        if seen == Seen::OtherContent {
            if let Some(message) = self.deliveries.table.remove(key) {
                self.dead_letter_in_flight(key, message, ID_USED_TWICE);
            }
            return;
        }
        if seen == Seen::Done {
            if let Some(message) = self.deliveries.table.remove(key) {
                let detail = ReportDetail::Reason("delivered before".to_owned());
                self.messages.report_state(
                    &message,
                    HistoryEvent::Repeated,
                    ReceiptState::Delivered,
                    detail,
                );
                self.messages.ack(message.into_deliveries());
            }
            return;
        }
        let Some(message) = self.deliveries.table.get_mut(key) else {
            return;
        };
        let arrived = ArrivedMessage {
            from: &message.envelope.from,
            user: message.delivery.as_ref().and_then(ReceivedMessage::user),
            is_own: message
                .delivery
                .as_ref()
                .is_some_and(ReceivedMessage::is_of_own_user),
            is_backlog: message.is_backlog,
            id: &message.envelope.id,
            hops: message.hops,
        };
        let is_loop = self.messages.parts.brake.holds(arrived, Instant::now());
        if let Some(spilled) = spilled {
            let breaks = self.messages.parts.breaks;
            (message.line, message.repeat_line) =
                compose_with_file(message, *spilled, breaks, &mut self.log);
        }
        message.may_repeat = seen == Seen::Intended;
        message.blocked = is_loop.then_some(Hold::Loop);
        if is_loop && message.publisher != Publisher::Own {
            message.precedence = Precedence::Late;
        }
        message.state = DeliveryState::Queued;
        let text = MessageText::of(&message.envelope);
        self.messages.parts.disk.submit(Job::WriteHistory {
            id: message.envelope.id.clone(),
            publisher: message.publisher.mark().map(str::to_owned),
            event: HistoryEvent::Received,
            detail: None,
            message: Some(Box::new(text)),
        });
        self.is_stale = self.reads_screen;
    }

    /// Moves the text of a message to a file, because it does not fit into the agent's input.
    pub(in crate::wrap::session) fn move_to_file(&mut self, key: MessageKey) {
        if let Some(message) = self.deliveries.table.get(key) {
            let text = long_text(&message.envelope, 0);
            self.messages.parts.disk.submit(Job::Spill(key, text));
        }
    }

    /// Moves everything that the sender wrote to a file, because others could read the line.
    pub(in crate::wrap::session) fn hide_in_file(&mut self, key: MessageKey) {
        if let Some(message) = self.deliveries.table.get(key) {
            let envelope = message.envelope.clone();
            let text = Box::new(LongText {
                envelope,
                pointer: Pointer::Hidden,
            });
            self.messages.parts.disk.submit(Job::Spill(key, text));
        }
    }

    /// Handles the result of [`Session::move_to_file`] or [`Session::hide_in_file`].
    pub(super) fn moved_to_file(&mut self, key: MessageKey, pointer: Pointer, spilled: Spilled) {
        let Some(message) = self.deliveries.table.get_mut(key) else {
            return self
                .messages
                .remove_files(spilled.ok().map(|(_, file)| file));
        };
        let breaks = self.messages.parts.breaks;
        let place = match (&spilled, pointer) {
            (Ok(_), Pointer::Hidden) => TextPlace::HiddenInFile,
            (Ok(_), Pointer::UpTo(_)) => TextPlace::File,
            (Err(_), _) => TextPlace::Unwritable,
        };
        let lines = compose_with_file(message, spilled, breaks, &mut self.log);
        self.deliveries.moved_to_file(key, lines, place);
    }

    /// Handles another delivery of a message in the table: the connection was lost, or the message
    /// was sent twice.
    fn handle_redelivery(&mut self, key: MessageKey, delivery: ReceivedMessage) {
        let known = self.deliveries.table.get(key);
        if known.is_some_and(|known| known.is_held_of_others() && known.claim == Claim::Ours) {
            // Copies of held messages would take the place of other messages.
            return self.messages.reject([delivery]);
        }
        let surplus = self.deliveries.table.attach(key, delivery);
        self.messages.ack(surplus);
    }
}
