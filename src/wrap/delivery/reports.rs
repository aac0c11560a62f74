//! Handles the reports of the ways about submissions.
//!
//! Relies on the table and the order of the ways.

use super::{
    Claim, Deliveries, DeliveryState, MessageKey, Step, SubmissionPhase, Submitted, TextPlace,
    Wording,
};
use crate::wrap::hold::Hold;
use crate::wrap::ways::keyboard::TypingOutcome;
use crate::wrap::ways::{Refusal, SubmissionNumber, Way};

impl Deliveries {
    /// Handles the proof that a submission is in the model's context.
    pub fn in_context(&mut self, number: SubmissionNumber) {
        self.keyboard.proved(number);
        if let Some(submitted) = self.remove_submission(number) {
            self.ways.note_success(submitted.way);
            self.delivered(&submitted.messages, submitted.way);
            self.due.push_back(Step::EndSearch(number));
        } else {
            self.proved_late(number);
        }
    }

    /// Handles a submission that never entered the session.
    pub fn not_taken(&mut self, number: SubmissionNumber, why: &str, refusal: Refusal) {
        let Some(submitted) = self.remove_submission(number) else {
            return;
        };
        self.due.push_back(Step::EndSearch(number));
        match refusal {
            Refusal::Escaped => {
                self.is_escaped = true;
                self.requeue(&submitted.messages, false);
            }
            // One of the messages was refused; submitting each alone shows which one.
            Refusal::Refused if submitted.messages.len() > 1 => {
                self.requeue(&submitted.messages, false);
                self.alone.extend(submitted.messages);
            }
            Refusal::Refused => self.refused(&submitted.messages, why),
            // The messages are hidden before the next attempt.
            Refusal::Exposed if submitted.wording == Wording::OfSenders => {
                self.ways.set_exposed(submitted.way, true);
                self.requeue(&submitted.messages, false);
            }
            Refusal::Elsewhere if !self.ways.is_open(submitted.way) => {
                self.requeue(&submitted.messages, false);
            }
            // Each of these counts, so that no way is asked without end.
            Refusal::Failed | Refusal::Elsewhere | Refusal::Exposed => {
                self.ways.note_failure(submitted.way);
                self.requeue(&submitted.messages, false);
            }
        }
    }

    /// Handles the report of a way that the agent has a submission now.
    pub fn agent_has(&mut self, number: SubmissionNumber) {
        let mut submissions = self.submissions.iter();
        let found = submissions.find(|submitted| submitted.number == number);
        if let Some(Submitted { messages, way, .. }) = found.cloned() {
            self.handed_over(&messages, way);
        }
    }

    /// Handles a row of the transcript that a hook of the person refused the typed submission.
    pub fn refused_typed(&mut self, number: SubmissionNumber, why: &str) {
        self.keyboard.refused(number, why);
    }

    /// Handles a submission that its way did not take.
    pub fn not_handed_over(&mut self, number: SubmissionNumber) {
        if let Some(submitted) = self.remove_submission(number) {
            self.due.push_back(Step::EndSearch(number));
            self.ways.note_failure(submitted.way);
            self.requeue(&submitted.messages, false);
        }
    }

    /// Handles a submission without any sign that the agent accepted it. The way failed, but the
    /// text may have been read.
    pub fn unseen(&mut self, number: SubmissionNumber) {
        if let Some(submitted) = self.remove_submission(number) {
            self.keep_looking(&submitted);
            self.ways.note_failure(submitted.way);
            self.requeue(&submitted.messages, true);
            if submitted.way == Way::Inbox {
                for key in submitted.messages {
                    if let Some(message) = self.table.get_mut(key) {
                        message.unseen_by.push(submitted.way);
                    }
                }
            }
        }
    }

    /// Handles a submission that the agent took without a proof before it came to rest. The text
    /// may have been read, so the next attempt is marked as a possible repeat.
    pub fn unread(&mut self, number: SubmissionNumber) {
        let Some(submitted) = self.remove_submission(number) else {
            return;
        };
        self.keep_looking(&submitted);
        let messages = submitted.messages;
        if messages.len() > 1 {
            self.requeue(&messages, true);
            self.alone.extend(messages);
        } else {
            self.hold_back(&messages, Hold::Refused(String::new()), true);
        }
    }

    /// Handles a submission whose proof did not come before the agent ended. It may have been read.
    pub fn lost(&mut self, number: SubmissionNumber) {
        if let Some(submitted) = self.remove_submission(number) {
            self.keep_looking(&submitted);
            self.requeue(&submitted.messages, true);
        }
    }

    /// The messages that ways other than the keyboard have. The agent may not have them yet.
    pub(super) fn with_ways(&self) -> impl Iterator<Item = MessageKey> {
        let is_out = |submitted: &&Submitted| {
            submitted.way != Way::Keyboard && submitted.phase == SubmissionPhase::HandedOver
        };
        let out = self.submissions.iter().filter(is_out);
        out.flat_map(|submitted| submitted.messages.iter().copied())
    }

    pub(super) fn is_with_way(&self, key: MessageKey) -> bool {
        self.with_ways().any(|with_way| with_way == key)
    }

    /// The messages of a submission.
    pub fn messages_of(&self, number: SubmissionNumber) -> &[MessageKey] {
        let mut submissions = self.submissions.iter();
        let found = submissions.find(|submitted| submitted.number == number);
        found.map_or(&[], |submitted| &submitted.messages)
    }

