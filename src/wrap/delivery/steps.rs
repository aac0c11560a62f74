//! The next thing to do: which message goes in, by which way, and why none does.
//!
//! Relies on the table, the ways and what is known of the agent.

use std::time::Instant;

use super::order::{Wanted, WayChoice};
use super::{
    Claim, Deliveries, InFlightMessage, MessageKey, Mode, Step, SubmissionPhase, Submitted,
    TextPlace,
};
use crate::wrap::agent_state::{AgentState, Verdict};
use crate::wrap::hold::Hold;
use crate::wrap::ways::keyboard::Stroke;
use crate::wrap::ways::{Submission, SubmissionNumber, Timing, Way};

/// The longest text that was seen to arrive whole in the agents, by every way.
const TEXT_BYTES: usize = 64 * 1024;
/// The longest text that is typed into an agent's line; Gemini counts the characters of a paste of
/// 64 KB for more than ten seconds.
const LINE_BYTES: usize = 8 * 1024;
/// So many messages may share one line of Claude Code's inbox.
const INBOX_BATCH: usize = 10;
/// Longer texts are shown by Claude Code's box as a placeholder.
const PLACEHOLDER_FROM: usize = 800;

impl Deliveries {
    /// The next thing to do at `now`, given what is known of the agent.
    pub fn step(&mut self, agent: &AgentState, now: Instant) -> Step {
        if let Some(at) = agent.first_prompt() {
            self.ways.drawn(at);
        }
        self.end_late(now);
        loop {
            if let Some(step) = self.due.pop_front() {
                return step;
            }
            let again = match self.keyboard.step(agent, now) {
                Stroke::Write(bytes) => return Step::Write(bytes),
                Stroke::Replay(bytes) => return Step::Replay(bytes),
                Stroke::Result(outcome) => {
                    if let Some(number) = self.typed_number() {
                        self.typed(number, outcome);
                    }
                    continue;
                }
                Stroke::Wait(again) => again,
            };
            if let Some(step) = self.hand_over_noted(agent, now) {
                return step;
            }
            return match self.begin(agent, now) {
                Ok(step) => step,
                Err(next) => Step::Wait([again, next].into_iter().flatten().min()),
            };
        }
    }

    /// The submission that was given to the keyboard.
    pub fn typed_number(&self) -> Option<SubmissionNumber> {
        let mut typed = self.submissions.iter();
        let is_typed = |submitted: &&Submitted| {
            submitted.way == Way::Keyboard && submitted.phase == SubmissionPhase::Handed
        };
        typed.find(is_typed).map(|submitted| submitted.number)
    }

    /// Hands over what is noted on disk, if that is still right.
    fn hand_over_noted(&mut self, agent: &AgentState, now: Instant) -> Option<Step> {
        let is_noted = |submitted: &Submitted| submitted.phase == SubmissionPhase::Noted;
        let place = self.submissions.iter().position(is_noted)?;
        let Submitted {
            number,
            way,
            messages,
            ..
        } = self.submissions[place].clone();
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
            && !(self.is_stopped(agent) && self.waits_after_escape(way, timing))
            && match way {
                Way::Keyboard => agent.verdict(now) == Verdict::Free && !self.keyboard.is_taken(),
                _ => !agent.is_suspended(),
            };
        if !is_right {
            self.submissions.remove(place);
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
            timing,
        };
        self.submissions[place].phase = SubmissionPhase::Handed;
        if way == Way::Keyboard {
            let bytes = self.keyboard.begin(submission.clone(), agent, now);
            return Some(Step::Type(submission, bytes));
        }
        self.handed_over(&messages, way);
        Some(Step::Hand(way, submission))
    }

