//! The keyboard: paste, see the text in the box, Enter, see the sign of its turn. Pure: no
//! terminal, no clock.
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
//! | `Submitted` | 2 s at rest without a row | unread: held back; without hooks, in the context |
//! | any | the transcript says that a hook of the person's refused it | refused: held back |
//! | `Stuck` | the agent shows that the text waits | `Waiting` |
//! | `Stuck` | the box is seen empty | over: the message may go again |
//!
//! Where the program's prompt is not known there is no second Enter. An agent with a line must show
//! the text in it before Enter; afterwards a turn, or the text above the empty line, proves that it
//! was read, and without either it is `Stuck`. Of any other program the next output after the text,
//! or 1 s, takes the place of the sight of it, and the text counts as read when Enter was written.
//!
//! From the first byte of a text to the sign of its turn the person's keys are kept back
//! (docs/delivery.md, "keys are kept back"). Ctrl-C, Ctrl-Z and Ctrl-\ pass at once, and after
//! ten seconds all keys pass, in order: that ends the attempt. From then on no Enter is pressed for
//! this text, and it is never pasted again before the box was seen empty. Neither Ctrl-C nor Escape
//! is ever written.
//!
//! Relies on what is known of the agent.

mod kept;
mod steps;
mod text;

use std::time::{Duration, Instant};

use super::{Submission, SubmissionNumber};
use crate::wrap::agent_state::{AgentState, HookEvent};
use crate::wrap::hold::Hold;

use kept::Kept;

/// How long to wait for a sign of the turn after Enter.
const TURN_SIGN: Duration = Duration::from_secs(1);
/// After this all keys pass, and the attempt is over.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A turn that began must stand in the transcript by then, if the agent is at rest again.
const ROW_WITHIN: Duration = Duration::from_secs(2);
/// How many trailing letters and digits identify a text.
const END_LETTERS: usize = 60;
/// A text that is shown above the line of an agent at rest comes again when no turn followed it for
/// so long.
const TURN_WITHIN: Duration = Duration::from_mins(1);
/// A text that was never seen counts as swallowed when the box was empty for so long after the
/// agent read it.
const SWALLOWED: Duration = Duration::from_secs(2);

/// The next step for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyboardStep {
    /// Write these bytes to the agent, then say [`Keyboard::written`] when all of them are out.
    Write(Vec<u8>),
    /// Write these keys of the person, kept back until now.
    Replay(Vec<u8>),
    /// What became of the submission.
    Result(Outcome),
    /// Nothing now; ask again at this time or when something happened.
    Wait(Option<Instant>),
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its Enter was written: it is with the agent.
    HandedOver,
    /// It is in the model's context.
    InContext,
    /// It did not enter the session: the person's own hook or settings refused it. Why, in the
    /// agent's words.
    Refused(String),
    /// The agent took it and is at rest, and nothing says that the model has it.
    Unread,
    /// It stands in the box, or may appear there; no Enter will follow.
    Stuck(Hold),
    /// The box is empty again: a person cleared it, or it never appeared.
    Gone,
}

#[derive(Debug)]
enum TypingPhase {
    /// The text is (being) written; `out` is when its last byte was.
    Pasted {
        out: Option<Instant>,
        since: Instant,
    },
    /// Enter is (being) written.
    Entered {
        out: Option<Instant>,
        since: Instant,
        presses: u8,
    },
    /// The sign of its turn came.
    Submitted {
        since: Instant,
        /// A hook named it as the turn's prompt.
        is_named: bool,
    },
    /// The agent has it and shows that it waits, or does not show yet what became of it.
    Waiting {
        /// The person pressed Escape meanwhile.
        is_escaped: bool,
        /// Since when the agent does not show that anything waits.
        over_since: Option<Instant>,
    },
    /// No Enter will follow.
    Stuck {
        since: Instant,
        /// The box was seen with it.
        was_seen: bool,
        /// When all conditions for a swallowed text began to hold.
        empty_since: Option<Instant>,
    },
}

#[derive(Debug)]
struct TypedText {
    submission: Submission,
    /// The text without white space, as the screen may show it.
    squeezed: String,
    /// Its last letters and digits, as the screen may show them in any frame.
    end: String,
    phase: TypingPhase,
    /// Nothing of the program's screen is known.
    is_blind: bool,
    /// Its [`Outcome::HandedOver`] was told.
    is_handover_reported: bool,
}

/// The keyboard of one session: at most one text at a time.
#[derive(Debug, Default)]
pub struct Keyboard {
    attempt: Option<TypedText>,
    kept: Kept,
    result: Option<Outcome>,
    proof: TurnProof,
}

/// What proves that the agent has read a text, beside the sign of its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnProof {
    /// Nothing: the agent writes no transcript that is known.
    #[default]
    Sign,
    /// Its row in the transcript. No hook runs that could refuse a text, so one without a row at
    /// rest was read: the transcript is elsewhere, or there is none.
    RowOrRest,
    /// Its row in the transcript. A text without one at rest was refused.
    Row,
}

