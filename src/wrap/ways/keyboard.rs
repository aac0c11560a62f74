//! The way in by the keyboard: paste the text, wait until the box shows it, press Enter, wait for
//! the sign of its turn. Pure: no terminal, no clock.
//!
//! | phase | event | next |
//! |---|---|---|
//! | `Pasted` | the box shows the text, whole and alone | Enter is written: `Entered` |
//! | `Pasted` | the person interrupts, or presses keys at a dialog | `Stuck` |
//! | `Pasted` | 10 s pass, and keys are kept or the text is not shown | `Stuck` |
//! | `Entered` | the sign of its turn | `Submitted`; without a transcript, in the context |
//! | `Entered` | 1 s without a sign | one more Enter, the first time; then `Stuck` |
//! | `Entered` | the agent shows that the text waits, or a turn or the text alone | `Waiting` |
//! | `Waiting` | the text is above the line, with a turn or an answer | in the context |
//! | `Waiting` | the text is above the line, after the person pressed Escape | over: may go again |
//! | `Waiting` | the agent is at rest, and no text, or for 1 min no turn, is shown | `Stuck` |
//! | `Submitted` | the proof | in the context |
//! | `Submitted` | 2 s pass without a row, and the box shows the text again | `Stuck` |
//! | `Submitted` | 2 s at rest without a row | unread: held back; without hooks, in the context |
//! | any | the transcript says that a hook of the person's refused it | refused: held back |
//! | `Stuck` | the agent shows that the text waits | `Waiting` |
//! | `Stuck` | the box is seen empty | over: the message may go again |
//!
//! If the program's prompt is not known, Enter is pressed only once. An agent with a line must show
//! the text in it before Enter; afterwards a turn, or the text above the empty line, proves that it
//! was read, and without either it is `Stuck`. With any other program, Enter follows the next
//! output after the text, or 1 s, and the text counts as read once the program has read all input.
//! If a key of the person makes the terminal discard input before that, it may go again.
//!
//! From the first byte of a text to the sign of its turn the person's keys are kept back
//! (docs/delivery.md, "keys are kept back"). Ctrl-C, Ctrl-Z and Ctrl-\ are forwarded at once, and
//! after ten seconds all keys are forwarded in order; either ends the attempt. From then on no
//! Enter is pressed for this text, and it is not pasted again before the box was seen empty. The
//! keyboard never writes Ctrl-C or Escape itself.
//!
//! Relies on the agent's state.

mod key_buffer;
mod phases;
mod text;

use std::time::{Duration, Instant};

use super::transcript::ids_in;
use super::{Submission, SubmissionNumber};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::wrap::agent_state::{AgentState, HookEvent};
use crate::wrap::agents::history::History;
use crate::wrap::hold::Hold;

use key_buffer::KeyBuffer;

/// How long to wait for a sign of the turn after Enter.
const TURN_SIGN: Duration = Duration::from_secs(1);
/// Time limit of an attempt, after which all keys are forwarded.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Time limit for the row of a turn that began, if the agent is at rest again.
const ROW_WITHIN: Duration = Duration::from_secs(2);
/// Number of trailing letters and digits that identify a text.
const END_LETTERS: usize = 60;
/// Time limit for the turn of a text that is shown above the line of an agent at rest. Without it
/// the text is submitted again.
const TURN_WITHIN: Duration = Duration::from_mins(1);
/// How often a program whose screen is not known is asked whether it has read its input, during the
/// first second.
const READ_SOON: Duration = Duration::from_millis(100);
/// A text that the box never showed counts as swallowed if the box was empty for this long after
/// the agent read it.
const SWALLOWED_AFTER: Duration = Duration::from_secs(2);

/// A step for the caller to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyboardStep {
    /// Write these bytes to the agent, then call [`Keyboard::written`] once all of them are
    /// written.
    Write(Vec<u8>),
    /// Write these keys of the person, which were kept back until now.
    Replay(Vec<u8>),
    /// The outcome of the submission.
    Result(TypingOutcome),
    /// Nothing to do now; call [`Keyboard::step`] again at this time or after an event.
    Wait(Option<Instant>),
}

