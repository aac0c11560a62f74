//! The steps of each phase. Each phase has a function that inspects the agent's state at `now` and
//! returns the next step, or when to try again.
//!
//! Relies on the types of [`super`].

use std::time::Instant;

use super::{
    Copies, GIVE_UP, Hold, Keyboard, KeyboardStep, READ_SOON, ROW_WITHIN, SWALLOWED_AFTER,
    TURN_SIGN, TURN_WITHIN, TurnProof, TypingOutcome, TypingPhase, normalise,
};
use crate::wrap::agent_state::{AgentState, Verdict};
use crate::wrap::agents::reading::Input;

/// The beginning of the placeholder that Claude Code's box shows for a long paste, without white
/// space.
const PLACEHOLDER: &str = "[Pastedtext#";

impl Keyboard {
    /// Returns the next step at `now`, given the agent's state.
    pub fn step(&mut self, agent: &AgentState, now: Instant) -> KeyboardStep {
        if let Some(result) = self.result.take() {
            return KeyboardStep::Result(result);
        }
        let Some(attempt) = &mut self.attempt else {
            return self.release_keys(None);
        };
        let is_entered = matches!(attempt.phase, TypingPhase::Entered { out: Some(_), .. })
            || matches!(attempt.phase, TypingPhase::Submitted { .. });
        if is_entered && !attempt.is_handover_reported {
            attempt.is_handover_reported = true;
            return KeyboardStep::Result(TypingOutcome::HandedOver);
        }
        match attempt.phase {
            TypingPhase::Pasted { out, since } => self.step_pasted(agent, now, out, since),
            TypingPhase::Entered {
                out,
                since,
                presses,
            } => self.step_entered(agent, now, (out, since, presses)),
            TypingPhase::Submitted { since, is_named } => {
                self.step_submitted(agent, now, (since, is_named))
            }
            TypingPhase::Waiting {
                is_escaped,
                over_since,
            } => self.step_waiting(agent, now, (is_escaped, over_since)),
            TypingPhase::Stuck { since, .. } => self.step_stuck(agent, now, since),
        }
    }

    fn release_keys(&mut self, again: Option<Instant>) -> KeyboardStep {
        let keys = self.buffer.take();
        keys.map_or(KeyboardStep::Wait(again), KeyboardStep::Replay)
    }

    fn step_pasted(
        &mut self,
        agent: &AgentState,
        now: Instant,
        out: Option<Instant>,
        since: Instant,
    ) -> KeyboardStep {
        let pace = agent.profile().pace;
        let has_known_input = agent.profile().knows_its_prompt() || agent.profile().line.is_some();
        let end = since + GIVE_UP;
        let obstacle = agent.obstacle();
        // A person who has to answer a dialog gets their keys at once.
        let is_asked = self.buffer.has_keys() && matches!(obstacle, Some(Hold::Dialog(_)));
        if is_asked {
            return self.give_up(agent, now, Hold::Stuck);
        }
        let Some(out) = out else {
            // The agent does not read its input, which holds a part of the text.
            return if now >= end {
                self.give_up(agent, now, Hold::Unseen)
            } else {
                KeyboardStep::Wait(Some(end))
            };
        };
        let shows_it = self.is_shown(agent);
        let is_redrawn = if has_known_input {
            shows_it
        } else {
            agent.last_output() >= out || now >= out + TURN_SIGN
        };
        let screen = agent.check_screen(now);
        let is_missing = !is_redrawn && obstacle.is_none() && screen.is_ok();
        if now >= end && (self.buffer.has_keys() || is_missing) {
            let why = if shows_it { Hold::Stuck } else { Hold::Unseen };
            return self.give_up(agent, now, why);
        }
        if !is_redrawn {
            let next = match has_known_input {
                true if now >= end => now + TURN_SIGN,
                true => end,
                false => out + TURN_SIGN,
            };
            return KeyboardStep::Wait(Some(next));
        }
        let ready = (out + pace.before_enter).max(agent.last_output() + pace.quiet_before_enter);
        if now < ready {
            return KeyboardStep::Wait(Some(ready));
        }
        if obstacle.is_some() || agent.is_busy(now) {
            // A dialog or a turn took or hides the text. Enter could answer the dialog.
            return KeyboardStep::Wait(Some(if now < end { end } else { now + TURN_SIGN }));
        }
        if let Err(again) = screen {
            let end = Some(end).filter(|&end| now < end);
            return KeyboardStep::Wait([again, end].into_iter().flatten().min());
        }
        self.press_enter(now, 1)
    }

