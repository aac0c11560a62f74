//! What is known of the agent now, from its hooks, its plugin, its screen and the person's keys.
//! Pure: no clock, no terminal.
//!
//! Three questions are answered. [`AgentState::verdict`]: may a line be typed now? That needs proof
//! that the main prompt has the focus and is empty (docs/delivery.md, "focus proof"); when
//! uncertain, do not type. [`AgentState::obstacle`]: is something open that would take Enter for an
//! answer? [`AgentState::condition`]: what does the agent do, in the words of `cbroker list`?
//!
//! Relies on the profile and the reading of the screen.

mod person;
mod verdict;

use std::time::{Duration, Instant};

use super::agents::Profile;
use super::agents::history::History;
use super::agents::reading::{Input, Reading, Vim};
use super::hold::Hold;
use super::keys::Press;
use super::own_status::OwnStatus;
use super::ways::Sign;

use person::Person;
pub use verdict::Verdict;

/// No hook so long after the prompt was drawn means that none will come.
const HOOKS_LATE: Duration = Duration::from_secs(10);
/// What must pass without output where only the screen speaks.
const SCREEN_ONLY_QUIET: Duration = Duration::from_millis(1500);
/// A permission event whose dialog was never drawn is taken back after this.
const DIALOG_UNSEEN: Duration = Duration::from_secs(5);

/// What the agent's hooks report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookEvent {
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

/// What the agent does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is not ready yet.
    Starting,
    /// It waits for a prompt.
    Idle,
    /// A turn runs.
    Busy,
    /// It waits for an answer of the person: to what.
    NeedsYou(String),
    /// It waits for a prompt, and a person's text stands in its box.
    Draft,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Title {
    /// None was seen yet.
    Never,
    Idle,
    Busy,
    /// A title of neither: another view.
    Other,
}

/// Everything that bears on these questions.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing seen, true or not by itself"
)]
pub struct AgentState {
    profile: &'static Profile,
    turn: Turn,
    dialog: Option<OpenDialog>,
    menu: Option<String>,
    reading: Reading,
    first_prompt: Option<Instant>,
    title: Title,
    takes_paste: bool,
    shows_cursor: bool,
    last_output: Instant,
    person: Person,
    is_suspended: bool,
    /// What executes its input in the terminal's foreground, and when it was seen there.
    executes: Option<(String, Instant)>,
    /// What the agent's process says of itself, and when it was asked.
    own_status: Option<(OwnStatus, Instant)>,
    /// INSERT mode was seen: without its mark, keys are commands.
    uses_vim: bool,
    /// The plugin reports: its events are exact, and no hook is waited for.
    has_plugin: bool,
    /// The person pressed Escape and has sent nothing since.
    is_stopped: bool,
    /// Its arguments keep the agent from running hooks.
    runs_no_hooks: bool,
}

impl AgentState {
    /// Nothing is known yet of the program that started at `now`.
    pub fn new(profile: &'static Profile, now: Instant) -> Self {
        Self {
            profile,
            turn: Turn::Unknown,
            dialog: None,
            menu: None,
            reading: Reading::default(),
            first_prompt: None,
            title: Title::Never,
            takes_paste: false,
            shows_cursor: true,
            last_output: now,
            person: Person::default(),
            is_suspended: false,
            executes: None,
            own_status: None,
            uses_vim: false,
            has_plugin: false,
            is_stopped: false,
            runs_no_hooks: false,
        }
    }

