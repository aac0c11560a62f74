//! The agent's current state, as seen in its hooks, its plugin, its screen and the person's keys.
//! Pure: no clock, no terminal.
//!
//! It answers three questions. [`AgentState::verdict`]: may a line be typed now? That needs proof
//! that the main prompt has the focus and is empty (docs/delivery.md, "focus check"); when
//! uncertain, do not type. [`AgentState::obstacle`]: is something open that would take Enter for an
//! answer? [`AgentState::condition`]: what does the agent do, as `cbroker list` shows it?
//!
//! Relies on the profile and on the reading of the screen.

mod person;
mod turn;
mod verdict;

use std::time::{Duration, Instant};

use super::agents::Profile;
use super::agents::history::History;
use super::agents::reading::{Input, ScreenReading, Vim};
use super::hold::Hold;
use super::keys::KeyPress;
use super::own_status::OwnStatus;
use super::ways::AgentSign;

use person::PersonTyping;
use turn::{Turn, TurnSource};
pub use verdict::Verdict;

/// If no hook has reported this long after the prompt was drawn, none is expected.
const HOOKS_LATE: Duration = Duration::from_secs(10);
/// Minimum time without output if only the screen shows the agent's state.
const SCREEN_ONLY_QUIET: Duration = Duration::from_millis(1500);
/// A permission event whose dialog was never drawn is discarded after this.
const DIALOG_UNSEEN: Duration = Duration::from_secs(5);
/// A frame that the program does not finish counts as finished after this time without output.
const UNFINISHED_FRAME: Duration = Duration::from_secs(1);

/// An event of the agent's hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookEvent {
    /// A session began or was resumed.
    SessionStart,
    /// This prompt was submitted.
    PromptSubmitted(String),
    /// A tool call began.
    ToolStarted,
    /// A tool call ended.
    ToolEnded,
    /// A permission dialog for this tool opens.
    PermissionAsked(String),
    /// The turn ended, successfully or not.
    TurnEnded,
    /// The session ended.
    SessionEnd,
}

/// What the agent does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is not ready yet.
    Starting,
    /// It waits for a prompt.
    Idle,
    /// A turn runs.
    Busy,
    /// It waits for the person's answer to this.
    NeedsYou(String),
    /// It waits for a prompt, and its input holds a person's text.
    Draft,
}

#[derive(Clone, Debug)]
struct OpenDialog {
    name: String,
    since: Instant,
    was_drawn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Title {
    /// No title was seen yet.
    Unknown,
    Idle,
    Busy,
    /// The title of another view.
    Other,
}

/// The state of one agent.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent observation"
)]
pub struct AgentState {
    profile: &'static Profile,
    turn: Turn,
    dialog: Option<OpenDialog>,
    menu: Option<String>,
    reading: ScreenReading,
    first_prompt: Option<Instant>,
    title: Title,
    takes_paste: bool,
    shows_cursor: bool,
    last_output: Instant,
    /// Whether the last output ended within a frame.
    is_within_frame: bool,
    /// Whether the last reading of the screen lacks output.
    is_screen_behind: bool,
    person: PersonTyping,
    is_suspended: bool,
    /// The foreground program that executes its input, and when it was seen.
    executes: Option<(String, Instant)>,
    /// The content of the agent's status file, and when it was read.
    own_status: Option<(OwnStatus, Instant)>,
    /// Whether vim's INSERT mode was seen: without its footer, keys are commands.
    uses_vim: bool,
    /// Whether a way in reports the agent's state. Its events are exact, and hooks are not needed.
    has_reporting_way: bool,
    /// Whether the person pressed Escape and has sent nothing since.
    is_escaped: bool,
    /// Whether the agent's arguments disable hooks.
    runs_no_hooks: bool,
}

impl AgentState {
    /// Creates the state of a program that started at `now`.
    pub fn new(profile: &'static Profile, now: Instant) -> Self {
        Self {
            profile,
            turn: Turn::Unknown,
            dialog: None,
            menu: None,
            reading: ScreenReading::default(),
            first_prompt: None,
            title: Title::Unknown,
            takes_paste: false,
            shows_cursor: true,
            last_output: now,
            is_within_frame: false,
            is_screen_behind: false,
            person: PersonTyping::default(),
            is_suspended: false,
            executes: None,
            own_status: None,
            uses_vim: false,
            has_reporting_way: false,
            is_escaped: false,
            runs_no_hooks: false,
        }
    }

