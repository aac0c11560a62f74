//! Computes the next step: which messages are submitted, by which way, or why they wait.
//!
//! Relies on the table, the ways and what is known of the agent.

use std::time::Instant;

use super::order::{WayChoice, WayQuery};
use super::{
    Claim, Deliveries, DeliveryMode, InFlightMessage, MessageKey, Step, SubmissionPhase, Submitted,
    TextPlace, Wording,
};
use crate::wrap::agent_state::{AgentState, Verdict};
use crate::wrap::hold::Hold;
use crate::wrap::ways::keyboard::KeyboardStep;
use crate::wrap::ways::{Submission, SubmissionNumber, Timing, Way};

/// Maximum bytes of a text; longer ones were not seen to arrive completely by every way.
const TEXT_BYTES: usize = 64 * 1024;
/// Maximum bytes of a text that is typed into an agent's line; Gemini needs more than ten seconds
/// to process a paste of 64 KB.
const LINE_BYTES: usize = 8 * 1024;
/// Maximum number of messages in one line of Claude Code's inbox.
const INBOX_BATCH: usize = 10;
/// Claude Code's box shows texts of more characters as a placeholder.
const PLACEHOLDER_FROM: usize = 800;

/// What may be submitted now.
enum Selection {
    /// These messages.
    Send(Vec<MessageKey>),
    /// The first one does not fit, and its text must be moved to a file before.
    MoveToFile,
    /// The first one waits for a larger window.
    Wait,
}

impl Deliveries {
    /// Returns the next step at `now`, given the agent's state.
    pub fn step(&mut self, agent: &AgentState, now: Instant) -> Step {
        if let Some(at) = agent.first_prompt() {
            self.ways.prompt_drawn(at);
        }
        self.expire_late(now);
        self.expire_takes(now);
        loop {
            if let Some(step) = self.due.pop_front() {
                return step;
            }
            let again = match self.keyboard.step(agent, now) {
                KeyboardStep::Write(bytes) => return Step::Write(bytes),
                KeyboardStep::Replay(bytes) => return Step::Replay(bytes),
                KeyboardStep::Result(outcome) => {
                    if let Some(number) = self.typed_number() {
                        self.typed(number, outcome);
                    }
                    continue;
                }
                KeyboardStep::Wait(again) => again,
            };
            if let Some(step) = self.hand_over_ready(agent, now) {
                return step;
            }
            return match self.begin_submission(agent, now) {
                Ok(step) => step,
                Err(next) => {
                    let take_deadline = self.take_deadline();
                    Step::Wait([again, next, take_deadline].into_iter().flatten().min())
                }
            };
        }
    }

    /// The number of the submission that the keyboard has.
    pub fn typed_number(&self) -> Option<SubmissionNumber> {
        let mut typed = self.submissions.iter();
        let is_typed = |submitted: &&Submitted| {
            submitted.way == Way::Keyboard && submitted.phase == SubmissionPhase::HandedOver
        };
        typed.find(is_typed).map(|submitted| submitted.number)
    }

    /// Hands over a submission whose intent is on disk, if its conditions still hold; otherwise
    /// withdraws it.
    fn hand_over_ready(&mut self, agent: &AgentState, now: Instant) -> Option<Step> {
        let is_intent_written =
            |submitted: &Submitted| submitted.phase == SubmissionPhase::IntentWritten;
        let index = self.submissions.iter().position(is_intent_written)?;
        if self.submissions[index].way == Way::InboxCommand {
            return Some(self.show(index, now));
        }
        let Submitted {
            number,
            way,
            messages,
            ..
        } = self.submissions[index].clone();
        let waits = |key: &MessageKey| {
            let message = self.table.get(*key);
            message.is_some_and(InFlightMessage::is_queued)
        };
        let timing = messages
            .first()
            .and_then(|key| self.table.get(*key))
            .map_or(Timing::Idle, |message| message.timing);
        let is_right = !self.is_paused
            && messages.iter().all(waits)
            && !(self.is_escaped(agent) && self.waits_after_escape(way, timing))
            && match way {
                Way::Keyboard => agent.verdict(now) == Verdict::Free && !self.keyboard.is_taken(),
                _ => !agent.is_suspended(),
            };
        if !is_right {
            self.submissions.remove(index);
            self.withdraw_intents(&messages);
            return self.due.pop_front();
        }
        let lines: Vec<&str> = messages
            .iter()
            .filter_map(|key| Some(self.table.get(*key)?.text()))
            .collect();
        let submission = Submission {
            number,
            ids: self.table.ids(&messages),
            text: lines.join("\n"),
            is_hidden: messages
                .iter()
                .all(|key| self.text_place(*key) == TextPlace::HiddenInFile),
            timing,
        };
        self.submissions[index].phase = SubmissionPhase::HandedOver;
        self.submissions[index].wording = if submission.is_hidden {
            Wording::OfFiles
        } else {
            Wording::OfSenders
        };
        if way == Way::Keyboard {
            let bytes = self.keyboard.begin(submission.clone(), agent, now);
            return Some(Step::Type(submission, bytes));
        }
        Some(Step::Deliver(way, submission))
    }

