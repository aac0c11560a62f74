//! Decides whether a line may be typed now: only with proof that the main prompt has the focus and
//! is empty (docs/delivery.md, "focus check"), or after a pause if the prompt of the program is not
//! described.

use std::time::{Duration, Instant};

use super::{AgentState, DIALOG_UNSEEN, HOOKS_LATE, SCREEN_ONLY_QUIET, Turn};
use crate::wrap::agents::reading::{Input, Vim};
use crate::wrap::hold::Hold;

/// Delay before the foreground is checked again after a program that executes its input was found.
const RECHECK_FOREGROUND: Duration = Duration::from_secs(1);
/// Delay before the status file is read again after it did not show rest.
const RECHECK_OWN_STATUS: Duration = Duration::from_millis(250);

/// Whether a line may be typed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: the main prompt has the focus and is empty.
    Free,
    /// No, for this reason, and when to check again if nothing happens.
    Hold(Hold, Option<Instant>),
}

impl AgentState {
    /// Whether only the foreground program can prevent typing now, and its last check is out of
    /// date.
    pub fn needs_foreground_check(&self, now: Instant) -> bool {
        let is_old = |(_, seen): &(String, Instant)| now >= *seen + RECHECK_FOREGROUND;
        self.executes.as_ref().is_none_or(is_old)
            && self.verdict_without_foreground(now) == Verdict::Free
    }

    /// Whether a line may be typed now.
    pub fn verdict(&self, now: Instant) -> Verdict {
        match (self.verdict_without_foreground(now), &self.executes) {
            (Verdict::Free, Some((program, seen))) => {
                let again = *seen + RECHECK_FOREGROUND;
                Verdict::Hold(
                    Hold::Executes(program.clone()),
                    Some(again).filter(|&again| again > now),
                )
            }
            (Verdict::Free, None) => self.verdict_with_own_status(now),
            (verdict, _) => verdict,
        }
    }

    fn verdict_with_own_status(&self, now: Instant) -> Verdict {
        let said = self.own_status.as_ref();
        match said.and_then(|(status, asked)| Some((status.hold()?, asked))) {
            Some((hold, asked)) => {
                let again = *asked + RECHECK_OWN_STATUS;
                Verdict::Hold(hold, Some(again).filter(|&again| again > now))
            }
            None => Verdict::Free,
        }
    }

    fn verdict_without_foreground(&self, now: Instant) -> Verdict {
        let verdict = if self.profile.knows_its_prompt() {
            self.verdict_by_prompt(now)
        } else {
            self.verdict_by_quiet(now)
        };
        match (verdict, self.check_screen(now)) {
            (Verdict::Free, Err(again)) => Verdict::Hold(Hold::Busy, again),
            (verdict, _) => verdict,
        }
    }

    fn verdict_by_prompt(&self, now: Instant) -> Verdict {
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
        if let Some(open) = self.suspension().or_else(|| self.agent_obstacle()) {
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
        if let Err(again) = self
            .person
            .check_idle(self.last_output, now, pace.idle_hands)
        {
            return Verdict::Hold(Hold::Draft, again);
        }
        // If a person may have ended the turn, or there are no hooks, the turn counts as ended only
        // after a pause.
        let is_certain = has_hooks && self.turn == Turn::Idle;
        let quiet = if is_certain {
            pace.quiet_before_text
        } else {
            SCREEN_ONLY_QUIET
        };
        self.verdict_if_quiet(quiet, now)
    }

    fn verdict_by_quiet(&self, now: Instant) -> Verdict {
        if let Some(open) = self.suspension().or_else(|| self.agent_obstacle()) {
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
            // A program that writes output is working; a silent one shows an unknown screen.
            return match self.verdict_if_quiet(pace.quiet_before_text, now) {
                Verdict::Free => Verdict::Hold(Hold::UnknownScreen, None),
                moving @ Verdict::Hold(..) => moving,
            };
        }
        if let Some(free) = self.person.idle_at(pace.idle_hands, now) {
            return Verdict::Hold(Hold::Draft, Some(free));
        }
        if !self.shows_cursor && !self.takes_paste {
            return Verdict::Hold(Hold::Starting, None);
        }
        self.verdict_if_quiet(pace.quiet_before_text, now)
    }

    fn verdict_if_quiet(&self, pause: Duration, now: Instant) -> Verdict {
        let quiet_at = self.last_output + pause;
        if now < quiet_at {
            Verdict::Hold(Hold::Busy, Some(quiet_at))
        } else {
            Verdict::Free
        }
    }

    /// Whether the input holds a draft. The screen takes precedence over the keys once it was drawn
    /// after them.
    fn has_draft(&self, now: Instant) -> bool {
        match self.reading.input {
            Input::Holds(_) => true,
            Input::Empty => self.person.has_draft() && !self.person.is_drawn(self.last_output, now),
            Input::Absent | Input::Shell | Input::Command => self.person.has_draft(),
        }
    }
}
