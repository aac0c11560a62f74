//! Submissions that were given up, and whose proof may still come: on a busy machine the row in a
//! transcript is late, and the model has read the text all the same.
//!
//! A late proof acks the messages wherever they are: waiting, with another way, or out of the
//! table because the connection to the broker was lost. In the last case it is noted on disk, so
//! that they are acked when they come again. So messages are known here by their identities.
//!
//! Relies on the table.

use std::time::{Duration, Instant};

use super::{Deliveries, InFlightMessage, MessageKey, Step, Submitted};
use crate::wrap::ways::{SubmissionNumber, Way};

/// How long a proof is waited for after its submission was given up.
const LOOKED_FOR: Duration = Duration::from_mins(10);

/// A submission that was given up.
#[derive(Debug)]
pub(super) struct Late {
    number: SubmissionNumber,
    way: Way,
    /// Id and identity of each message.
    messages: Vec<(String, String)>,
    /// `None`: it was given up just now.
    until: Option<Instant>,
}

impl Deliveries {
    /// When the first late submission expires.
    pub fn late_until(&self) -> Option<Instant> {
        self.late.iter().filter_map(|late| late.until).min()
    }

    /// Goes on looking for a submission whose messages wait again from now on.
    pub(super) fn look_on(&mut self, submitted: &Submitted) {
        let is_open = |key: &MessageKey| {
            let message = self.table.get(*key);
            message.is_some_and(InFlightMessage::is_held)
        };
        let keys = submitted.messages.iter().copied().filter(is_open);
        let keys: Vec<MessageKey> = keys.collect();
        if keys.is_empty() {
            return self.due.push_back(Step::Forget(submitted.number));
        }
        let ids = self.table.ids(&keys);
        let identities = self.table.identities(&keys);
        self.late.push(Late {
            number: submitted.number,
            way: submitted.way,
            messages: ids.into_iter().zip(identities).collect(),
            until: None,
        });
    }

    /// Stops looking for late proofs of these messages, which are delivered.
    pub(super) fn settle_late(&mut self, keys: &[MessageKey]) {
        let settled = self.table.identities(keys);
        let due = &mut self.due;
        self.late.retain_mut(|late| {
            late.messages
                .retain(|(_, identity)| !settled.contains(identity));
            if late.messages.is_empty() {
                due.push_back(Step::Forget(late.number));
            }
            !late.messages.is_empty()
        });
    }

    /// Whether the time of all that was given up is known.
    pub(super) fn is_late_timed(&self) -> bool {
        self.late.iter().all(|late| late.until.is_some())
    }

    /// Stops looking for what is overdue.
    pub(super) fn end_late(&mut self, now: Instant) {
        let due = &mut self.due;
        self.late.retain_mut(|late| {
            let is_looked_for = now < *late.until.get_or_insert(now + LOOKED_FOR);
            if !is_looked_for {
                due.push_back(Step::Forget(late.number));
            }
            is_looked_for
        });
    }

    /// The proof of a submission that was given up.
    pub(super) fn proved_late(&mut self, number: SubmissionNumber) {
        let Some(place) = self.late.iter().position(|late| late.number == number) else {
            return;
        };
        let late = self.late.remove(place);
        self.ways.worked(late.way);
        self.due.push_back(Step::Forget(number));
        let mut here: Vec<MessageKey> = Vec::new();
        let mut elsewhere = Vec::new();
        for (id, identity) in late.messages {
            match self.table.find(&identity) {
                Some(key) => here.push(key),
                // The proof names an id, and another message has it now.
                None if self.table.under_id(&id).next().is_some() => {}
                None => elsewhere.push(identity),
            }
        }
        self.delivered(&here, late.way);
        if !elsewhere.is_empty() {
            self.due.push_back(Step::Read(elsewhere, late.way));
        }
    }
}
