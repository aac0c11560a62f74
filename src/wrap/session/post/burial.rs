//! Messages that must not reach the agent: which they are, and their way to the dead letters.
//!
//! Relies on the disk thread and on the table of messages.

use super::{Job, MessageKey, Session};
use crate::peer::ReceivedMessage;
use crate::wrap::dead_letter::DeadBody;
use crate::wrap::delivery::InFlightMessage;
use crate::wrap::seen::Publisher;

/// Another message under an id that is known: taking it for that one would make one of them vanish.
pub(super) const ID_USED_TWICE: &str = "id used twice";

/// A message that must not reach the agent.
pub(super) struct DeadMessage {
    /// The id that it claims; empty where it claims none.
    pub(super) id: String,
    pub(super) body: DeadBody,
    pub(super) error: String,
}

impl Session {
    /// Whether a message of this publisher may have this id beside what is here. One of the
    /// session's own user displaces those of others, or waits until the agent is done with them.
    pub(super) fn may_use_id(&mut self, id: &str, publisher: &Publisher) -> bool {
        let namesakes = self.deliveries.table.under_id(id);
        let (bars, others): (Vec<_>, Vec<_>) = namesakes
            .map(|(key, message)| (key, publisher.yields_to(&message.publisher)))
            .partition(|(_, yields)| *yields);
        if !bars.is_empty() {
            return false;
        }
        for (key, _) in others.into_iter().filter(|_| *publisher == Publisher::Own) {
            if let Some(displaced) = self.deliveries.displace(key) {
                self.bury_taken(key, displaced, ID_USED_TWICE);
            }
        }
        true
    }

    /// A message that was taken in must not reach the agent after all.
    pub(super) fn bury_taken(
        &mut self,
        key: MessageKey,
        mut message: InFlightMessage,
        error: &str,
    ) {
        let dead = DeadMessage {
            id: std::mem::take(&mut message.envelope.id),
            body: std::mem::take(&mut message.body),
            error: error.to_owned(),
        };
        let mut deliveries = message.into_deliveries();
        if let Some(delivery) = deliveries.next() {
            self.bury(key, delivery, dead);
        }
        self.post.reject(deliveries);
    }

    /// A message that must not reach the agent: rejected once its dead letter is on disk.
    pub(super) fn bury(&mut self, key: MessageKey, delivery: ReceivedMessage, dead: DeadMessage) {
        let DeadMessage { id, body, error } = dead;
        self.post.buried.insert(key, id);
        let is_own = delivery.is_of_own_user();
        self.deliveries.table.insert_dead(key, delivery);
        self.post.parts.disk.submit(Job::WriteDeadLetter {
            key,
            error,
            body,
            is_own,
        });
    }
}