    fn press_enter(&mut self, now: Instant, presses: u8) -> KeyboardStep {
        if let Some(attempt) = &mut self.attempt {
            attempt.phase = TypingPhase::Entered {
                out: None,
                since: now,
                presses,
            };
        }
        KeyboardStep::Write(b"\r".to_vec())
    }

    fn give_up(&mut self, agent: &AgentState, now: Instant, why: Hold) -> KeyboardStep {
        self.mark_stuck(now, why);
        self.step(agent, now)
    }

    /// Whether the box shows the whole text and nothing else. For a line, of which less is known:
    /// whether it holds anything. If a long text hides the line, the text must be the last thing on
    /// the screen: below it, something else may be asked.
    fn is_shown(&self, agent: &AgentState) -> bool {
        if !agent.profile().knows_its_prompt() {
            return match (agent.input(), &self.attempt) {
                (Input::Holds(_), _) => true,
                (Input::Absent, Some(attempt)) => agent.history().ends_with(&attempt.end),
                _ => false,
            };
        }
        let (Some(attempt), Input::Holds(shown)) = (&self.attempt, agent.input()) else {
            return false;
        };
        let shown = normalise(shown);
        let is_placeholder = shown.starts_with(PLACEHOLDER)
            && shown.ends_with(']')
            && shown.matches('[').count() == 1;
        is_placeholder
            || shown == attempt.normalised
            || (agent.input_is_scrolled()
                && !shown.is_empty()
                && attempt.normalised.ends_with(&shown))
    }

    /// Whether the head of a message of the text, or the end of the text, is above the line. An
    /// older copy may leave the screen, so one that was seen in a finished frame since Enter counts
    /// as long as any is there.
    fn is_above(&mut self, agent: &AgentState, now: Instant) -> bool {
        let Some(attempt) = &mut self.attempt else {
            return false;
        };
        let copies = Copies::of(agent.history(), &attempt.submission.ids, &attempt.end);
        let is_new = attempt.copies.are_fewer_than(copies);
        attempt.was_above |= is_new && agent.check_screen(now).is_ok();
        is_new || (attempt.was_above && copies.is_any())
    }

    /// Whether the text is above the line, and a turn runs or an answer follows it.
    fn is_answered(&mut self, agent: &AgentState, now: Instant) -> bool {
        let is_above = self.is_above(agent, now);
        let mut attempt = self.attempt.iter();
        is_above
            && (agent.is_busy(now)
                || attempt.any(|attempt| agent.history_has_text_after(&attempt.end)))
    }

    /// Whether the box contains a message or a placeholder, possibly with other text.
    fn box_contains_text(agent: &AgentState) -> bool {
        matches!(agent.input(), Input::Holds(shown)
            if shown.contains("[cbroker peer message") || normalise(shown).contains(PLACEHOLDER)
                || agent.input_is_scrolled() || !agent.profile().knows_its_prompt())
    }

    fn step_entered(
        &mut self,
        agent: &AgentState,
        now: Instant,
        (out, since, presses): (Option<Instant>, Instant, u8),
    ) -> KeyboardStep {
        let end = since + GIVE_UP;
        let Some(out) = out else {
            return if now >= end {
                self.give_up(agent, now, Hold::Stuck)
            } else {
                KeyboardStep::Wait(Some(end))
            };
        };
        if !agent.profile().knows_its_prompt() {
            // Enter is pressed only once.
            let settled = out + agent.profile().pace.before_enter;
            if now < settled {
                return KeyboardStep::Wait(Some(settled));
            }
            if agent.profile().line.is_some() {
                return self.step_entered_line(agent, now, out);
            }
            return self.step_entered_blindly(agent, now, (out, end));
        }
        let late = out + TURN_SIGN;
        let screen = agent.check_screen(now);
        // The box was seen with the text, so an empty box was drawn after Enter. A turn may have
        // begun by itself, so it proves nothing while the box still holds the text. In a frame that
        // is not drawn yet, the box may be empty because its text follows.
        let is_taken = agent.last_output() >= out && *agent.input() == Input::Empty;
        let holds = matches!(agent.input(), Input::Holds(_));
        let is_begun = now >= late && agent.is_busy(now) && !holds;
        if screen.is_ok() && (is_taken || is_begun) {
            if self.proof == TurnProof::Sign {
                self.finish(TypingOutcome::InContext);
            } else if let Some(attempt) = &mut self.attempt {
                attempt.phase = TypingPhase::Submitted {
                    since: now,
                    is_named: false,
                };
            }
            return self.step(agent, now);
        }
        if now < late {
            let again = screen.err().flatten();
            return KeyboardStep::Wait(Some(again.map_or(late, |again| again.min(late))));
        }
        if let Err(again) = screen
            && now < end
        {
            return KeyboardStep::Wait(Some(again.unwrap_or(end).min(end)));
        }
        if presses == 1
            && screen.is_ok()
            && agent.obstacle().is_none()
            && !self.buffer.has_keys()
            && self.is_shown(agent)
        {
            return self.press_enter(now, 2);
        }
        self.give_up(agent, now, Hold::Stuck)
    }

