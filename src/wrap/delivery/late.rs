//! Submissions that were given up and whose proof may still come: on a busy machine the row in the
//! transcript may be late although the model has read the text.
//!
//! A late proof acks the messages whatever their state is: waiting, with another way, or dropped
//! because the connection to the broker was lost. Dropped messages are written as done, so that
//! they are acked when they are delivered again. So messages are identified by their identities
//! here.
//!
//! Relies on the table.

use std::time::{Duration, Instant};

use super::{Deliveries, InFlightMessage, MessageKey, Step, Submitted};
use crate::wrap::ways::{SubmissionNumber, Way};

/// How long a proof is awaited after its submission was given up.
const LATE_PROOF_WITHIN: Duration = Duration::from_mins(10);

/// A submission that was given up.
#[derive(Debug)]
pub(super) struct LateSubmission {
    number: SubmissionNumber,
    way: Way,
    /// Id and identity of each message.
    messages: Vec<(String, String)>,
    /// When the wait ends; `None` before the next step.
    until: Option<Instant>,
}

impl Deliveries {
    /// When the first late submission expires.
    pub fn late_until(&self) -> Option<Instant> {
        self.late.iter().filter_map(|late| late.until).min()
    }

    /// Keeps looking for the proof of a submission that is given up.
    pub(super) fn keep_looking(&mut self, submitted: &Submitted) {
        let is_open = |key: &MessageKey| {
            let message = self.table.get(*key);
            message.is_some_and(InFlightMessage::is_held)
        };
        let keys = submitted.messages.iter().copied().filter(is_open);
        let keys: Vec<MessageKey> = keys.collect();
        if keys.is_empty() {
            return self.due.push_back(Step::EndSearch(submitted.number));
        }
        let ids = self.table.ids(&keys);
        let identities = self.table.identities(&keys);
        self.late.push(LateSubmission {
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
                due.push_back(Step::EndSearch(late.number));
            }
            !late.messages.is_empty()
        });
    }

    /// Whether the end of the wait is known for all late submissions.
    pub(super) fn is_late_timed(&self) -> bool {
        self.late.iter().all(|late| late.until.is_some())
    }

    /// Removes expired late submissions.
    pub(super) fn expire_late(&mut self, now: Instant) {
        let due = &mut self.due;
        self.late.retain_mut(|late| {
            let is_looked_for = now < *late.until.get_or_insert(now + LATE_PROOF_WITHIN);
            if !is_looked_for {
                due.push_back(Step::EndSearch(late.number));
            }
            is_looked_for
        });
    }

    /// Handles the proof of a submission that was given up.
    pub(super) fn proved_late(&mut self, number: SubmissionNumber) {
        let Some(index) = self.late.iter().position(|late| late.number == number) else {
            return;
        };
        let late = self.late.remove(index);
        self.ways.note_success(late.way);
        self.due.push_back(Step::EndSearch(number));
        let mut here: Vec<MessageKey> = Vec::new();
        let mut elsewhere = Vec::new();
        for (id, identity) in late.messages {
            match self.table.find(&identity) {
                Some(key) => here.push(key),
                // Another message with this id is in the table, and the proof may be of either.
                None if self.table.with_id(&id).next().is_some() => {}
                None => elsewhere.push(identity),
            }
        }
        self.delivered(&here, late.way);
        if !elsewhere.is_empty() {
            self.due.push_back(Step::WriteDone(elsewhere, late.way));
        }
    }
}
