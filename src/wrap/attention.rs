//! What is known of the agent at this moment, from six sources: its hooks, its title, its screen,
//! its output's rhythm, the person's keys, and what the terminal's foreground runs. Pure: no clock,
//! no terminal.
//!
//! One question is answered, [`Attention::verdict`]: may a line be typed now? The prompt decides it
//! for agents whose prompt is known, quiet for all others. When uncertain, do not type.
//!
//! Relies on the profile and the reading of the screen.

use std::time::{Duration, Instant};

use super::agents::Profile;
use super::agents::reading::{Input, Reading, Vim};
use super::hold::Hold;
use super::keys::{Draft, Press};

/// No hook so long after the prompt was drawn means that none will come.
const HOOKS_LATE: Duration = Duration::from_secs(10);
/// What must pass without output where only the screen speaks.
const SCREEN_ONLY_QUIET: Duration = Duration::from_millis(1500);
/// What executes its input in the terminal's foreground is looked for again after this.
const FOREGROUND_AGAIN: Duration = Duration::from_secs(1);
/// A permission event whose dialog was never drawn is taken back after this.
const DIALOG_UNSEEN: Duration = Duration::from_secs(5);

/// What the agent's hooks tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began, or began anew.
    SessionStart,
    /// A prompt was submitted; its text.
    PromptSubmitted(String),
    /// A tool is used.
    ToolStarted,
    /// A tool was used.
    ToolEnded,
    /// A dialog opens for this tool.
    PermissionAsked(String),
    /// The turn ended, well or not.
    TurnEnded,
    /// The session ended.
    SessionEnd,
}

/// May a line be typed now?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: the main prompt has the focus and is empty.
    Free,
    /// No, and when it is worth another look though nothing happens.
    Hold(Hold, Option<Instant>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// No hook has spoken yet.
    Unknown,
    Idle,
    /// A person's key since its start may have ended it unheard.
    Busy {
        is_touched: bool,
    },
}

#[derive(Clone, Debug)]
struct OpenDialog {
    name: String,
    since: Instant,
    was_drawn: bool,
}

/// Everything that bears on the question.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing seen, true or not by itself"
)]
pub struct Attention {
    profile: &'static Profile,
    turn: Turn,
    dialog: Option<OpenDialog>,
    reading: Reading,
    first_prompt: Option<Instant>,
    title_is_busy: bool,
    takes_paste: bool,
    shows_cursor: bool,
    last_output: Instant,
    last_key: Option<Instant>,
    draft: Draft,
    is_suspended: bool,
    /// What executes its input in the terminal's foreground, and when it was seen there.
    executes: Option<(String, Instant)>,
    /// INSERT mode was seen: without its mark, keys are commands.
    uses_vim: bool,
}

impl Attention {
    /// Nothing is known yet of the program that started at `now`.
    pub fn new(profile: &'static Profile, now: Instant) -> Self {
        Self {
            profile,
            turn: Turn::Unknown,
            dialog: None,
            reading: Reading::default(),
            first_prompt: None,
            title_is_busy: false,
            takes_paste: false,
            shows_cursor: true,
            last_output: now,
            last_key: None,
            draft: Draft::default(),
            is_suspended: false,
            executes: None,
            uses_vim: false,
        }
    }

    /// The profile that rules here.
    pub fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// The program wrote something; what its modes are then.
    pub fn output(&mut self, modes: &super::modes::Modes, now: Instant) {
        self.last_output = now;
        self.takes_paste = modes.takes_paste();
        self.shows_cursor = modes.shows_cursor();
        let first = modes.title().and_then(|title| title.chars().next());
        self.title_is_busy = first.is_some_and(|first| self.profile.busy_titles.contains(&first));
    }

    /// The screen as it is drawn now.
    pub fn screen(&mut self, reading: Reading, now: Instant) {
        let has_prompt = !matches!(reading.input, Input::Absent);
        if has_prompt {
            self.first_prompt.get_or_insert(now);
        }
        if let Some(open) = &mut self.dialog {
            let is_over = has_prompt && (open.was_drawn || now >= open.since + DIALOG_UNSEEN);
            open.was_drawn |= !has_prompt;
            if is_over {
                // Escape at a dialog ends the turn and no hook says so.
                self.dialog = None;
                self.turn = Turn::Busy { is_touched: true };
            }
        }
        if reading.input == Input::Empty && self.hands_are_idle(now) {
            self.draft.clear();
        }
        self.uses_vim |= reading.vim == Vim::Insert;
        self.reading = reading;
    }

    /// A person pressed something.
    pub fn press(&mut self, press: Press, now: Instant) {
        self.last_key = Some(now);
        self.draft.press(press);
        if let Turn::Busy { is_touched } = &mut self.turn {
            *is_touched = true;
        }
    }