    /// The `Entered` phase of a program whose screen is not known. The only sign is that it has
    /// read all input, for which there is no time limit.
    fn step_entered_blindly(
        &mut self,
        agent: &AgentState,
        now: Instant,
        (out, end): (Instant, Instant),
    ) -> KeyboardStep {
        if agent.has_read_since(out) {
            self.finish(TypingOutcome::InContext);
            return self.step(agent, now);
        }
        let is_soon = now < out + TURN_SIGN;
        let again = now + if is_soon { READ_SOON } else { TURN_SIGN };
        if now >= end {
            return self.release_keys(Some(again));
        }
        KeyboardStep::Wait(Some(again))
    }

    /// The `Entered` phase of an agent with a line. An empty line after Enter proves nothing: a
    /// starting agent may have dropped the text, or may not have drawn it yet. The proof is a turn,
    /// or the text above the empty line; if the agent may let a text wait, both are required, or an
    /// answer to it.
    fn step_entered_line(
        &mut self,
        agent: &AgentState,
        now: Instant,
        out: Instant,
    ) -> KeyboardStep {
        if agent.shows_waiting() {
            return self.begin_waiting(agent, now);
        }
        let holds = matches!(agent.input(), Input::Holds(_));
        let is_busy = agent.is_busy(now);
        let is_above = self.is_above(agent, now);
        let may_wait = !agent.profile().waits.is_empty();
        let is_read = if may_wait {
            self.is_answered(agent, now)
        } else {
            is_busy || (is_above && *agent.input() == Input::Empty)
        };
        let screen = agent.check_screen(now);
        if screen.is_ok() && !holds && agent.last_output() >= out && is_read {
            self.finish(TypingOutcome::InContext);
            return self.step(agent, now);
        }
        // Some agents ignore Enter while they start. An agent that has drawn nothing since may not
        // have processed it yet.
        let late = out + TURN_SIGN;
        let end = out + GIVE_UP;
        let again = match screen {
            Ok(()) if holds && !is_busy && now >= late && agent.last_output() >= out => {
                return self.give_up(agent, now, Hold::Stuck);
            }
            Ok(()) => None,
            Err(again) => again,
        };
        if now < end {
            let next = if now < late { late } else { end };
            return KeyboardStep::Wait(Some(again.unwrap_or(next).min(next)));
        }
        if !holds && (is_busy || (may_wait && is_above)) {
            return self.begin_waiting(agent, now);
        }
        let why = if holds { Hold::Stuck } else { Hold::Unseen };
        self.give_up(agent, now, why)
    }

    fn begin_waiting(&mut self, agent: &AgentState, now: Instant) -> KeyboardStep {
        if let Some(attempt) = &mut self.attempt {
            attempt.phase = TypingPhase::Waiting {
                is_escaped: false,
                over_since: None,
            };
        }
        self.step(agent, now)
    }

    /// The `Waiting` phase. The text is read once its turn or an answer is seen. After Escape its
    /// turn may never come.
    fn step_waiting(
        &mut self,
        agent: &AgentState,
        now: Instant,
        (is_escaped, over_since): (bool, Option<Instant>),
    ) -> KeyboardStep {
        if !self.buffer.is_empty() {
            return self.release_keys(None);
        }
        let over_since = (!agent.shows_waiting()).then(|| over_since.unwrap_or(now));
        if let Some(attempt) = &mut self.attempt {
            attempt.phase = TypingPhase::Waiting {
                is_escaped,
                over_since,
            };
        }
        let Some(over_since) = over_since else {
            return KeyboardStep::Wait(None);
        };
        if self.is_above(agent, now) {
            return self.step_no_longer_waiting(agent, now, (is_escaped, over_since));
        }
        // The screen may be drawn in pieces.
        let late = over_since + TURN_SIGN;
        if now < late {
            return KeyboardStep::Wait(Some(late));
        }
        if let Err(again) = agent.check_screen(now) {
            return KeyboardStep::Wait(again);
        }
        match (agent.input(), agent.verdict(now)) {
            // The agent put the text back into the line, or the person types and the text is out of
            // sight.
            (Input::Holds(_), _) if !agent.is_busy(now) => self.give_up(agent, now, Hold::Stuck),
            (_, Verdict::Free) => self.give_up(agent, now, Hold::Unseen),
            (_, Verdict::Hold(_, again)) => KeyboardStep::Wait(again),
        }
    }