    /// Begins the submission of the first message that may be delivered now. `Err` holds when to
    /// try again.
    fn begin_submission(
        &mut self,
        agent: &AgentState,
        now: Instant,
    ) -> Result<Step, Option<Instant>> {
        let mut next = self.ways.retry_api(now);
        for timing in [Timing::Now, Timing::Next, Timing::Idle] {
            let Some(first) = self.first_ready(timing) else {
                continue;
            };
            if self.text_place(first) == TextPlace::BeingWritten {
                // Later messages must not overtake it.
                continue;
            }
            let unseen_by = self.unseen_by(first);
            let way = match self.choose_way((timing, &unseen_by), agent, now) {
                Ok(way) => way,
                Err((hold, again)) => {
                    let again = if hold == Hold::NoWay {
                        self.ways.retry_disabled(now)
                    } else {
                        again
                    };
                    next = [next, again].into_iter().flatten().min();
                    continue;
                }
            };
            let messages = match self.select_messages(way, (timing, first), agent) {
                Selection::Send(messages) => messages,
                Selection::MoveToFile => return Ok(self.move_to_file(first)),
                Selection::Wait => continue,
            };
            if self.ways.is_exposed(way) && !self.hide(way, &messages) {
                let due = self.due.pop_front();
                return due.map_or_else(|| self.begin_submission(agent, now), Ok);
            }
            return Ok(self.write_intent(way, messages));
        }
        Err(next)
    }

    /// Selects the messages that this way can show in one text, beginning with `first`.
    fn select_messages(
        &self,
        way: Way,
        (timing, first): (Timing, MessageKey),
        agent: &AgentState,
    ) -> Selection {
        let many = match way {
            Way::Keyboard if !agent.takes_paste() => 1,
            Way::Inbox => self.batch.min(INBOX_BATCH),
            _ => self.batch,
        };
        let is_for_a_line = way == Way::Keyboard && agent.profile().line.is_some();
        if is_for_a_line && self.is_too_long_for_a_line(first) {
            return Selection::MoveToFile;
        }
        let bytes = if is_for_a_line {
            LINE_BYTES
        } else {
            TEXT_BYTES
        };
        let messages = self.next_messages(timing, many, bytes);
        let is_for_a_box = way == Way::Keyboard && agent.profile().knows_its_prompt();
        if !is_for_a_box || self.box_shows(&messages) {
            return Selection::Send(messages);
        }
        if self.box_shows(&[first]) {
            return Selection::Send(vec![first]);
        }
        if self.text_place(first).was_moved() {
            Selection::Wait
        } else {
            Selection::MoveToFile
        }
    }

    fn write_intent(&mut self, way: Way, messages: Vec<MessageKey>) -> Step {
        self.last_submission += 1;
        self.submissions.push(Submitted {
            number: self.last_submission,
            way,
            messages: messages.clone(),
            wording: Wording::OfSenders,
            phase: SubmissionPhase::WritingIntent,
        });
        Step::WriteIntent(messages)
    }

    fn is_ready(&self, key: MessageKey, message: &InFlightMessage) -> bool {
        let mut submissions = self.submissions.iter();
        // A stuck text is still the keyboard's submission, but another way may have its messages.
        let is_under_way = submissions.any(|submitted| {
            submitted.messages.contains(&key)
                && !(message.is_stuck && submitted.way == Way::Keyboard)
        });
        message.is_queued()
            && message.blocked.is_none()
            && message.claim == Claim::Ours
            && !is_under_way
            && !self.table.has_earlier_with_same_id(key, message)
    }