/// The outcome of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypingOutcome {
    /// Its Enter was written.
    HandedOver,
    /// It is in the model's context.
    InContext,
    /// The person's hook or settings refused it, for this reason in the agent's words.
    Refused(String),
    /// The agent took it and is at rest, and nothing shows that the model has it.
    Unread,
    /// It is in the box or may appear there, and no Enter will follow.
    Stuck(Hold),
    /// The box is empty: a person cleared it, or the text never appeared.
    Gone,
}

#[derive(Debug)]
enum TypingPhase {
    /// The text is being written; `out` is when its last byte was written.
    Pasted {
        out: Option<Instant>,
        since: Instant,
    },
    /// Enter is being written; `out` is when it was written.
    Entered {
        out: Option<Instant>,
        since: Instant,
        presses: u8,
    },
    /// The sign of its turn was seen.
    Submitted {
        since: Instant,
        /// A hook named it as the turn's prompt.
        is_named: bool,
    },
    /// The agent has the text and shows that it waits, or does not show yet what happened to it.
    Waiting {
        /// Whether the person pressed Escape meanwhile.
        is_escaped: bool,
        /// Since when the agent does not show that anything waits.
        over_since: Option<Instant>,
    },
    /// No Enter will follow.
    Stuck {
        since: Instant,
        /// Whether the box was seen with the text.
        was_seen: bool,
        /// When all conditions for a swallowed text began to hold.
        empty_since: Option<Instant>,
    },
}

#[derive(Debug)]
struct TypedText {
    submission: Submission,
    /// The text without white space, for comparison with the screen.
    normalised: String,
    /// Its last letters and digits, for comparison with a framed text on the screen.
    end: String,
    phase: TypingPhase,
    /// What the history showed of it before it was typed: a possible repeat has copies there.
    copies: Copies,
    /// Whether it was seen above the line.
    was_above: bool,
    /// Whether the profile describes neither a box nor a line.
    is_blind: bool,
    /// Whether [`TypingOutcome::HandedOver`] was returned.
    is_handover_reported: bool,
}

/// The copies of a text above the line of an agent.
#[derive(Clone, Copy, Debug)]
struct Copies {
    /// The heads of its messages.
    heads: usize,
    /// Its ends.
    ends: usize,
    /// Whether its end is the last thing there.
    is_last: bool,
}

impl Copies {
    fn of(history: &History, ids: &[String], end: &str) -> Self {
        Self {
            heads: ids.iter().map(|id| history.count_id(id)).sum(),
            ends: history.count_text(end),
            is_last: history.ends_with(end),
        }
    }

    fn is_any(self) -> bool {
        self.heads > 0 || self.ends > 0
    }

    /// Whether the history shows one more. An older copy may have left the screen meanwhile.
    fn are_fewer_than(self, other: Self) -> bool {
        other.heads > self.heads || other.ends > self.ends || (other.is_last && !self.is_last)
    }
}

/// The keyboard of one session, which types at most one text at a time.
#[derive(Debug, Default)]
pub struct Keyboard {
    attempt: Option<TypedText>,
    buffer: KeyBuffer,
    result: Option<TypingOutcome>,
    proof: TurnProof,
}

/// What proves that the agent has read a text, besides the sign of its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnProof {
    /// Nothing else: no transcript of the agent is known.
    #[default]
    Sign,
    /// Its row in the transcript. No hook can refuse a text here, so a text without a row was read
    /// once the agent is at rest: the transcript is elsewhere, or there is none.
    RowOrRest,
    /// Its row in the transcript. A text without a row was refused once the agent is at rest.
    Row,
}

