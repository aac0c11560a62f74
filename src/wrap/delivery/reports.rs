//! What the ways report about a submission, and what follows for its messages.
//!
//! Relies on the table and the order of the ways.

use super::{Claim, Deliveries, MessageKey, State, Step, Submitted, TextPlace};
use crate::wrap::hold::Hold;
use crate::wrap::ways::keyboard::Outcome;
use crate::wrap::ways::{Refusal, SubmissionNumber, Way};

impl Deliveries {
    /// The proof: the submission is in the model's context.
    pub fn in_context(&mut self, number: SubmissionNumber) {
        self.keyboard.proved(number);
        if let Some(submitted) = self.take(number) {
            self.ways.worked(submitted.way);
            self.delivered(&submitted.messages, submitted.way);
            self.due.push_back(Step::Forget(number));
        } else {
            self.proved_late(number);
        }
    }

    /// It did not enter the session and never will.
    pub fn not_taken(&mut self, number: SubmissionNumber, why: &str, refusal: Refusal) {
        let Some(submitted) = self.take(number) else {
            return;
        };
        self.due.push_back(Step::Forget(number));
        match refusal {
            Refusal::Stopped => {
                self.is_escaped = true;
                self.back(&submitted.messages, false);
            }
            // One of them was refused; which one shows when each goes alone.
            Refusal::Refused if submitted.messages.len() > 1 => {
                self.back(&submitted.messages, false);
                self.alone.extend(submitted.messages);
            }
            Refusal::Refused => self.refused(&submitted.messages, why),
            Refusal::Failed => {
                self.ways.failed(submitted.way);
                self.back(&submitted.messages, false);
            }
            Refusal::Elsewhere => self.back(&submitted.messages, false),
        }
    }

    /// A hook of the person's refused the keyboard's text `number`: the transcript says so.
    pub fn refused_typed(&mut self, number: SubmissionNumber, why: &str) {
        self.keyboard.refused(number, why);
    }

    /// A way rejected the submission; nothing reached the agent.
    pub fn not_handed(&mut self, number: SubmissionNumber) {
        if let Some(submitted) = self.take(number) {
            self.due.push_back(Step::Forget(number));
            self.ways.failed(submitted.way);
            self.back(&submitted.messages, false);
        }
    }

    /// Nothing ever said that the agent accepted it: the way failed, and it may have been read all
    /// the same.
    pub fn unseen(&mut self, number: SubmissionNumber) {
        if let Some(submitted) = self.take(number) {
            self.look_on(&submitted);
            self.ways.failed(submitted.way);
            self.back(&submitted.messages, true);
            if submitted.way == Way::Inbox {
                for key in submitted.messages {
                    if let Some(message) = self.table.get_mut(key) {
                        message.unseen_by.push(submitted.way);
                    }
                }
            }
        }
    }

    /// The agent took it and is at rest, and nothing says that the model has it. Nothing is
    /// certain, so the next attempt is marked.
    pub fn unread(&mut self, number: SubmissionNumber) {
        let Some(submitted) = self.take(number) else {
            return;
        };
        self.look_on(&submitted);
        let messages = submitted.messages;
        if messages.len() > 1 {
            self.back(&messages, true);
            self.alone.extend(messages);
        } else {
            self.hold_back(&messages, Hold::Refused(String::new()), true);
        }
    }

    /// The agent ended before the proof: it may have been read.
    pub fn lost(&mut self, number: SubmissionNumber) {
        if let Some(submitted) = self.take(number) {
            self.look_on(&submitted);
            self.back(&submitted.messages, true);
        }
    }

    /// The text of this message is in a file; its line names the file.
    pub fn moved_to_file(&mut self, key: MessageKey, line: String, line_again: String) {
        if let Some(message) = self.table.get_mut(key) {
            message.line = line;
            message.line_again = line_again;
            message.place = TextPlace::File;
        }
    }

