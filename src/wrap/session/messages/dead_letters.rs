//! Turns messages that must not reach the agent into dead letters.
//!
//! Relies on the disk thread and on the table of messages.

use std::collections::{HashMap, VecDeque};

use chrono::Utc;

use super::{Job, MessageKey, Session, SessionMessages};
use crate::envelope::timestamp;
use crate::peer::ReceivedMessage;
use crate::wrap::body_file::BodyPlace;
use crate::wrap::dead_letter::{DeadBody, NewDeadLetter};
use crate::wrap::delivery::{InFlightMessage, MessageTable, publisher};
use crate::wrap::seen::Publisher;

/// The error of a message whose id another message has used. Treating the two as one would lose one
/// of them.
pub(super) const ID_USED_TWICE: &str = "id used twice";

/// A message that must not reach the agent.
pub(super) struct DeadMessage {
    /// The id that its body claims; empty if it claims none.
    pub(super) id: String,
    pub(super) body: DeadBody,
    pub(super) error: String,
}

/// Maximum number of dead letters that are remembered after their deliveries were lost.
const MAX_LOST: usize = 1000;

/// The dead letters that are being written, and written ones whose deliveries were lost with the
/// connection. The broker delivers the latter messages again, and they must not become dead letters
/// a second time.
#[derive(Debug, Default)]
pub(super) struct LettersInHand {
    writing: HashMap<MessageKey, LetterName>,
    lost: VecDeque<(LetterName, String)>,
}

/// What names a dead letter.
#[derive(Debug)]
struct LetterName {
    /// The id that its body claims; empty if it claims none.
    id: String,
    /// Its publisher and its body. `None` if neither the body is in memory nor an id is known.
    identity: Option<(Publisher, String)>,
}

impl LettersInHand {
    /// The number of dead letters that are being written.
    pub(super) fn writing(&self) -> usize {
        self.writing.len()
    }

    /// The key of a dead letter with this name that is being written and has lost its delivery.
    fn find_writing(&self, name: &LetterName, table: &MessageTable) -> Option<MessageKey> {
        let mut writing = self.writing.iter();
        let found = writing.find(|(key, one)| one.is(name) && !table.is_without_message(**key));
        found.map(|(key, _)| *key)
    }

    /// Removes a dead letter with this name that has lost its delivery. Returns its error.
    fn remove_lost(&mut self, name: &LetterName) -> Option<String> {
        let place = self.lost.iter().position(|(lost, _)| lost.is(name))?;
        self.lost.remove(place).map(|(_, error)| error)
    }

    fn add_lost(&mut self, name: LetterName, error: String) {
        if name.identity.is_some() {
            self.lost.push_back((name, error));
        }
        if self.lost.len() > MAX_LOST {
            self.lost.pop_front();
        }
    }
}

impl LetterName {
    /// Names it by its body if that `is_here`, else by the id that it claims.
    fn of(dead: &DeadMessage, publisher: Publisher, is_here: bool) -> Self {
        let id = Some(dead.id.clone()).filter(|id| !id.is_empty());
        let named = if is_here {
            Some(dead.body.digest())
        } else {
            id
        };
        Self {
            id: dead.id.clone(),
            identity: named.map(|named| (publisher, named)),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.identity.is_some() && self.identity == other.identity
    }
}

impl SessionMessages {
    /// Rejects the message of a dead letter that is on disk. If its delivery was lost, the broker
    /// delivers the message again.
    pub(super) fn dead_letter_written(
        &mut self,
        table: &mut MessageTable,
        key: MessageKey,
        error: String,
    ) {
        let Some(name) = self.dead_letters.writing.remove(&key) else {
            return;
        };
        match table.remove_without_message(key) {
            Some(delivery) => self.refuse(delivery, name.id, &error),
            None => self.dead_letters.add_lost(name, error),
        }
    }
}

impl Session {
    /// Whether a message of this publisher may use this id beside the messages in the table. A
    /// message of the session's own user displaces those of other users, or waits until the agent
    /// has read them.
    pub(super) fn may_use_id(&mut self, id: &str, publisher: &Publisher) -> bool {
        let same_id = self.deliveries.table.with_id(id);
        let (bars, others): (Vec<_>, Vec<_>) = same_id
            .map(|(key, message)| (key, publisher.is_barred_by(&message.publisher)))
            .partition(|(_, is_barred)| *is_barred);
        if !bars.is_empty() {
            return false;
        }
        for (key, _) in others.into_iter().filter(|_| *publisher == Publisher::Own) {
            if let Some(displaced) = self.deliveries.displace(key) {
                self.dead_letter_in_flight(key, displaced, ID_USED_TWICE);
            }
        }
        true
    }

    /// Turns a message that was already taken out of the table into a dead letter.
    pub(super) fn dead_letter_in_flight(
        &mut self,
        key: MessageKey,
        mut message: InFlightMessage,
        error: &str,
    ) {
        self.messages.remove_texts(&mut message);
        let dead = DeadMessage {
            id: std::mem::take(&mut message.envelope.id),
            body: std::mem::take(&mut message.body),
            error: error.to_owned(),
        };
        let mut deliveries = message.into_deliveries();
        if let Some(delivery) = deliveries.next() {
            self.dead_letter(key, delivery, dead);
        }
        self.messages.reject(deliveries);
    }

    /// Writes the dead letter of a delivery. The delivery is rejected once the dead letter is on
    /// disk.
    pub(super) fn dead_letter(
        &mut self,
        key: MessageKey,
        delivery: ReceivedMessage,
        dead: DeadMessage,
    ) {
        self.dead_letter_from(key, delivery, dead, None);
    }

    /// As [`Session::dead_letter`]; with a `place`, the body is in the file of parked bodies.
    pub(super) fn dead_letter_from(
        &mut self,
        key: MessageKey,
        delivery: ReceivedMessage,
        dead: DeadMessage,
        place: Option<BodyPlace>,
    ) {
        let name = LetterName::of(&dead, publisher(&delivery), place.is_none());
        if delivery.is_redelivered() {
            let table = &self.deliveries.table;
            if let Some(key) = self.messages.dead_letters.find_writing(&name, table) {
                return self.deliveries.table.add_without_message(key, delivery);
            }
            if let Some(error) = self.messages.dead_letters.remove_lost(&name) {
                return self.messages.refuse(delivery, name.id, &error);
            }
        }
        let DeadMessage { body, error, .. } = dead;
        self.messages.dead_letters.writing.insert(key, name);
        let letter = NewDeadLetter {
            ts: timestamp(Utc::now()),
            error,
            body,
            is_own: delivery.is_of_own_user(),
        };
        self.deliveries.table.add_without_message(key, delivery);
        let job = Job::WriteDeadLetter(key, letter, place);
        self.messages.parts.disk.submit(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::dead_letter::DeadBody;

    /// All of them were taken for one empty body.
    #[test]
    fn bodies_in_the_file_of_parked_ones_are_told_apart_by_their_ids() {
        let name = |id: &str| {
            let dead = DeadMessage {
                id: id.to_owned(),
                body: DeadBody::default(),
                error: String::new(),
            };
            LetterName::of(&dead, Publisher::Own, false)
        };
        assert!(name("a").is(&name("a")));
        assert!(!name("a").is(&name("b")));
        assert!(!name("").is(&name("")), "nothing names them");
    }
}