    fn unseen_by(&self, key: MessageKey) -> Vec<Way> {
        let message = self.table.get(key);
        message.map_or_else(Vec::new, |message| message.unseen_by.clone())
    }

    fn first_ready(&self, timing: Timing) -> Option<MessageKey> {
        let mut queued = self.table.queued();
        let first =
            queued.find(|(key, message)| message.timing == timing && self.is_ready(*key, message));
        first.map(|(key, _)| key)
    }

    fn is_too_long_for_a_line(&self, key: MessageKey) -> bool {
        let message = self.table.get(key);
        message
            .is_some_and(|message| !message.place.was_moved() && message.text().len() > LINE_BYTES)
    }

    fn text_place(&self, key: MessageKey) -> TextPlace {
        let message = self.table.get(key);
        message.map_or(TextPlace::Line, |message| message.place)
    }

    fn move_to_file(&mut self, key: MessageKey) -> Step {
        if let Some(message) = self.table.get_mut(key) {
            message.place = TextPlace::BeingWritten;
        }
        Step::MoveToFile(key)
    }

    /// Returns whether these messages are hidden from others. Moves those that are not to files. A
    /// file that could not be written is a failure of the way, and the next attempt writes it
    /// again.
    fn hide(&mut self, way: Way, messages: &[MessageKey]) -> bool {
        let (mut is_hidden, mut has_failed) = (true, false);
        for &key in messages {
            let Some(message) = self.table.get_mut(key) else {
                continue;
            };
            is_hidden &= message.place == TextPlace::HiddenInFile;
            match message.place {
                TextPlace::Line | TextPlace::File => {
                    message.place = TextPlace::BeingWritten;
                    self.due.push_back(Step::HideInFile(key));
                }
                TextPlace::Unwritable => {
                    message.place = TextPlace::Line;
                    has_failed = true;
                }
                TextPlace::BeingWritten | TextPlace::HiddenInFile => {}
            }
        }
        if has_failed {
            self.ways.note_failure(way);
        }
        is_hidden
    }

    /// The first free messages with this timing, in order: at most `count`, and as many as fit into
    /// one text of `longest` bytes.
    fn next_messages(&self, timing: Timing, count: usize, longest: usize) -> Vec<MessageKey> {
        let mut bytes = 0;
        let mut count = count;
        self.table
            .queued()
            .filter(|(key, message)| message.timing == timing && self.is_ready(*key, message))
            .take_while(|(key, message)| {
                let is_first = bytes == 0;
                let is_alone = self.alone.contains(key);
                bytes += message.text().len() + 1;
                let is_there = message.place != TextPlace::BeingWritten;
                let is_in = is_first || (count > 0 && !is_alone && bytes <= longest && is_there);
                count = if is_alone { 0 } else { count.saturating_sub(1) };
                is_in
            })
            .map(|(key, _)| key)
            .collect()
    }