impl Keyboard {
    /// Whether a text is being typed or is stuck.
    pub fn is_taken(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether no text is being typed or stuck, and no keys are kept back.
    pub fn is_idle(&self) -> bool {
        self.attempt.is_none() && self.buffer.is_empty() && self.result.is_none()
    }

    /// Whether a text is in the box, or may appear there, without an Enter to follow.
    pub fn is_stuck(&self) -> bool {
        let phase = self.attempt.as_ref().map(|attempt| &attempt.phase);
        matches!(phase, Some(TypingPhase::Stuck { .. }))
    }

    /// Sets what proves that a text was read.
    pub fn set_turn_proof(&mut self, proof: TurnProof) {
        self.proof = proof;
    }

    /// Begins to type a text at a free prompt, and returns the bytes to write.
    pub fn begin(&mut self, submission: Submission, agent: &AgentState, now: Instant) -> Vec<u8> {
        let method = if agent.takes_paste() {
            text::InputMethod::Pasted
        } else {
            text::InputMethod::Typed
        };
        let bytes = text::typed(&submission.text, method);
        let end = last_letters(&submission.text);
        self.attempt = Some(TypedText {
            normalised: normalise(&submission.text),
            copies: Copies::of(agent.history(), &submission.ids, &end),
            was_above: false,
            end,
            submission,
            phase: TypingPhase::Pasted {
                out: None,
                since: now,
            },
            is_blind: !agent.profile().knows_its_prompt() && agent.profile().line.is_none(),
            is_handover_reported: false,
        });
        bytes
    }

    /// Handles a person's input. Returns the bytes to forward now; `None` if they are kept back.
    pub fn filter_keys<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        if self.keeps_keys_back() && key_buffer::is_urgent(bytes) {
            // With an unknown screen, a text whose Enter was written counts as submitted, unless
            // the terminal discards it.
            if self.unread_since().is_none() {
                self.mark_stuck(now, Hold::Stuck);
            }
            return Some(bytes);
        }
        if let Some(TypedText {
            phase: TypingPhase::Waiting { is_escaped, .. },
            ..
        }) = &mut self.attempt
        {
            *is_escaped |= key_buffer::is_escape(bytes);
        }
        let passed = self.filter_reports(bytes);
        if passed.is_none() {
            self.buffer.mark_has_keys();
        }
        passed
    }