    /// The arguments keep the agent from running hooks: none is waited for.
    pub fn runs_no_hooks(&mut self) {
        self.runs_no_hooks = true;
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

    /// Whether the program has read all that was written to it, where the system tells.
    pub fn input_is_read(&mut self, is_read: Option<bool>, now: Instant) {
        self.person.input_is_read(is_read, now);
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
        let hands = self.profile.pace.idle_hands;
        self.person
            .box_shows(&reading.input, self.last_output, now, hands);
        self.uses_vim |= reading.vim == Vim::Insert;
        self.reading = reading;
    }

    /// A person pressed something.
    pub fn press(&mut self, press: Press, now: Instant) {
        self.person.press(press, now);
        if let Turn::Busy { is_touched } = &mut self.turn {
            *is_touched = true;
        }
    }

    /// Whether the plugin reports what the agent does.
    pub fn plugin_reports(&mut self, reports: bool) {
        self.has_plugin = reports;
    }

    /// A hook spoke.
    pub fn event(&mut self, event: &HookEvent, now: Instant) {
        if let HookEvent::PromptSubmitted(_) = event {
            self.person.submitted();
        }
        // The plugin says the same, and sooner: a hook that is heard late would tell of a turn that
        // has ended.
        let is_known = self.has_plugin && self.turn != Turn::Unknown;
        if is_known && !matches!(event, HookEvent::PermissionAsked(_)) {
            return;
        }
        match event {
            HookEvent::SessionStart | HookEvent::TurnEnded => self.turn_ended(),
            HookEvent::PromptSubmitted(_) | HookEvent::ToolEnded => self.turn_began(),
            HookEvent::ToolStarted => self.turn = Turn::Busy { is_touched: false },
            HookEvent::PermissionAsked(tool) => self.asked(tool, now),
            HookEvent::SessionEnd => self.turn = Turn::Unknown,
        }
    }

    /// A way in saw something in the agent.
    pub fn sign(&mut self, sign: &Sign, now: Instant) {
        self.has_plugin = true;
        match sign {
            Sign::TurnBegan => self.turn_began(),
            Sign::TurnEnded => self.turn_ended(),
            Sign::PersonSpoke => {
                self.is_stopped = false;
                self.person.submitted();
            }
            Sign::Stopped => {
                self.is_stopped = true;
                self.turn_ended();
            }
            Sign::Asks(tool) => self.asked(tool, now),
            Sign::Answered => self.dialog = None,
            Sign::Menu(name) => self.menu = Some(name.clone()),
            Sign::MenuClosed => self.menu = None,
            Sign::Draft(_) | Sign::Transcript(_) => {}
        }
    }

    fn turn_began(&mut self) {
        self.turn = Turn::Busy { is_touched: false };
        self.dialog = None;
        self.is_stopped = false;
    }

    fn turn_ended(&mut self) {
        self.turn = Turn::Idle;
        self.dialog = None;
    }

    fn asked(&mut self, tool: &str, now: Instant) {
        self.turn = Turn::Busy { is_touched: false };
        let name = match tool {
            "" => "permission".to_owned(),
            tool => format!("permission for {tool}"),
        };
        self.dialog = Some(OpenDialog {
            name,
            since: now,
            // Its hook may be heard after it was drawn, and nothing is drawn again then.
            was_drawn: self.reading.dialog.is_some(),
        });
    }

    /// When the prompt was drawn first.
    pub fn first_prompt(&self) -> Option<Instant> {
        self.first_prompt
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

    /// The agent's process says this of itself; `None`: nothing.
    pub fn own_status(&mut self, status: Option<OwnStatus>, now: Instant) {
        self.own_status = status.map(|status| (status, now));
    }

    /// A signal stopped the program.
    pub fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    /// The person pressed Escape and has sent nothing since.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Pasted text is marked as such for this program.
    pub fn takes_paste(&self) -> bool {
        self.takes_paste
    }

    /// When the program last wrote.
    pub fn last_output(&self) -> Instant {
        self.last_output
    }

    /// The program has read all that was written to it, as far as the system tells.
    pub fn has_read_input(&self) -> bool {
        self.person.has_read()
    }

    /// What the box showed when last looked at.
    pub fn input(&self) -> &Input {
        &self.reading.input
    }

    /// What an agent without a box shows above its line.
    pub fn history(&self) -> &History {
        &self.reading.history
    }

    /// Something stands between this text and the line: the agent has begun to answer it. Where the
    /// line is not seen, what stands below may be the line itself.
    pub fn history_goes_on_after(&self, letters: &str) -> bool {
        self.reading.input != Input::Absent && self.reading.history.goes_on_after(letters)
    }

    /// The agent shows that what was entered waits: the model has not read it.
    pub fn shows_waiting(&self) -> bool {
        self.reading.shows_waiting
    }

    /// The box shows only the end of what it holds.
    pub fn input_is_scrolled(&self) -> bool {
        self.reading.is_scrolled
    }

    /// A turn runs as far as any source can tell.
    pub fn is_busy(&self, now: Instant) -> bool {
        self.title == Title::Busy
            || self.reading.shows_busy
            || self.reading.shows_waiting
            || (matches!(self.turn, Turn::Busy { is_touched: false }) && !self.looks_idle(now))
    }

    /// The hooks say busy, and everything that is drawn says idle: a hook of the person's refused
    /// the prompt, or Escape ended the turn.
    fn looks_idle(&self, now: Instant) -> bool {
        self.title == Title::Idle
            && self.profile.idle_title.is_some()
            && !self.has_plugin
            && self.dialog.is_none()
            && !self.reading.shows_busy
            && !matches!(self.reading.input, Input::Absent)
            && now >= self.last_output + SCREEN_ONLY_QUIET
    }

    /// Something is open that takes Enter for an answer, or a key for a command; or the main prompt
    /// cannot be shown to have the focus.
    pub fn obstacle(&self) -> Option<Hold> {
        let executes = self.executes.as_ref();
        self.suspension()
            .or_else(|| executes.map(|(program, _)| Hold::Executes(program.clone())))
            .or_else(|| self.obstacle_of_agent())
            .or_else(|| self.waits_for_person())
    }

    /// The process says that it waits for the person, perhaps for a dialog that is not drawn yet.
    fn waits_for_person(&self) -> Option<Hold> {
        match &self.own_status {
            Some((status @ OwnStatus::Waiting(_), _)) => status.hold(),
            _ => None,
        }
    }

    fn suspension(&self) -> Option<Hold> {
        self.is_suspended.then_some(Hold::Suspended)
    }

    fn obstacle_of_agent(&self) -> Option<Hold> {
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

    /// What a person is asked, or the view that a person opened.
    fn question(&self) -> Option<String> {
        let open = self.dialog.as_ref().map(|open| &open.name);
        open.or(self.reading.dialog.as_ref())
            .or(self.menu.as_ref())
            .cloned()
    }

    /// Hooks never came though the prompt is there: the screen alone decides.
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
