//! Limits the messages of other users, so that messages of the session's own user are always
//! accepted, and messages of one other user do not block those of another.
//!
//! The broker delivers messages in rounds of at most a fixed number, the prefetch. Once the session
//! has received that many, it requests the next round. It does not do so while it has that many
//! unsettled messages of its own user: so only these can fill the prefetch.
//!
//! Messages of other users wait for the agent within the limits of module `counts`; the others are
//! parked (module `parked`). A parked message gets its place in the order of delivery when it is
//! admitted, behind all messages that wait then. So a backlog of one user delays another user's
//! message only by its admitted part.
//!
//! No round is requested while [`MAX_PENDING_WRITES`] bodies and dead letters are being written, so
//! a slow disk delays messages and not the terminal.
//!
//! Relies on the disk thread and on the table of messages.

use super::counts::Counts;
use super::dead_letters::DeadMessage;
use super::parked::{NextParked, ParkedBody, ParkedMessage};
use super::{MessageKey, Session};
use crate::peer::ReceivedMessage;
use crate::wrap::dead_letter::{DeadBody, claimed_id};
use crate::wrap::delivery::{Unsettled, publisher};
use crate::wrap::disk::Job;

/// Number of bodies and dead letters being written at which no round is requested.
const MAX_PENDING_WRITES: usize = 32;
const TOO_MANY: &str = "too many messages of other users wait";

impl Session {
    /// Receives a message from the broker. A message of another user is parked if there is no room
    /// for it or messages of that user are parked already.
    pub(super) fn receive(&mut self, mut delivery: ReceivedMessage) {
        let key = self.deliveries.table.next_key();
        self.messages.round = self.messages.round.max(delivery.round());
        let is_backlog = self.messages.parts.brake.is_backlog();
        let body = delivery.take_body();
        let is_too_long = body.len() > self.messages.parts.body_limit_bytes;
        if delivery.is_of_own_user() || is_too_long {
            return self.parse_and_look_up(key, (delivery, body), is_backlog);
        }
        let publisher = publisher(&delivery);
        let waiting = Counts::of_table(&self.deliveries.table);
        if waiting.have_room_for(&publisher) && !self.messages.parked.has_some_of(&publisher) {
            return self.parse_and_look_up(key, (delivery, body), is_backlog);
        }
        let parked = ParkedMessage {
            key,
            publisher,
            id: claimed_id(&body),
            body: ParkedBody::InMemory(body),
        };
        self.deliveries.table.add_without_message(key, delivery);
        if let Some((place, body)) = self.messages.parked.push(parked) {
            self.messages.parts.disk.submit(Job::ParkBody(place, body));
        }
    }

    /// Enforces the limits, admits parked messages, and requests the next round, after an event.
    pub(super) fn make_room(&mut self) {
        if self.messages.parked.len() > 0 {
            self.dead_letter_surplus();
            self.unpark_admissible();
        }
        if self.messages.parked.is_file_unused() {
            self.messages.parts.disk.submit(Job::ClearBodies);
        }
        if let Some(inbox) = &self.messages.parts.inbox {
            let unsettled = self.deliveries.table.unsettled(self.messages.round);
            let pending_writes =
                self.messages.dead_letters.writing() + self.messages.parked.pending_writes();
            if is_round_over(unsettled, inbox.prefetch()) && pending_writes < MAX_PENDING_WRITES {
                inbox.ask_for_more();
                self.messages.round += 1;
            }
        }
    }

    fn dead_letter_surplus(&mut self) {
        let waiting = Counts::of_table(&self.deliveries.table).all.messages;
        while let Some(message) = self.messages.parked.remove_surplus(waiting) {
            self.dead_letter_parked(message);
        }
    }

    fn unpark_admissible(&mut self) {
        loop {
            let waiting = Counts::of_table(&self.deliveries.table);
            match self.messages.parked.take_next(&waiting) {
                NextParked::Message(key, body) => self.unpark(key, body),
                NextParked::Read(key, place) => {
                    self.messages.parts.disk.submit(Job::ReadBody(key, place));
                }
                NextParked::Nothing => break,
            }
        }
    }

    /// Handles the body of a parked message, which was read from the file.
    pub(super) fn handle_parked_body(&mut self, key: MessageKey, body: Vec<u8>) {
        // The message may have been removed meanwhile.
        if self.messages.parked.remove(key).is_some() {
            self.unpark(key, body);
        }
    }

    /// Takes a message out of the parked ones, behind those that wait already.
    fn unpark(&mut self, parked: MessageKey, body: Vec<u8>) {
        if let Some(delivery) = self.deliveries.table.remove_without_message(parked) {
            let key = self.deliveries.table.next_key();
            self.parse_and_look_up(key, (delivery, body), false);
        }
    }

    fn dead_letter_parked(&mut self, message: ParkedMessage) {
        let ParkedMessage { key, id, body, .. } = message;
        let Some(delivery) = self.deliveries.table.remove_without_message(key) else {
            return;
        };
        let (body, place) = match body {
            ParkedBody::InMemory(body) => (DeadBody::cut(body), None),
            ParkedBody::InFile(place) => (DeadBody::default(), Some(place)),
        };
        let error = TOO_MANY.to_owned();
        self.dead_letter_from(key, delivery, DeadMessage { id, body, error }, place);
    }
}

/// Whether the round is complete and the own user's messages alone do not fill the prefetch.
fn is_round_over(unsettled: Unsettled, prefetch: usize) -> bool {
    unsettled.of_round >= prefetch && unsettled.own < prefetch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_other_users_never_fill_the_prefetch() {
        let is_over = |of_round, own| is_round_over(Unsettled { of_round, own }, 32);
        // Other users' messages, alone or with some of the own user's, fill the round.
        assert!(is_over(32, 0) && is_over(32, 31) && is_over(40, 8));
        // The broker may deliver more in this round.
        assert!(!is_over(31, 0) && !is_over(0, 31));
        // The own user's messages fill the prefetch.
        assert!(!is_over(32, 32) && !is_over(32, 63));
    }
}
