//! Turns messages that must not reach the agent into dead letters.
//!
//! Relies on the disk thread and on the table of messages.

use chrono::Utc;

use super::{Job, MessageKey, Session};
use crate::envelope::timestamp;
use crate::peer::ReceivedMessage;
use crate::wrap::body_file::BodyPlace;
use crate::wrap::dead_letter::{DeadBody, NewDeadLetter};
use crate::wrap::delivery::InFlightMessage;
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
        let DeadMessage { id, body, error } = dead;
        self.messages.dead_letter_ids.insert(key, id);
        let letter = NewDeadLetter {
            ts: timestamp(Utc::now()),
            error,
            body,
            is_own: delivery.is_of_own_user(),
        };
        self.deliveries.table.set_aside(key, delivery);
        let job = Job::WriteDeadLetter(key, letter, place);
        self.messages.parts.disk.submit(job);
    }
}