    /// Records that the agent's arguments disable hooks.
    pub fn disable_hooks(&mut self) {
        self.runs_no_hooks = true;
    }

    /// The profile of the agent.
    pub fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// Records output of the program, after which `modes` are in effect.
    pub fn record_output(&mut self, modes: &super::modes::Modes, now: Instant) {
        self.last_output = now;
        self.is_within_frame = modes.is_within_frame();
        self.takes_paste = modes.takes_paste();
        self.shows_cursor = modes.shows_cursor();
        let title = modes.title().filter(|title| !title.is_empty());
        if let Some(first) = title.and_then(|title| title.chars().next()) {
            self.title = if self.profile.busy_titles.contains(&first) {
                Title::Busy
            } else if self.profile.idle_title.is_none_or(|idle| idle == first) {
                Title::Idle
            } else {
                Title::Other
            };
        }
    }

    /// Records whether the program has read all of its input; `None` if the system does not tell.
    pub fn record_input_read(&mut self, is_read: Option<bool>, now: Instant) {
        self.person.record_input_read(is_read, now);
    }

    /// Records a reading of the screen.
    pub fn record_screen(&mut self, reading: ScreenReading, now: Instant) {
        let has_prompt = !matches!(reading.input, Input::Absent);
        if has_prompt {
            self.first_prompt.get_or_insert(now);
        }
        if let Some(open) = &mut self.dialog {
            let is_over = has_prompt && (open.was_drawn || now >= open.since + DIALOG_UNSEEN);
            open.was_drawn |= !has_prompt;
            if is_over {
                // Escape at a dialog ends the turn without a hook.
                self.dialog = None;
                self.turn = Turn::MayBeOver;
            }
        }
        let pause = self.profile.pace.idle_hands;
        self.person
            .record_box(&reading.input, self.last_output, now, pause);
        self.uses_vim |= reading.vim == Vim::Insert;
        self.reading = reading;
    }

    /// Records whether the last reading of the screen lacks output that the program has written.
    pub fn set_screen_behind(&mut self, is_behind: bool) {
        self.is_screen_behind = is_behind;
    }

    /// Checks that the last reading of the screen shows what the program shows, so that a key goes
    /// where it seems to. `Err` holds when to check again if no output comes.
    pub fn check_screen(&self, now: Instant) -> Result<(), Option<Instant>> {
        if self.is_screen_behind {
            return Err(None);
        }
        let finished = self.last_output + UNFINISHED_FRAME;
        if self.is_within_frame && now < finished {
            return Err(Some(finished));
        }
        Ok(())
    }

    /// Records a key of the person.
    pub fn record_press(&mut self, press: KeyPress, now: Instant) {
        self.person.press(press, now);
        if let Turn::Busy(_) = self.turn {
            self.turn = Turn::MayBeOver;
        }
    }

    /// Records whether a way in reports the agent's state. Without one nothing reports that a menu
    /// was closed, and only a hook may report the end of a turn.
    pub fn set_way_reports(&mut self, reports: bool) {
        self.has_reporting_way = reports;
        if !reports {
            self.menu = None;
            if let Turn::Busy(source) = &mut self.turn {
                *source = TurnSource::Hooks;
            }
        }
    }

    /// Records an event of a hook.
    pub fn record_event(&mut self, event: &HookEvent, now: Instant) {
        if let HookEvent::PromptSubmitted(_) = event {
            self.person.submitted();
        }
        // A way in reports the same events earlier; a late hook could report a turn that has
        // already ended.
        let is_known = self.has_reporting_way && self.turn != Turn::Unknown;
        if is_known && !matches!(event, HookEvent::PermissionAsked(_)) {
            return;
        }
        match event {
            HookEvent::SessionStart | HookEvent::TurnEnded => self.turn_ended(),
            HookEvent::PromptSubmitted(_) | HookEvent::ToolEnded => {
                self.turn_began(TurnSource::Hooks);
            }
            HookEvent::ToolStarted => self.turn = Turn::Busy(TurnSource::Hooks),
            HookEvent::PermissionAsked(tool) => self.dialog_opened(tool, now),
            HookEvent::SessionEnd => self.turn = Turn::Unknown,
        }
    }

