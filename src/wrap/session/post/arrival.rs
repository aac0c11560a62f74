//! A message's arrival: parsed, looked up on disk, its text in a line or a file, queued.
//!
//! Relies on the disk thread, the brake and the table of messages.

use std::time::Instant;

use super::burial::{DeadMessage, ID_USED_TWICE};
use super::{Job, MessageKey, Said, Session, Story};
use crate::envelope::{Breaks, DeliveryMark, Envelope};
use crate::message_history::MessageText;
use crate::peer::{ReceiptState, ReceivedMessage};
use crate::platform;
use crate::wrap::brake::Passing;
use crate::wrap::dead_letter::{DeadBody, claimed_id};
use crate::wrap::delivery::{Claim, InFlightMessage, Precedence, State, publisher};
use crate::wrap::disk::{LongText, Spilled};
use crate::wrap::hold::Hold;
use crate::wrap::log::Log;
use crate::wrap::seen::{Publisher, Seen};
use crate::wrap::spill;

impl Session {
    /// A message that may wait for the agent is parsed and looked up on disk.
    pub(super) fn take_in(&mut self, key: MessageKey, delivery: ReceivedMessage, body: Vec<u8>) {
        let envelope = match Envelope::parse(&body, self.post.parts.body_limit_bytes) {
            Ok(envelope) => envelope,
            Err(invalid) => {
                let dead = DeadMessage {
                    id: claimed_id(&body),
                    body: DeadBody::cut(body),
                    error: invalid.to_string(),
                };
                return self.bury(key, delivery, dead);
            }
        };
        let body = DeadBody::cut(body);
        let publisher = publisher(&delivery);
        let identity = publisher.identity(&envelope);
        if let Some(known) = self.deliveries.table.find(&identity) {
            return self.came_again(known, delivery);
        }
        if !self.may_use_id(&envelope.id, &publisher) {
            let dead = DeadMessage {
                id: envelope.id,
                body,
                error: ID_USED_TWICE.to_owned(),
            };
            return self.bury(key, delivery, dead);
        }
        let mut message = InFlightMessage::new(envelope, Some(delivery), Instant::now());
        message.body = body;
        let text = self.write_lines(&mut message);
        self.deliveries.table.insert(key, message);
        self.post.parts.disk.ask(Job::Look(key, identity, text));
    }

    /// Writes a message's lines, unless they are too long: then its text goes to a file first.
    fn write_lines(&self, message: &mut InFlightMessage) -> Option<Box<LongText>> {
        let lines_only = self.program.reads_lines() && !self.modes.takes_paste();
        let limit = if lines_only {
            platform::CANONICAL_LIMIT
        } else {
            spill::LINE_LIMIT
        };
        let lines = lines(&message.envelope, self.post.parts.breaks);
        if lines.0.len() > limit {
            return Some(long_text(&message.envelope, limit));
        }
        (message.line, message.line_again) = lines;
        None
    }

    /// A message that was looked up is queued, or is known already.
    pub(super) fn admit(&mut self, key: MessageKey, seen: Seen, spilled: Option<Box<Spilled>>) {
        // Its proof came meanwhile, or the connection was lost.
        if !self.deliveries.table.is_arriving(key) {
            let file = spilled.and_then(|spilled| spilled.ok());
            return self.post.remove_files(file.map(|(_, file)| file));
        }
        if seen == Seen::OtherContent {
            if let Some(message) = self.deliveries.table.remove(key) {
                self.bury_taken(key, message, ID_USED_TWICE);
            }
            return;
        }
        if seen == Seen::Done {
            if let Some(message) = self.deliveries.table.remove(key) {
                let before = Said::Why("delivered before".to_owned());
                self.post
                    .tell(&message, Story::Repeated, ReceiptState::Delivered, before);
                self.post.ack(message.into_deliveries());
            }
            return;
        }
        let Some(message) = self.deliveries.table.get_mut(key) else {
            return;
        };
        let passing = Passing {
            from: &message.envelope.from,
            user: message.delivery.as_ref().and_then(ReceivedMessage::user),
            is_own: message
                .delivery
                .as_ref()
                .is_some_and(ReceivedMessage::is_of_own_user),
            id: &message.envelope.id,
            hops: message.hops,
        };
        let is_loop = self.post.parts.brake.holds(passing, Instant::now());
        if let Some(spilled) = spilled {
            let breaks = self.post.parts.breaks;
            (message.line, message.line_again) =
                point_to_file(message, *spilled, breaks, &mut self.log);
        }
        message.may_repeat = seen == Seen::Intended;
        message.blocked = is_loop.then_some(Hold::Loop);
        if is_loop && message.publisher != Publisher::Own {
            message.precedence = Precedence::Late;
        }
        message.state = State::Queued;
        let said = MessageText::of(&message.envelope);
        self.post.parts.disk.ask(Job::Tell {
            id: message.envelope.id.clone(),
            publisher: message.publisher.mark().map(str::to_owned),
            event: Story::Received,
            detail: None,
            message: Some(Box::new(said)),
        });
        self.is_stale = self.reads_screen;
    }

    /// The text of this message does not fit into the agent's box: it goes to a file.
    pub(in crate::wrap::session) fn move_to_file(&mut self, key: MessageKey) {
        if let Some(message) = self.deliveries.table.get(key) {
            let text = long_text(&message.envelope, 0);
            self.post.parts.disk.ask(Job::Spill(key, text));
        }
    }

    pub(super) fn moved_to_file(&mut self, key: MessageKey, spilled: Spilled) {
        let Some(message) = self.deliveries.table.get_mut(key) else {
            return self.post.remove_files(spilled.ok().map(|(_, file)| file));
        };
        let breaks = self.post.parts.breaks;
        let lines = point_to_file(message, spilled, breaks, &mut self.log);
        self.deliveries.moved_to_file(key, lines.0, lines.1);
    }

    /// A message that is here already was delivered again: after the connection was lost, or
    /// because it was sent twice.
    fn came_again(&mut self, key: MessageKey, delivery: ReceivedMessage) {
        let known = self.deliveries.table.get(key);
        if known.is_some_and(|known| known.is_held_of_others() && known.claim == Claim::Ours) {
            // Copies of what is held would take the places of others.
            return self.post.reject([delivery]);
        }
        let spare = self.deliveries.table.attach(key, delivery);
        self.post.ack(spare);
    }
}

/// The line, and the same marked as a possible repeat.
fn lines(envelope: &Envelope, breaks: Breaks) -> (String, String) {
    let line = |mark| envelope.to_line(breaks, mark);
    (line(DeliveryMark::None), line(DeliveryMark::PossibleRepeat))
}

/// What is written to a file, so that its line has at most so many bytes.
fn long_text(envelope: &Envelope, limit_bytes: usize) -> Box<LongText> {
    Box::new(LongText {
        envelope: envelope.clone(),
        limit_bytes: limit_bytes.max(platform::CANONICAL_LIMIT),
    })
}

/// The lines of a message whose text is in a file; of the whole text where that failed.
fn point_to_file(
    message: &mut InFlightMessage,
    spilled: Spilled,
    breaks: Breaks,
    log: &mut Log,
) -> (String, String) {
    match spilled {
        Ok((short, file)) => {
            message.text_files.push(file);
            lines(&short, breaks)
        }
        Err(error) => {
            log.say(&format!("a long text cannot be written to a file: {error}"));
            lines(&message.envelope, breaks)
        }
    }
}