    /// Begins with the first message that may go in now. `Err`: when to look again.
    fn begin(&mut self, agent: &AgentState, now: Instant) -> Result<Step, Option<Instant>> {
        let mut next = self.ways.try_api_again(now);
        for timing in [Timing::Now, Timing::Next, Timing::Idle] {
            let Some(first) = self.first_free(timing) else {
                continue;
            };
            if self.place(first) == TextPlace::OnItsWay {
                // Those behind it stay behind it.
                continue;
            }
            let unseen_by = self.unseen_by(first);
            let way = match self.way((timing, &unseen_by), agent, now) {
                Ok(way) => way,
                Err((hold, again)) => {
                    let again = if hold == Hold::NoWay {
                        self.ways.none_is_left(now)
                    } else {
                        again
                    };
                    next = [next, again].into_iter().flatten().min();
                    continue;
                }
            };
            let many = match way {
                Way::Keyboard if !agent.takes_paste() => 1,
                Way::Inbox => self.batch.min(INBOX_BATCH),
                _ => self.batch,
            };
            let is_for_a_line = way == Way::Keyboard && agent.profile().line.is_some();
            if is_for_a_line && self.is_too_long_for_a_line(first) {
                return Ok(self.move_to_file(first));
            }
            let bytes = if is_for_a_line {
                LINE_BYTES
            } else {
                TEXT_BYTES
            };
            let mut messages = self.next(timing, many, bytes);
            if way == Way::Keyboard && agent.profile().knows_its_prompt() {
                if !self.fits(&messages) {
                    messages = vec![first];
                }
                let is_in_file = self.place(first) == TextPlace::File;
                match (self.fits(&messages), is_in_file) {
                    (true, _) => {}
                    (false, false) => return Ok(self.move_to_file(first)),
                    // It waits for a larger window.
                    (false, true) => continue,
                }
            }
            self.last_submission += 1;
            self.submissions.push(Submitted {
                number: self.last_submission,
                way,
                messages: messages.clone(),
                phase: SubmissionPhase::Noting,
            });
            return Ok(Step::Note(messages));
        }
        Err(next)
    }

    fn is_free(&self, key: MessageKey, message: &InFlightMessage) -> bool {
        let mut submissions = self.submissions.iter();
        // What stands in the box is still the keyboard's submission; another way may have it all
        // the same.
        let is_under_way = submissions.any(|submitted| {
            submitted.messages.contains(&key)
                && !(message.is_stuck && submitted.way == Way::Keyboard)
        });
        message.is_queued()
            && message.blocked.is_none()
            && message.claim == Claim::Ours
            && !is_under_way
            && !self.table.has_namesake_before(key, message)
    }

    fn unseen_by(&self, key: MessageKey) -> Vec<Way> {
        let message = self.table.get(key);
        message.map_or_else(Vec::new, |message| message.unseen_by.clone())
    }

    fn first_free(&self, timing: Timing) -> Option<MessageKey> {
        let mut queued = self.table.queued();
        let first =
            queued.find(|(key, message)| message.timing == timing && self.is_free(*key, message));
        first.map(|(key, _)| key)
    }

    fn is_too_long_for_a_line(&self, key: MessageKey) -> bool {
        let message = self.table.get(key);
        message.is_some_and(|message| {
            message.place != TextPlace::File && message.text().len() > LINE_BYTES
        })
    }

    fn place(&self, key: MessageKey) -> TextPlace {
        let message = self.table.get(key);
        message.map_or(TextPlace::Line, |message| message.place)
    }

    fn move_to_file(&mut self, key: MessageKey) -> Step {
        if let Some(message) = self.table.get_mut(key) {
            message.place = TextPlace::OnItsWay;
        }
        Step::ToFile(key)
    }

