//! Messages that a command shows to its reader in place of the agent (`cbroker inbox --take`).
//!
//! The command may end before its reader has seen them, so this takes two steps. First the session
//! sends the messages to the command, with an intent on disk as before any hand-over. Then it acks
//! those that the command confirms. No other message is delivered in between. Messages that are not
//! confirmed in time are queued again in their order, marked as possible repeats. A confirmation
//! that comes later still counts for those that wait.
//!
//! Relies on the table.

use std::time::{Duration, Instant};

use super::{
    Deliveries, DeliveryState, InFlightMessage, MessageKey, Step, SubmissionPhase, Submitted,
    Wording,
};
use crate::wrap::ways::{SubmissionNumber, Way};

/// Time limit for the confirmation. A command confirms once it has written the texts.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// For this time after a take was not confirmed, no take holds back other messages: a command that
/// fails each time must not keep them from the agent.
const WITHOUT_HOLD: Duration = Duration::from_mins(1);

/// Messages that were shown to a command, which has not confirmed it.
#[derive(Debug)]
pub(super) struct Take {
    number: SubmissionNumber,
    until: Instant,
}

impl Deliveries {
    /// Keeps the messages among `keys` that wait for a command. [`Step::Show`] follows once their
    /// intents are on disk. Returns `None` if none of them waits.
    pub fn take_for_command(
        &mut self,
        keys: impl Iterator<Item = MessageKey>,
    ) -> Option<SubmissionNumber> {
        let messages: Vec<MessageKey> = keys.filter(|key| self.is_waiting(*key)).collect();
        if messages.is_empty() {
            return None;
        }
        self.last_submission += 1;
        self.submissions.push(Submitted {
            number: self.last_submission,
            way: Way::InboxCommand,
            messages: messages.clone(),
            wording: Wording::OfSenders,
            phase: SubmissionPhase::WritingIntent,
        });
        self.due.push_back(Step::WriteIntent(messages));
        Some(self.last_submission)
    }

    /// Shows messages whose intents are on disk.
    pub(super) fn show(&mut self, index: usize, now: Instant) -> Step {
        let number = self.submissions[index].number;
        let mut messages = std::mem::take(&mut self.submissions[index].messages);
        messages.retain(|key| {
            let message = self.table.get_mut(*key).filter(|one| one.is_queued());
            message.is_some_and(|message| {
                message.state = DeliveryState::HandedOver(Way::InboxCommand);
                true
            })
        });
        if messages.is_empty() {
            self.submissions.remove(index);
        } else {
            self.submissions[index].messages.clone_from(&messages);
            self.submissions[index].phase = SubmissionPhase::HandedOver;
            let until = now + CONFIRMED_WITHIN;
            self.takes.push(Take { number, until });
        }
        Step::Show(number, messages)
    }

    /// A command has shown these messages to its reader. Those that wait, or were kept for a
    /// command, are delivered by that. Returns how many these are.
    pub fn taken(&mut self, keys: impl Iterator<Item = MessageKey>) -> usize {
        let is_taken = |key: &MessageKey| self.is_shown(*key) || self.is_waiting(*key);
        let taken: Vec<MessageKey> = keys.filter(is_taken).collect();
        self.leave_takes(&taken);
        self.delivered(&taken, Way::InboxCommand);
        taken.len()
    }

    /// Removes a message that an operator discards, and returns it with its deliveries.
    ///
    /// Returns `None` if it may be with the agent.
    pub fn discard(&mut self, key: MessageKey) -> Option<InFlightMessage> {
        if !self.is_shown(key) {
            return self.displace(key);
        }
        self.leave_takes(&[key]);
        self.table.remove(key)
    }

    /// Whether a command was shown this message and has not confirmed it.
    fn is_shown(&self, key: MessageKey) -> bool {
        let message = self.table.get(key);
        message.is_some_and(|one| one.state == DeliveryState::HandedOver(Way::InboxCommand))
    }

    /// Takes these messages out of the takes, and ends those that have no other one.
    fn leave_takes(&mut self, gone: &[MessageKey]) {
        let table = &self.table;
        self.submissions.retain_mut(|submitted| {
            if submitted.way == Way::InboxCommand {
                // One may have been proved to be with the agent meanwhile.
                let is_out = submitted.phase == SubmissionPhase::HandedOver;
                let is_still_shown = |key: &MessageKey| {
                    table.get(*key).is_some_and(|one| {
                        !is_out || one.state == DeliveryState::HandedOver(Way::InboxCommand)
                    })
                };
                let messages = &mut submitted.messages;
                messages.retain(|key| !gone.contains(key) && is_still_shown(key));
            }
            !submitted.messages.is_empty()
        });
        let submissions = &self.submissions;
        self.takes.retain(|take| {
            let mut numbers = submissions.iter().map(|submitted| submitted.number);
            numbers.any(|number| number == take.number)
        });
    }

    /// Whether a take that is not confirmed holds back what came later.
    pub(super) fn is_behind_take(&self, now: Instant) -> bool {
        self.is_being_taken() && self.behind_takes_from.is_none_or(|from| now >= from)
    }

    /// Whether a command takes messages and has not confirmed it.
    pub(super) fn is_being_taken(&self) -> bool {
        self.has_submission(Way::InboxCommand)
    }

    /// When the first time limit for a confirmation ends.
    pub(super) fn take_deadline(&self) -> Option<Instant> {
        self.takes.iter().map(|take| take.until).min()
    }

    /// Queues messages again that were not confirmed in time.
    pub(super) fn expire_takes(&mut self, now: Instant) {
        let is_over = |take: &Take| now >= take.until;
        let expired = self.takes.iter().filter(|take| is_over(take));
        let expired: Vec<SubmissionNumber> = expired.map(|take| take.number).collect();
        self.takes.retain(|take| !is_over(take));
        if !expired.is_empty() {
            self.behind_takes_from = Some(now + WITHOUT_HOLD);
        }
        for number in expired {
            if let Some(Submitted { messages, .. }) = self.remove_submission(number) {
                self.due
                    .push_back(Step::NotConfirmed(self.table.ids(&messages)));
                self.requeue(&messages, true);
                for key in messages {
                    self.table.forget_reported_holds(key);
                }
            }
        }
    }
}