    /// The `Waiting` phase of a text above the line that no longer waits. Without a sign of its
    /// turn the text may be lost, and is submitted again.
    fn step_no_longer_waiting(
        &mut self,
        agent: &AgentState,
        now: Instant,
        (is_escaped, since): (bool, Instant),
    ) -> KeyboardStep {
        if is_escaped {
            self.finish(TypingOutcome::Gone);
            return self.step(agent, now);
        }
        if self.is_answered(agent, now) {
            if let Err(again) = agent.check_screen(now) {
                return KeyboardStep::Wait(again);
            }
            self.finish(TypingOutcome::InContext);
            return self.step(agent, now);
        }
        let late = since + TURN_WITHIN;
        if now < late {
            return KeyboardStep::Wait(Some(late));
        }
        match agent.verdict(now) {
            Verdict::Free => self.give_up(agent, now, Hold::Unseen),
            Verdict::Hold(_, again) => KeyboardStep::Wait(again),
        }
    }

    fn step_submitted(
        &mut self,
        agent: &AgentState,
        now: Instant,
        (since, is_named): (Instant, bool),
    ) -> KeyboardStep {
        if !self.buffer.is_empty() {
            return self.release_keys(None);
        }
        let late = since + ROW_WITHIN;
        if now < late {
            return KeyboardStep::Wait(Some(late));
        }
        // The box shows the text again: the empty one was drawn by the way, and Enter was lost. No
        // Enter follows, since the row may be late.
        if !is_named
            && agent.check_screen(now).is_ok()
            && !agent.is_busy(now)
            && self.is_shown(agent)
        {
            return self.give_up(agent, now, Hold::Stuck);
        }
        // At rest without a row: the prompt was refused, and this version does not report that.
        // While a turn runs, the row may be late.
        if agent.verdict(now) == Verdict::Free {
            self.finish(match self.proof {
                TurnProof::Sign | TurnProof::RowOrRest => TypingOutcome::InContext,
                TurnProof::Row => TypingOutcome::Unread,
            });
            return self.step(agent, now);
        }
        KeyboardStep::Wait(Some(now + TURN_SIGN))
    }

    fn step_stuck(
        &mut self,
        agent: &AgentState,
        now: Instant,
        stuck_since: Instant,
    ) -> KeyboardStep {
        if !self.buffer.is_empty() {
            return self.release_keys(None);
        }
        if agent.shows_waiting() {
            return self.begin_waiting(agent, now);
        }
        let box_contains_text = Self::box_contains_text(agent);
        let profile = agent.profile();
        let has_known_input = profile.knows_its_prompt() || profile.line.is_some();
        let is_empty = *agent.input() == Input::Empty || !has_known_input;
        let screen = agent.check_screen(now);
        let is_fresh =
            agent.last_output() >= stuck_since && agent.has_read_input() && screen.is_ok();
        let Some(attempt) = &mut self.attempt else {
            return KeyboardStep::Wait(None);
        };
        let TypingPhase::Stuck {
            was_seen,
            empty_since,
            ..
        } = &mut attempt.phase
        else {
            return KeyboardStep::Wait(None);
        };
        *was_seen |= box_contains_text;
        if box_contains_text || !is_empty {
            *empty_since = None;
            return KeyboardStep::Wait(None);
        }
        // The box was seen with the text and was drawn empty since.
        if *was_seen && is_fresh {
            self.finish(TypingOutcome::Gone);
            return self.step(agent, now);
        }
        // The box never showed the text: the agent has read it and shows an empty box.
        let swallowed = *empty_since.get_or_insert(now) + SWALLOWED_AFTER;
        if !agent.has_read_input() || *was_seen {
            return KeyboardStep::Wait(Some(now + TURN_SIGN));
        }
        if now < swallowed {
            return KeyboardStep::Wait(Some(swallowed));
        }
        if let Err(again) = screen {
            return KeyboardStep::Wait(again);
        }
        self.finish(TypingOutcome::Gone);
        self.step(agent, now)
    }
}