    /// Records a change of the agent's state that a way in saw.
    pub fn record_sign(&mut self, sign: &AgentSign, now: Instant) {
        self.has_reporting_way = true;
        match sign {
            AgentSign::TurnBegan => self.turn_began(TurnSource::WayIn),
            AgentSign::TurnEnded => self.turn_ended(),
            AgentSign::PersonSpoke => {
                self.is_escaped = false;
                self.menu = None;
                self.person.submitted();
            }
            AgentSign::Escaped => {
                self.is_escaped = true;
                self.turn_ended();
            }
            AgentSign::Asks(tool) => self.dialog_opened(tool, now),
            AgentSign::Answered => self.dialog = None,
            AgentSign::Menu(name) => self.menu = Some(name.clone()),
            AgentSign::MenuClosed => self.menu = None,
            AgentSign::Draft(_) | AgentSign::Transcript(_) => {}
        }
    }

    fn turn_began(&mut self, source: TurnSource) {
        self.turn = Turn::Busy(source);
        self.dialog = None;
        self.is_escaped = false;
    }

    fn turn_ended(&mut self) {
        self.turn = Turn::Idle;
        self.dialog = None;
    }

    fn dialog_opened(&mut self, tool: &str, now: Instant) {
        // A way in also reports the end of a turn whose dialog a hook reported.
        self.turn = Turn::Busy(if self.has_reporting_way {
            TurnSource::WayIn
        } else {
            TurnSource::Hooks
        });
        let name = match tool {
            "" => "permission".to_owned(),
            tool => format!("permission for {tool}"),
        };
        self.dialog = Some(OpenDialog {
            name,
            since: now,
            // The hook may report after the dialog was drawn, and it is not drawn again then.
            was_drawn: self.reading.dialog.is_some(),
        });
    }

    /// When the prompt was first drawn.
    pub fn first_prompt(&self) -> Option<Instant> {
        self.first_prompt
    }

    /// Records that a signal stopped the program.
    pub fn suspend(&mut self) {
        self.is_suspended = true;
    }

    /// Records that the program continues.
    pub fn resume(&mut self) {
        self.is_suspended = false;
    }

    /// Records the foreground program that executes its input, if any.
    pub fn record_foreground(&mut self, executes: Option<String>, now: Instant) {
        self.executes = executes.map(|program| (program, now));
    }

    /// Records the status in the agent's status file; `None` if there is none.
    pub fn record_own_status(&mut self, status: Option<OwnStatus>, now: Instant) {
        self.own_status = status.map(|status| (status, now));
    }

    /// Whether a signal has stopped the program.
    pub fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    /// Whether the person pressed Escape and has sent nothing since.
    pub fn is_escaped(&self) -> bool {
        self.is_escaped
    }

    /// Whether the program has enabled bracketed paste.
    pub fn takes_paste(&self) -> bool {
        self.takes_paste
    }

    /// When the program last wrote output.
    pub fn last_output(&self) -> Instant {
        self.last_output
    }

    /// Whether the program has read all of its input, as far as the system tells.
    pub fn has_read_input(&self) -> bool {
        self.person.has_read()
    }

    /// Whether the program has read all of its input, and this was checked at `written` or later.
    pub fn has_read_since(&self, written: Instant) -> bool {
        self.person.has_read_since(written)
    }

    /// The input in the last reading of the screen.
    pub fn input(&self) -> &Input {
        &self.reading.input
    }

    /// The history above the line of an agent without a box.
    pub fn history(&self) -> &History {
        &self.reading.history
    }

    /// Whether the history continues after a text of these letters and digits, so the agent has
    /// begun to answer it. `false` if the line is not recognized, since the rows below the text may
    /// be the line itself.
    pub fn history_has_text_after(&self, letters: &str) -> bool {
        self.reading.input != Input::Absent && self.reading.history.has_text_after(letters)
    }