    /// What became of the keyboard's text `number`.
    pub(super) fn typed(&mut self, number: SubmissionNumber, outcome: Outcome) {
        let messages = self
            .submissions
            .iter()
            .find(|submitted| submitted.number == number)
            .map(|submitted| submitted.messages.clone())
            .unwrap_or_default();
        match outcome {
            Outcome::HandedOver => self.handed_over(&messages, Way::Keyboard),
            Outcome::InContext => {
                self.take(number);
                self.ways.worked(Way::Keyboard);
                self.delivered(&messages, Way::Keyboard);
                self.due.push_back(Step::Forget(number));
                self.unstick(&messages);
            }
            Outcome::Refused(why) => {
                self.not_taken(number, &why, Refusal::Refused);
                self.unstick(&messages);
            }
            Outcome::Unread => self.unread(number),
            Outcome::Stuck(hold) => {
                self.ways.failed(Way::Keyboard);
                for &key in &messages {
                    if let Some(message) = self.table.get_mut(key) {
                        message.is_stuck = true;
                    }
                }
                self.back(&messages, true);
                self.due.push_back(Step::Held(messages, hold));
            }
            Outcome::Gone => {
                if let Some(submitted) = self.take(number) {
                    self.look_on(&submitted);
                }
                // Those that were stuck wait already, or another way has them.
                let is_stuck = |key: &MessageKey| {
                    let message = self.table.get(*key);
                    message.is_some_and(|message| message.is_stuck)
                };
                let (stuck, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_stuck);
                self.back(&others, true);
                self.unstick(&stuck);
            }
        }
    }

    fn unstick(&mut self, messages: &[MessageKey]) {
        for &key in messages {
            if let Some(message) = self.table.get_mut(key) {
                message.is_stuck = false;
                self.forget_orphan(key);
            }
        }
    }

    /// Only what is with the agent stays without a delivery.
    fn forget_orphan(&mut self, key: MessageKey) {
        let message = self.table.get(key);
        if message.is_some_and(|one| one.claim == Claim::Lost && one.is_queued() && !one.is_stuck) {
            self.table.remove(key);
        }
    }

    pub(super) fn handed_over(&mut self, messages: &[MessageKey], way: Way) {
        for &key in messages {
            if let Some(message) = self.table.get_mut(key) {
                message.state = State::HandedOver(way);
            }
        }
        self.due.push_back(Step::HandedOver(messages.to_vec(), way));
    }

    /// Only those that no other way has delivered meanwhile.
    pub(super) fn delivered(&mut self, messages: &[MessageKey], way: Way) {
        let mut news = Vec::new();
        for &key in messages {
            if let Some(message) = self.table.get_mut(key)
                && message.is_held()
            {
                message.state = State::Delivered(way);
                self.alone.remove(&key);
                news.push(key);
            }
        }
        if !news.is_empty() {
            self.settle_late(&news);
            self.due.push_back(Step::Delivered(news, way));
        }
    }

    /// They wait again, but for those whose delivery was lost: the broker gives them to us again,
    /// or to another session.
    fn back(&mut self, messages: &[MessageKey], may_repeat: bool) {
        if !may_repeat {
            self.withdraw_intents(messages);
        }
        for &key in messages {
            let Some(message) = self.table.get_mut(key) else {
                continue;
            };
            if !matches!(message.state, State::Queued | State::HandedOver(_)) {
                continue;
            }
            message.state = State::Queued;
            message.may_repeat |= may_repeat;
            self.forget_orphan(key);
        }
    }

    /// Withdraws intents of messages that the agent certainly does not have.
    pub(super) fn withdraw_intents(&mut self, messages: &[MessageKey]) {
        let certain = messages.iter().copied().filter(|key| {
            let message = self.table.get(*key);
            message.is_some_and(|message| !message.may_repeat)
        });
        let identities = self.table.identities(&certain.collect::<Vec<_>>());
        if !identities.is_empty() {
            self.due.push_back(Step::Withdraw(identities));
        }
    }

    fn refused(&mut self, messages: &[MessageKey], why: &str) {
        // Claude Code repeats the whole text behind its reason.
        let why = why.split("Original prompt:").next().unwrap_or(why);
        let words: Vec<&str> = why.split_whitespace().collect();
        self.hold_back(messages, Hold::Refused(words.join(" ")), false);
    }

    /// They wait until the person lets them in.
    fn hold_back(&mut self, messages: &[MessageKey], hold: Hold, may_repeat: bool) {
        self.back(messages, may_repeat);
        for &key in messages {
            if let Some(message) = self.table.get_mut(key) {
                message.blocked = Some(hold.clone());
            }
        }
        self.due.push_back(Step::Held(messages.to_vec(), hold));
    }

    fn take(&mut self, number: SubmissionNumber) -> Option<Submitted> {
        let place = self
            .submissions
            .iter()
            .position(|submitted| submitted.number == number)?;
        Some(self.submissions.remove(place))
    }
}