    /// Replaces the lines of a message whose text was to be moved to a file.
    pub fn moved_to_file(
        &mut self,
        key: MessageKey,
        (line, repeat_line): (String, String),
        place: TextPlace,
    ) {
        if let Some(message) = self.table.get_mut(key) {
            message.line = line;
            message.repeat_line = repeat_line;
            message.place = place;
        }
    }

    /// Handles the outcome of a typed submission.
    pub(super) fn typed(&mut self, number: SubmissionNumber, outcome: TypingOutcome) {
        let messages = self
            .submissions
            .iter()
            .find(|submitted| submitted.number == number)
            .map(|submitted| submitted.messages.clone())
            .unwrap_or_default();
        match outcome {
            TypingOutcome::HandedOver => self.handed_over(&messages, Way::Keyboard),
            TypingOutcome::InContext => {
                self.remove_submission(number);
                self.ways.note_success(Way::Keyboard);
                self.delivered(&messages, Way::Keyboard);
                self.due.push_back(Step::EndSearch(number));
                self.clear_stuck(&messages);
            }
            TypingOutcome::Refused(why) => {
                self.not_taken(number, &why, Refusal::Refused);
                self.clear_stuck(&messages);
            }
            TypingOutcome::Unread => self.unread(number),
            TypingOutcome::Stuck(hold) => {
                self.ways.note_failure(Way::Keyboard);
                for &key in &messages {
                    if let Some(message) = self.table.get_mut(key) {
                        message.is_stuck = true;
                    }
                }
                self.requeue(&messages, true);
                self.due.push_back(Step::Held(messages, hold));
            }
            TypingOutcome::Gone => {
                if let Some(submitted) = self.remove_submission(number) {
                    self.keep_looking(&submitted);
                }
                // Stuck messages wait already, or another way has them.
                let is_stuck = |key: &MessageKey| {
                    let message = self.table.get(*key);
                    message.is_some_and(|message| message.is_stuck)
                };
                let (stuck, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_stuck);
                self.requeue(&others, true);
                self.clear_stuck(&stuck);
            }
        }
    }

    fn clear_stuck(&mut self, messages: &[MessageKey]) {
        for &key in messages {
            if let Some(message) = self.table.get_mut(key) {
                message.is_stuck = false;
                self.remove_if_lost(key);
            }
        }
    }

    /// Removes a waiting message whose delivery was lost and that no way has; the broker delivers
    /// it again.
    fn remove_if_lost(&mut self, key: MessageKey) {
        let message = self.table.get(key);
        let is_lost =
            message.is_some_and(|one| one.claim == Claim::Lost && one.is_queued() && !one.is_stuck);
        if is_lost && !self.is_with_way(key) {
            self.table.remove(key);
        }
    }

    pub(super) fn handed_over(&mut self, messages: &[MessageKey], way: Way) {
        let mut news = Vec::new();
        for &key in messages {
            // Another way may have delivered it.
            if let Some(message) = self.table.get_mut(key).filter(|one| one.is_queued()) {
                message.state = DeliveryState::HandedOver(way);
                news.push(key);
            }
        }
        if !news.is_empty() {
            self.due.push_back(Step::HandedOver(news, way));
        }
    }

    /// Marks the messages as delivered, except those that another way has delivered.
    pub(super) fn delivered(&mut self, messages: &[MessageKey], way: Way) {
        let mut news = Vec::new();
        for &key in messages {
            if let Some(message) = self.table.get_mut(key)
                && message.is_held()
            {
                message.state = DeliveryState::Delivered(way);
                self.alone.remove(&key);
                news.push(key);
            }
        }
        if !news.is_empty() {
            self.settle_late(&news);
            self.due.push_back(Step::Delivered(news, way));
        }
    }

    /// Queues messages again. Messages whose delivery was lost are removed; the broker delivers
    /// them again.
    pub(super) fn requeue(&mut self, messages: &[MessageKey], may_repeat: bool) {
        if !may_repeat {
            self.withdraw_intents(messages);
        }
        for &key in messages {
            let Some(message) = self.table.get_mut(key) else {
                continue;
            };
            if !matches!(
                message.state,
                DeliveryState::Queued | DeliveryState::HandedOver(_)
            ) {
                continue;
            }
            message.state = DeliveryState::Queued;
            message.may_repeat |= may_repeat;
            self.remove_if_lost(key);
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
            self.due.push_back(Step::WithdrawIntent(identities));
        }
    }

    fn refused(&mut self, messages: &[MessageKey], why: &str) {
        // Claude Code appends the whole prompt to its reason.
        let why = why.split("Original prompt:").next().unwrap_or(why);
        let words: Vec<&str> = why.split_whitespace().collect();
        self.hold_back(messages, Hold::Refused(words.join(" ")), false);
    }

    /// Holds messages until `cbroker resume`.
    fn hold_back(&mut self, messages: &[MessageKey], hold: Hold, may_repeat: bool) {
        self.requeue(messages, may_repeat);
        for &key in messages {
            if let Some(message) = self.table.get_mut(key) {
                message.blocked = Some(hold.clone());
            }
        }
        self.due.push_back(Step::Held(messages.to_vec(), hold));
    }

    pub(super) fn remove_submission(&mut self, number: SubmissionNumber) -> Option<Submitted> {
        let index = self
            .submissions
            .iter()
            .position(|submitted| submitted.number == number)?;
        Some(self.submissions.remove(index))
    }
}
