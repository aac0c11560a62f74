//! May a line be typed now? Free only with proof that the main prompt has the focus and is empty
//! (docs/delivery.md, "focus proof"), or, in a program whose prompt is not described, after a
//! pause.

use std::time::{Duration, Instant};

use super::{AgentState, DIALOG_UNSEEN, HOOKS_LATE, SCREEN_ONLY_QUIET, Turn};
use crate::wrap::agents::reading::{Input, Vim};
use crate::wrap::hold::Hold;

/// What executes its input in the terminal's foreground is looked for again after this.
const FOREGROUND_AGAIN: Duration = Duration::from_secs(1);
/// A process that says of itself that it is not at rest is asked again after this.
const OWN_STATUS_AGAIN: Duration = Duration::from_millis(250);

/// May a line be typed now?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: the main prompt has the focus and is empty.
    Free,
    /// No, and when it is worth another look though nothing happens.
    Hold(Hold, Option<Instant>),
}

impl AgentState {
    /// Whether a line could be typed now, were it not for what the foreground runs, and that is to
    /// be looked at.
    pub fn asks_for_foreground(&self, now: Instant) -> bool {
        let is_old = |(_, seen): &(String, Instant)| now >= *seen + FOREGROUND_AGAIN;
        self.executes.as_ref().is_none_or(is_old) && self.verdict_of_agent(now) == Verdict::Free
    }

    /// May a line be typed now?
    pub fn verdict(&self, now: Instant) -> Verdict {
        match (self.verdict_of_agent(now), &self.executes) {
            (Verdict::Free, Some((program, seen))) => {
                let again = *seen + FOREGROUND_AGAIN;
                Verdict::Hold(
                    Hold::Executes(program.clone()),
                    Some(again).filter(|&again| again > now),
                )
            }
            (Verdict::Free, None) => self.verdict_of_itself(now),
            (verdict, _) => verdict,
        }
    }

    fn verdict_of_itself(&self, now: Instant) -> Verdict {
        let said = self.own_status.as_ref();
        match said.and_then(|(status, asked)| Some((status.hold()?, asked))) {
            Some((hold, asked)) => {
                let again = *asked + OWN_STATUS_AGAIN;
                Verdict::Hold(hold, Some(again).filter(|&again| again > now))
            }
            None => Verdict::Free,
        }
    }

    fn verdict_of_agent(&self, now: Instant) -> Verdict {
        if self.profile.knows_its_prompt() {
            self.by_prompt(now)
        } else {
            self.by_quiet(now)
        }
    }

    fn by_prompt(&self, now: Instant) -> Verdict {
        let has_hooks = !self.is_screen_only(now);
        let asks = self.turn == Turn::Unknown && self.reading.dialog.is_some();
        if !self.is_suspended
            && !asks
            && (!self.takes_paste || (has_hooks && self.turn == Turn::Unknown))
        {
            let again = self
                .first_prompt
                .filter(|_| has_hooks)
                .map(|first| first + HOOKS_LATE);
            return Verdict::Hold(Hold::Starting, again.filter(|&again| again > now));
        }
        if let Some(open) = self.suspension().or_else(|| self.obstacle_of_agent()) {
            let again = self
                .dialog
                .as_ref()
                .map(|dialog| dialog.since + DIALOG_UNSEEN);
            return Verdict::Hold(open, again.filter(|&again| again > now));
        }
        if self.is_busy(now) {
            let again = self.last_output + SCREEN_ONLY_QUIET;
            return Verdict::Hold(Hold::Busy, Some(again).filter(|&again| again > now));
        }
        if matches!(self.reading.input, Input::Holds(_)) {
            return Verdict::Hold(Hold::Draft, None);
        }
        if self.uses_vim && self.reading.vim == Vim::Plain {
            return Verdict::Hold(Hold::VimNormal, None);
        }
        let pace = self.profile.pace;
        if let Err(again) = self.person.rests(self.last_output, now, pace.idle_hands) {
            return Verdict::Hold(Hold::Draft, again);
        }
        // A turn that a person may have ended, and a session without hooks, count as ended only
        // after a pause.
        let is_certain = has_hooks && self.turn == Turn::Idle;
        let quiet = if is_certain {
            pace.quiet_before_text
        } else {
            SCREEN_ONLY_QUIET
        };
        self.quiet(quiet, now)
    }

    fn by_quiet(&self, now: Instant) -> Verdict {
        if let Some(open) = self.suspension().or_else(|| self.obstacle_of_agent()) {
            return Verdict::Hold(open, None);
        }
        if self.is_busy(now) {
            return Verdict::Hold(Hold::Busy, None);
        }
        let pace = self.profile.pace;
        if self.has_draft(now) {
            let again = self.person.drawn_at_latest();
            return Verdict::Hold(Hold::Draft, again.filter(|&again| again > now));
        }
        if self.profile.line.is_some() && self.reading.input == Input::Absent {
            // A program that writes is at work; one that is silent shows something that nobody
            // described.
            return match self.quiet(pace.quiet_before_text, now) {
                Verdict::Free => Verdict::Hold(Hold::UnknownScreen, None),
                moving @ Verdict::Hold(..) => moving,
            };
        }
        if let Some(free) = self.person.hands_rest_at(pace.idle_hands, now) {
            return Verdict::Hold(Hold::Draft, Some(free));
        }
        if !self.shows_cursor && !self.takes_paste {
            return Verdict::Hold(Hold::Starting, None);
        }
        self.quiet(pace.quiet_before_text, now)
    }

    fn quiet(&self, pause: Duration, now: Instant) -> Verdict {
        let quiet_at = self.last_output + pause;
        if now < quiet_at {
            Verdict::Hold(Hold::Busy, Some(quiet_at))
        } else {
            Verdict::Free
        }
    }

    /// What the screen shows of the input counts more than what the keys suggest, once it was drawn
    /// after them.
    fn has_draft(&self, now: Instant) -> bool {
        match self.reading.input {
            Input::Holds(_) => true,
            Input::Empty => self.person.has_draft() && !self.person.is_drawn(self.last_output, now),
            Input::Absent | Input::Shell | Input::Command => self.person.has_draft(),
        }
    }
}