impl Keyboard {
    /// Whether a text is under way, or stuck.
    pub fn is_taken(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether nothing is left to do, also for the person's keys.
    pub fn is_idle(&self) -> bool {
        self.attempt.is_none() && self.kept.is_empty() && self.result.is_none()
    }

    /// A text stands in the box, or may appear there, and no Enter will follow.
    pub fn is_stuck(&self) -> bool {
        let phase = self.attempt.as_ref().map(|attempt| &attempt.phase);
        matches!(phase, Some(TypingPhase::Stuck { .. }))
    }

    /// From now on this proves that a text was read.
    pub fn set_turn_proof(&mut self, proof: TurnProof) {
        self.proof = proof;
    }

    /// Begins to type a text at a prompt that was shown to be free. Gives the bytes to write.
    pub fn begin(&mut self, submission: Submission, agent: &AgentState, now: Instant) -> Vec<u8> {
        let manner = if agent.takes_paste() {
            text::Manner::Pasted
        } else {
            text::Manner::Typed
        };
        let bytes = text::typed(&submission.text, manner);
        self.attempt = Some(TypedText {
            squeezed: squeeze(&submission.text),
            end: end_of(&submission.text),
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

    /// A person's bytes: those to pass on now. `None` while they are kept back.
    pub fn keys<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        if self.keeps_keys() && kept::is_urgent(bytes) {
            // Where nothing can be seen, a text whose Enter was written counts as submitted.
            let is_submitted = self.attempt.as_ref().is_some_and(|attempt| {
                attempt.is_blind
                    && matches!(attempt.phase, TypingPhase::Entered { out: Some(_), .. })
            });
            if !is_submitted {
                self.mark_stuck(now, Hold::Stuck);
            }
            return Some(bytes);
        }
        if let Some(TypedText {
            phase: TypingPhase::Waiting { is_escaped, .. },
            ..
        }) = &mut self.attempt
        {
            *is_escaped |= kept::is_escape(bytes);
        }
        let passed = self.reports(bytes);
        if passed.is_none() {
            self.kept.hold_keys();
        }
        passed
    }

    /// The same for answers and reports of the terminal: they are nobody's typing.
    pub fn reports<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if (self.keeps_keys() || !self.kept.is_empty()) && self.kept.has_room() {
            self.kept.keep(bytes);
            return None;
        }
        Some(bytes)
    }

    fn keeps_keys(&self) -> bool {
        let phase = self.attempt.as_ref().map(|attempt| &attempt.phase);
        matches!(
            phase,
            Some(TypingPhase::Pasted { .. } | TypingPhase::Entered { .. })
        )
    }

    /// All bytes of the last [`KeyboardStep::Write`] are with the terminal.
    pub fn written(&mut self, now: Instant) {
        if let Some(TypedText {
            phase: TypingPhase::Pasted { out, .. } | TypingPhase::Entered { out, .. },
            ..
        }) = &mut self.attempt
        {
            out.get_or_insert(now);
        }
    }

    /// A hook of the agent spoke.
    pub fn event(&mut self, event: &HookEvent, now: Instant) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        match event {
            HookEvent::PromptSubmitted(prompt) if names(&attempt.submission, prompt) => {
                attempt.phase = TypingPhase::Submitted {
                    since: now,
                    is_named: true,
                };
                if self.proof == TurnProof::Sign {
                    self.finish(Outcome::InContext);
                }
            }
            // A turn that began with our text and ended: the model has read it, also where its
            // transcript cannot be.
            HookEvent::TurnEnded
                if matches!(attempt.phase, TypingPhase::Submitted { is_named: true, .. }) =>
            {
                self.finish(Outcome::InContext);
            }
            _ => {}
        }
    }

    /// The proof: the transcript holds the submission.
    pub fn proved(&mut self, number: SubmissionNumber) {
        if self.number() == Some(number) {
            self.finish(Outcome::InContext);
        }
    }

    /// The transcript says that a hook of the person's refused the submission.
    pub fn refused(&mut self, number: SubmissionNumber, why: &str) {
        if self.number() == Some(number) {
            self.finish(Outcome::Refused(why.to_owned()));
        }
    }

    /// The program has ended. Where nothing on the screen could ever prove it, a text counts as
    /// read once its Enter was written.
    pub fn ended(&mut self) {
        if let Some(TypedText {
            phase: TypingPhase::Entered { out: Some(_), .. },
            is_blind: true,
            ..
        }) = &self.attempt
        {
            self.finish(Outcome::InContext);
        }
    }

    /// Whether the next step may write something that a shell in the foreground would execute.
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

    /// Which submission is under way.
    pub fn number(&self) -> Option<SubmissionNumber> {
        self.attempt
            .as_ref()
            .map(|attempt| attempt.submission.number)
    }

    fn finish(&mut self, outcome: Outcome) {
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
            self.result = Some(Outcome::Stuck(why));
        }
    }
}

/// Whether `prompt` holds all messages of the submission: a person may have called the text back
/// into the box and removed some of them.
fn names(submission: &Submission, prompt: &str) -> bool {
    let mut ids = submission.ids.iter();
    ids.all(|id| prompt.contains(&format!(" id={id}]")))
}

/// The last letters and digits of a text.
fn end_of(text: &str) -> String {
    let letters = text.chars().rev().filter(char::is_ascii_alphanumeric);
    let end: Vec<char> = letters.take(END_LETTERS).collect();
    end.into_iter().rev().collect()
}

/// Without white space: boxes break lines where they like.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}