    /// Whether the agent shows that an entered text waits and the model has not read it.
    pub fn shows_waiting(&self) -> bool {
        self.reading.shows_waiting
    }

    /// Whether the box is scrolled and shows only the end of its text.
    pub fn input_is_scrolled(&self) -> bool {
        self.reading.is_scrolled
    }

    /// Whether any source shows that a turn runs.
    pub fn is_busy(&self, now: Instant) -> bool {
        self.title == Title::Busy
            || self.reading.shows_busy
            || self.reading.shows_waiting
            || self.turn == Turn::Busy(TurnSource::WayIn)
            || (self.turn == Turn::Busy(TurnSource::Hooks) && !self.looks_idle(now))
    }

    /// Whether everything that is drawn shows an idle agent although the hooks reported a turn: a
    /// hook of the person refused the prompt, or Escape ended the turn.
    fn looks_idle(&self, now: Instant) -> bool {
        self.title == Title::Idle
            && self.profile.idle_title.is_some()
            && self.dialog.is_none()
            && !self.reading.shows_busy
            && !matches!(self.reading.input, Input::Absent)
            && now >= self.last_output + SCREEN_ONLY_QUIET
    }

    /// The reason why keys must not be pressed: something is open that takes Enter for an answer or
    /// a key for a command, or nothing proves that the main prompt has the focus.
    pub fn obstacle(&self) -> Option<Hold> {
        let executes = self.executes.as_ref();
        self.suspension()
            .or_else(|| executes.map(|(program, _)| Hold::Executes(program.clone())))
            .or_else(|| self.agent_obstacle())
            .or_else(|| self.waits_for_person())
    }

    /// The reason if the status file says that the agent waits for the person, perhaps at a dialog
    /// that is not drawn yet.
    fn waits_for_person(&self) -> Option<Hold> {
        match &self.own_status {
            Some((status @ OwnStatus::Waiting(_), _)) => status.hold(),
            _ => None,
        }
    }

    fn suspension(&self) -> Option<Hold> {
        self.is_suspended.then_some(Hold::Suspended)
    }

    fn agent_obstacle(&self) -> Option<Hold> {
        if let Some(question) = self.question() {
            return Some(Hold::Dialog(question));
        }
        match self.reading.input {
            Input::Shell => return Some(Hold::ShellMode),
            Input::Command => return Some(Hold::VimNormal),
            Input::Absent if self.profile.knows_its_prompt() => return Some(Hold::UnknownScreen),
            Input::Absent | Input::Empty | Input::Holds(_) => {}
        }
        (self.title == Title::Other).then_some(Hold::UnknownScreen)
    }

    /// The question to the person, or the view that the person opened.
    fn question(&self) -> Option<String> {
        let open = self.dialog.as_ref().map(|open| &open.name);
        open.or(self.reading.dialog.as_ref())
            .or(self.menu.as_ref())
            .cloned()
    }

    /// Whether the agent has no hooks, or none reported although the prompt is drawn, so that only
    /// the screen is used.
    pub fn is_screen_only(&self, now: Instant) -> bool {
        !self.profile.has_hooks
            || self.runs_no_hooks
            || (self.turn == Turn::Unknown
                && self
                    .first_prompt
                    .is_some_and(|first| now >= first + HOOKS_LATE))
    }

    /// What the agent does.
    pub fn condition(&self, now: Instant) -> Condition {
        if let Some(question) = self.question() {
            return Condition::NeedsYou(question);
        }
        let knows = self.profile.knows_its_prompt();
        if knows && self.first_prompt.is_none() && self.turn == Turn::Unknown {
            return Condition::Starting;
        }
        if self.is_busy(now) {
            return Condition::Busy;
        }
        let is_drawn = knows || self.profile.line.is_some();
        if matches!(self.reading.input, Input::Holds(_)) || (!is_drawn && self.person.has_draft()) {
            return Condition::Draft;
        }
        if knows && matches!(self.reading.input, Input::Absent) && self.first_prompt.is_some() {
            return Condition::NeedsYou("an unknown screen".to_owned());
        }
        Condition::Idle
    }
}