    /// Chooses the way for a message with this timing. `Err` holds the reason to wait, and when to
    /// try again. Ways in `unseen_by` come last.
    fn choose_way(
        &self,
        (timing, unseen_by): (Timing, &[Way]),
        agent: &AgentState,
        now: Instant,
    ) -> Result<Way, (Hold, Option<Instant>)> {
        if self.is_paused {
            return Err((Hold::Paused, None));
        }
        if self.mode == DeliveryMode::Notify {
            return Err((Hold::Notify, None));
        }
        if agent.is_suspended() {
            return Err((Hold::Suspended, None));
        }
        if self.is_behind_take(now) {
            // Later messages must not overtake those that come back.
            return Err((Hold::Taking, None));
        }
        let is_escaped = self.is_escaped(agent);
        let verdict = agent.verdict(now);
        let wanted = WayQuery {
            timing,
            unseen_by,
            is_busy: agent.is_busy(now),
            is_escaped,
        };
        let choice = self.ways.choose(self.mode, wanted, now);
        match choice {
            WayChoice::Take(way) if is_escaped && self.waits_after_escape(way, timing) => {
                Err((Hold::Escaped, None))
            }
            WayChoice::Take(way) if self.has_submission(way) => Err((Hold::Behind, None)),
            WayChoice::Take(way) => Ok(way),
            WayChoice::Soon(until) if is_escaped && timing != Timing::Now => {
                Err((Hold::Escaped, until))
            }
            WayChoice::Soon(until) => Err((Hold::Starting, until)),
            WayChoice::Keyboard | WayChoice::None if self.keyboard.is_stuck() => {
                Err((Hold::Stuck, None))
            }
            WayChoice::Keyboard if is_escaped => Err((Hold::Escaped, None)),
            WayChoice::Keyboard if self.keyboard.is_taken() => {
                Err((agent.obstacle().unwrap_or(Hold::Behind), None))
            }
            WayChoice::Keyboard if !self.submissions.is_empty() => Err((Hold::Behind, None)),
            WayChoice::Keyboard => match verdict {
                Verdict::Free => Ok(Way::Keyboard),
                Verdict::Hold(hold, again) => Err((hold, again)),
            },
            WayChoice::Away => match verdict {
                Verdict::Free => Err((Hold::UnknownScreen, None)),
                Verdict::Hold(hold, again) => Err((hold, again)),
            },
            WayChoice::None => match verdict {
                Verdict::Free => Err((Hold::NoWay, None)),
                Verdict::Hold(hold, again) => Err((hold, again)),
            },
        }
    }

    /// Whether the person pressed Escape and has sent nothing since.
    fn is_escaped(&self, agent: &AgentState) -> bool {
        self.is_escaped || agent.is_escaped()
    }

    /// Whether a message waits after Escape: no way may begin a turn before the person sends a
    /// prompt, except for a message with [`Timing::Now`] by a way that can steer.
    fn waits_after_escape(&self, way: Way, timing: Timing) -> bool {
        timing != Timing::Now || !self.ways.can_steer(way)
    }

    /// Whether `way` has a submission. Each way has at most one.
    pub(super) fn has_submission(&self, way: Way) -> bool {
        self.submissions
            .iter()
            .any(|submitted| submitted.way == way)
    }

    /// Why this message waits; `None` if it would be delivered now.
    pub(super) fn reason(
        &self,
        (key, message): (MessageKey, &InFlightMessage),
        agent: &AgentState,
        now: Instant,
    ) -> Option<Hold> {
        if let Some(hold) = &message.blocked {
            return Some(hold.clone());
        }
        if self.table.has_earlier_with_same_id(key, message) {
            return Some(Hold::Behind);
        }
        if self.is_with_way(key) {
            // Its way waits with it for the agent.
            return match agent.obstacle() {
                Some(hold @ (Hold::Dialog(_) | Hold::Suspended)) => Some(hold),
                _ => agent.is_busy(now).then_some(Hold::Busy),
            };
        }
        match self.choose_way((message.timing, &message.unseen_by), agent, now) {
            Err((hold, _)) => Some(hold),
            Ok(Way::Keyboard) if agent.profile().knows_its_prompt() => {
                let is_too_long = message.place.was_moved() && !self.box_shows_all([message]);
                is_too_long.then_some(Hold::SmallWindow)
            }
            Ok(_) => None,
        }
    }

    /// Whether Claude Code's box shows these messages completely. The box grows to about a quarter
    /// of the window and scrolls beyond that; a long text is shown as a placeholder.
    fn box_shows(&self, messages: &[MessageKey]) -> bool {
        self.box_shows_all(messages.iter().filter_map(|key| self.table.get(*key)))
    }

    fn box_shows_all<'a>(&self, messages: impl IntoIterator<Item = &'a InFlightMessage>) -> bool {
        let Some((rows, columns)) = self.window else {
            return true;
        };
        let width = usize::from(columns).saturating_sub(6).max(1);
        let room = usize::from(rows / 4).saturating_sub(1).max(1);
        let messages = messages.into_iter();
        let lengths = messages.map(|message| message.text().chars().count());
        let (count, total, needed) = lengths.fold((0, 0, 0), |(count, total, needed), length| {
            (count + 1, total + length, needed + length.div_ceil(width))
        });
        total > PLACEHOLDER_FROM || count == 0 || needed <= room
    }
}