    /// As [`Keyboard::filter_keys`], for responses and reports of the terminal.
    pub fn filter_reports<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if (self.keeps_keys_back() || !self.buffer.is_empty()) && self.buffer.has_room() {
            self.buffer.push(bytes);
            return None;
        }
        Some(bytes)
    }

    fn keeps_keys_back(&self) -> bool {
        let phase = self.attempt.as_ref().map(|attempt| &attempt.phase);
        matches!(
            phase,
            Some(TypingPhase::Pasted { .. } | TypingPhase::Entered { .. })
        )
    }

    /// All bytes of the last [`KeyboardStep::Write`] have been written.
    pub fn written(&mut self, now: Instant) {
        if let Some(TypedText {
            phase: TypingPhase::Pasted { out, .. } | TypingPhase::Entered { out, .. },
            ..
        }) = &mut self.attempt
        {
            out.get_or_insert(now);
        }
    }

    /// Handles an event of the agent's hooks.
    pub fn event(&mut self, event: &HookEvent, now: Instant) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        match event {
            HookEvent::PromptSubmitted(prompt) if contains_all_ids(&attempt.submission, prompt) => {
                attempt.phase = TypingPhase::Submitted {
                    since: now,
                    is_named: true,
                };
                if self.proof == TurnProof::Sign {
                    self.finish(TypingOutcome::InContext);
                }
            }
            // A turn that began with this text has ended, so the model has read it, even if the
            // transcript cannot be read.
            HookEvent::TurnEnded
                if matches!(attempt.phase, TypingPhase::Submitted { is_named: true, .. }) =>
            {
                self.finish(TypingOutcome::InContext);
            }
            _ => {}
        }
    }

    /// Handles the proof that the submission is in the transcript.
    pub fn proved(&mut self, number: SubmissionNumber) {
        if self.number() == Some(number) {
            self.finish(TypingOutcome::InContext);
        }
    }

    /// Handles a row of the transcript that a hook of the person refused the submission.
    pub fn refused(&mut self, number: SubmissionNumber, why: &str) {
        if self.number() == Some(number) {
            self.finish(TypingOutcome::Refused(why.to_owned()));
        }
    }

    /// With an unknown screen, a text counts as read once its Enter was written and the program has
    /// read all input.
    pub fn input_checked(&mut self, agent: &AgentState) {
        if self
            .unread_since()
            .is_some_and(|out| agent.has_read_since(out))
        {
            self.finish(TypingOutcome::InContext);
        }
    }

    /// When the Enter of a text was written, with an unknown screen, if the program is not known to
    /// have read it.
    pub fn unread_since(&self) -> Option<Instant> {
        match &self.attempt {
            Some(TypedText {
                phase: TypingPhase::Entered { out, .. },
                is_blind: true,
                ..
            }) => *out,
            _ => None,
        }
    }

    /// Handles a key that makes the terminal discard all input that the program has not read.
    pub fn note_flush(&mut self) {
        if self.unread_since().is_some() {
            self.finish(TypingOutcome::Gone);
        }
    }

    /// Whether the next step may press Enter.
    pub fn may_press_enter(&self) -> bool {
        let phase = self.attempt.as_ref().map(|attempt| &attempt.phase);
        matches!(
            phase,
            Some(
                TypingPhase::Pasted { out: Some(_), .. }
                    | TypingPhase::Entered { out: Some(_), .. }
            )
        )
    }

    /// Whether the next step may decide by the agent's rest what became of an entered text.
    pub fn may_end_at_rest(&self, now: Instant) -> bool {
        match self.attempt.as_ref().map(|attempt| &attempt.phase) {
            Some(TypingPhase::Submitted { since, .. }) => now >= *since + ROW_WITHIN,
            Some(TypingPhase::Waiting { over_since, .. }) => over_since.is_some(),
            _ => false,
        }
    }

    /// The number of the current submission.
    pub fn number(&self) -> Option<SubmissionNumber> {
        self.attempt
            .as_ref()
            .map(|attempt| attempt.submission.number)
    }

    fn finish(&mut self, outcome: TypingOutcome) {
        self.attempt = None;
        self.result = Some(outcome);
    }

    fn mark_stuck(&mut self, now: Instant, why: Hold) {
        if let Some(attempt) = &mut self.attempt {
            attempt.phase = TypingPhase::Stuck {
                since: now,
                was_seen: why == Hold::Stuck,
                empty_since: None,
            };
            self.result = Some(TypingOutcome::Stuck(why));
        }
    }
}

/// Whether `prompt` holds all messages of the submission, by the heads of their lines: a person may
/// have recalled the text and removed some of them, and another message may quote an id.
fn contains_all_ids(submission: &Submission, prompt: &str) -> bool {
    let found = ids_in(prompt);
    submission.ids.iter().all(|id| found.contains(id))
}

/// The last letters and digits of a text.
fn last_letters(text: &str) -> String {
    let letters = text.chars().rev().filter(char::is_ascii_alphanumeric);
    let end: Vec<char> = letters.take(END_LETTERS).collect();
    end.into_iter().rev().collect()
}

/// Returns what is the same of a text however a box draws it. Boxes break lines anywhere, compose
/// letters with their marks (Claude Code), and a terminal's cell has no room for many marks.
fn normalise(text: &str) -> String {
    text.split_whitespace()
        .flat_map(UnicodeNormalization::nfd)
        .filter(|&letter| !is_combining_mark(letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_whether_its_letters_are_composed_or_not() {
        let sent = "cafe\u{301}.txt \u{1112}\u{1161}\u{11ab} z\u{335}\u{336}\u{337}o";
        let drawn = "caf\u{e9}.txt\n\u{d55c} z\u{335}o";
        assert_eq!(normalise(sent), normalise(drawn));
        assert_ne!(normalise(sent), normalise("another"));
    }
}