    /// The first free ones of this timing, in order: `count` at most, and as many as fit into one
    /// text of `longest` bytes.
    fn next(&self, timing: Timing, count: usize, longest: usize) -> Vec<MessageKey> {
        let mut bytes = 0;
        let mut count = count;
        self.table
            .queued()
            .filter(|(key, message)| message.timing == timing && self.is_free(*key, message))
            .take_while(|(key, message)| {
                let is_first = bytes == 0;
                let is_alone = self.alone.contains(key);
                bytes += message.text().len() + 1;
                let is_in = is_first || (count > 0 && !is_alone && bytes <= longest);
                count = if is_alone { 0 } else { count.saturating_sub(1) };
                is_in
            })
            .map(|(key, _)| key)
            .collect()
    }

    /// The way that may take a message of this timing now, or why none may and when to look again.
    /// Ways that were given the message in vain come last.
    fn way(
        &self,
        (timing, unseen_by): (Timing, &[Way]),
        agent: &AgentState,
        now: Instant,
    ) -> Result<Way, (Hold, Option<Instant>)> {
        if self.is_paused {
            return Err((Hold::Paused, None));
        }
        if self.mode == Mode::Notify {
            return Err((Hold::Notify, None));
        }
        if agent.is_suspended() {
            return Err((Hold::Suspended, None));
        }
        let is_stopped = self.is_stopped(agent);
        let verdict = agent.verdict(now);
        let wanted = Wanted {
            timing,
            unseen_by,
            is_busy: agent.is_busy(now),
            is_stopped,
        };
        let choice = self.ways.choose(self.mode, wanted, now);
        match choice {
            WayChoice::Take(way) if is_stopped && self.waits_after_escape(way, timing) => {
                Err((Hold::Escaped, None))
            }
            WayChoice::Take(way) if self.has(way) => Err((Hold::Behind, None)),
            WayChoice::Take(way) => Ok(way),
            WayChoice::Soon(until) if is_stopped && timing != Timing::Now => {
                Err((Hold::Escaped, until))
            }
            WayChoice::Soon(until) => Err((Hold::Starting, until)),
            WayChoice::Keyboard | WayChoice::None if self.keyboard.is_stuck() => {
                Err((Hold::Stuck, None))
            }
            WayChoice::Keyboard if is_stopped => Err((Hold::Escaped, None)),
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

    /// The person pressed Escape, and has sent nothing since.
    fn is_stopped(&self, agent: &AgentState) -> bool {
        self.is_escaped || agent.is_stopped()
    }

    /// After Escape nothing begins a turn before the person sends something, by no way; only what
    /// was sent to get past it does, by a way that can.
    fn waits_after_escape(&self, way: Way, timing: Timing) -> bool {
        timing != Timing::Now || !self.ways.can_steer(way)
    }

    /// Whether `way` already has a submission. Each way has at most one.
    fn has(&self, way: Way) -> bool {
        self.submissions
            .iter()
            .any(|submitted| submitted.way == way)
    }

    /// Why this message waits; `None` when it would go in now.
    pub(super) fn reason(
        &self,
        (key, message): (MessageKey, &InFlightMessage),
        agent: &AgentState,
        now: Instant,
    ) -> Option<Hold> {
        if let Some(hold) = &message.blocked {
            return Some(hold.clone());
        }
        if self.table.has_namesake_before(key, message) {
            return Some(Hold::Behind);
        }
        match self.way((message.timing, &message.unseen_by), agent, now) {
            Err((hold, _)) => Some(hold),
            Ok(Way::Keyboard) if agent.profile().knows_its_prompt() => {
                let is_too_long = message.place == TextPlace::File && !self.shows([message]);
                is_too_long.then_some(Hold::SmallWindow)
            }
            Ok(_) => None,
        }
    }

    /// The box of Claude Code grows to about a quarter of the window, and scrolls beyond; a long
    /// text is shown as a placeholder. A text that would scroll cannot be seen whole.
    fn fits(&self, messages: &[MessageKey]) -> bool {
        self.shows(messages.iter().filter_map(|key| self.table.get(*key)))
    }

    fn shows<'a>(&self, messages: impl IntoIterator<Item = &'a InFlightMessage>) -> bool {
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