    /// A hook spoke.
    pub fn event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::SessionStart | Event::TurnEnded => {
                self.turn = Turn::Idle;
                self.dialog = None;
            }
            Event::PromptSubmitted(_) => {
                self.turn = Turn::Busy { is_touched: false };
                self.dialog = None;
                self.draft.clear();
            }
            Event::ToolStarted => self.turn = Turn::Busy { is_touched: false },
            Event::ToolEnded => {
                self.turn = Turn::Busy { is_touched: false };
                self.dialog = None;
            }
            Event::PermissionAsked(tool) => {
                self.turn = Turn::Busy { is_touched: false };
                self.dialog = Some(OpenDialog {
                    name: tool.clone(),
                    since: now,
                    was_drawn: false,
                });
            }
            Event::SessionEnd => self.turn = Turn::Unknown,
        }
    }

    /// A signal stopped the program.
    pub fn suspend(&mut self) {
        self.is_suspended = true;
    }

    /// The program runs again.
    pub fn resume(&mut self) {
        self.is_suspended = false;
    }

    /// What the terminal's foreground runs was looked at: what executes its input there.
    pub fn foreground(&mut self, executes: Option<String>, now: Instant) {
        self.executes = executes.map(|program| (program, now));
    }

    /// Whether a line could be typed now, were it not for what the foreground runs, and that is to
    /// be looked at.
    pub fn asks_for_foreground(&self, now: Instant) -> bool {
        let is_old = |(_, seen): &(String, Instant)| now >= *seen + FOREGROUND_AGAIN;
        self.executes.as_ref().is_none_or(is_old) && self.verdict_of_agent(now) == Verdict::Free
    }

    /// Pasted text is marked as such for this program.
    pub fn takes_paste(&self) -> bool {
        self.takes_paste
    }

    /// When the program last wrote.
    pub fn last_output(&self) -> Instant {
        self.last_output
    }

    /// What the box showed when last looked at.
    pub fn input(&self) -> &Input {
        &self.reading.input
    }

    /// A turn runs as far as any source can tell.
    pub fn is_busy(&self) -> bool {
        self.title_is_busy
            || self.reading.shows_busy
            || matches!(self.turn, Turn::Busy { is_touched: false })
    }

    /// Something is open that takes Enter for an answer, or a key for a command.
    pub fn obstacle(&self) -> Option<Hold> {
        let executes = self.executes.as_ref();
        self.suspension()
            .or_else(|| executes.map(|(program, _)| Hold::Executes(program.clone())))
            .or_else(|| self.obstacle_of_agent())
    }

    fn suspension(&self) -> Option<Hold> {
        self.is_suspended.then_some(Hold::Suspended)
    }

    fn obstacle_of_agent(&self) -> Option<Hold> {
        if let Some(open) = &self.dialog {
            return Some(Hold::Dialog(open.name.clone()));
        }
        if let Some(name) = &self.reading.dialog {
            return Some(Hold::Dialog(name.clone()));
        }
        match self.reading.input {
            Input::Shell => Some(Hold::ShellMode),
            Input::Command => Some(Hold::VimNormal),
            Input::Absent if self.profile.knows_its_prompt() => Some(Hold::UnknownScreen),
            Input::Absent | Input::Empty | Input::Holds(_) => None,
        }
    }

    /// Hooks never came though the prompt is there: the screen alone decides.
    pub fn is_screen_only(&self, now: Instant) -> bool {
        !self.profile.has_hooks
            || (self.turn == Turn::Unknown
                && self
                    .first_prompt
                    .is_some_and(|first| now >= first + HOOKS_LATE))
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
            (verdict, _) => verdict,
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
        if !self.is_suspended && (!self.takes_paste || (has_hooks && self.turn == Turn::Unknown)) {
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
        if self.is_busy() {
            return Verdict::Hold(Hold::Busy, None);
        }
        if matches!(self.reading.input, Input::Holds(_)) {
            return Verdict::Hold(Hold::Draft, None);
        }
        if self.uses_vim && self.reading.vim == Vim::Plain {
            return Verdict::Hold(Hold::VimNormal, None);
        }
        let pace = self.profile.pace;
        if let Some(free) = self
            .last_key
            .map(|key| key + pace.idle_hands)
            .filter(|&free| free > now)
        {
            return Verdict::Hold(Hold::Draft, Some(free));
        }
        // A turn that a person may have ended, and a session without hooks, count as ended only after a pause.
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
        if self.is_busy() {
            return Verdict::Hold(Hold::Busy, None);
        }
        let pace = self.profile.pace;
        if self.has_draft() {
            return Verdict::Hold(Hold::Draft, None);
        }
        if self.profile.line.is_some() && self.reading.input == Input::Absent {
            // A program that writes is at work; one that is silent shows something that nobody described.
            return match self.quiet(pace.quiet_before_text, now) {
                Verdict::Free => Verdict::Hold(Hold::UnknownScreen, None),
                moving @ Verdict::Hold(..) => moving,
            };
        }
        if let Some(free) = self
            .last_key
            .map(|key| key + pace.idle_hands)
            .filter(|&free| free > now)
        {
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

    /// What the screen shows of the input counts more than what the keys suggest, once it was drawn after them.
    fn has_draft(&self) -> bool {
        match self.reading.input {
            Input::Holds(_) => true,
            Input::Empty => {
                self.draft.is_present() && self.last_key.is_some_and(|key| key > self.last_output)
            }
            Input::Absent | Input::Shell | Input::Command => self.draft.is_present(),
        }
    }

    fn hands_are_idle(&self, now: Instant) -> bool {
        self.last_key
            .is_none_or(|key| now >= key + self.profile.pace.idle_hands)
    }
}
