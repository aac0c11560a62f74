//! Tests of the delivery rules; each fails if its rule is removed. The tests set the time.

#![allow(clippy::unwrap_used)]

mod enter;
mod exposed;
mod holds;
mod lost;
mod opening;
mod proofs;
mod queued;
mod screen_behind;
mod takes;
mod typing;
mod ways;
mod with_way;

use std::time::{Duration, Instant};

use super::*;
use crate::envelope::Envelope;
use crate::wrap::agent_state::AgentState;
use crate::wrap::agents::history::History;
use crate::wrap::agents::reading::{Input, ScreenReading, Vim};
use crate::wrap::agents::{CLAUDE, Profile};
use crate::wrap::keys::KeyPress;
use crate::wrap::modes::Modes;
use crate::wrap::own_status::OwnStatus;

/// An agent's state and its deliveries, whose steps are recorded.
struct Play {
    agent: AgentState,
    deliveries: Deliveries,
    modes: Modes,
    now: Instant,
    /// The recorded steps, without waits.
    steps: Vec<Step>,
    /// Intents are not confirmed as written.
    is_disk_slow: bool,
    /// Nothing tells whether the program reads its input.
    is_hung_up: bool,
    /// What the agent's status file says, if it has one.
    status_file: Option<OwnStatus>,
    /// Where a text is that was to be hidden.
    hidden_in: TextPlace,
    /// Ways keep what they are given, and the agent does not get it.
    are_ways_slow: bool,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Play {
    fn with(profile: &'static Profile, mode: DeliveryMode) -> Self {
        let now = Instant::now();
        let mut play = Self {
            agent: AgentState::new(profile, now),
            deliveries: Deliveries::new(mode, 10),
            modes: Modes::default(),
            now,
            steps: Vec::new(),
            is_disk_slow: false,
            is_hung_up: false,
            status_file: None,
            hidden_in: TextPlace::HiddenInFile,
            are_ways_slow: false,
        };
        play.output("\x1b[?2004h\x1b]0;\u{2733} Claude Code\x07");
        play
    }

    /// Claude Code with a session at rest.
    fn claude() -> Self {
        Self::claude_by(DeliveryMode::Auto)
    }

    fn claude_by(mode: DeliveryMode) -> Self {
        let mut play = Self::with(&CLAUDE, mode);
        play.event(&HookEvent::SessionStart);
        play.sees(Input::Empty);
        play.passes(ms(3000));
        play
    }

    fn unknown() -> Self {
        Self::quiet("a-program-of-ours")
    }

    /// A program without a box, at rest.
    fn quiet(program: &str) -> Self {
        let profile = Profile::of(program.as_ref(), &[]);
        let mut play = Self::with(profile, DeliveryMode::Keyboard);
        if profile.line.is_some() {
            play.sees(Input::Empty);
        }
        play.passes(ms(5000));
        play
    }

    fn offer(&mut self, text: &str) -> MessageKey {
        let key = self.deliveries.table.next_key();
        let message = message(key, text, self.now);
        self.deliveries.table.insert(key, message);
        self.run();
        key
    }

    fn output(&mut self, bytes: &str) {
        self.modes.read(bytes.as_bytes());
        self.agent.record_output(&self.modes, self.now);
        self.run();
    }

    fn sees(&mut self, input: Input) {
        self.reads(ScreenReading {
            input,
            ..ScreenReading::default()
        });
    }

    /// The screen is redrawn and shows this.
    fn reads(&mut self, reading: ScreenReading) {
        self.agent.record_output(&self.modes, self.now);
        self.agent.record_screen(reading, self.now);
        self.run();
    }

    fn event(&mut self, event: &HookEvent) {
        self.agent.record_event(event, self.now);
        self.deliveries.event(event, self.now);
        self.run();
    }

    /// A turn begins, according to hook and title.
    fn begins(&mut self, prompt: &str) {
        self.output("\x1b]0;\u{2802} Claude Code\x07");
        self.event(&HookEvent::PromptSubmitted(prompt.to_owned()));
    }

    /// The turn ends.
    fn ends(&mut self) {
        self.output("\x1b]0;\u{2733} Claude Code\x07");
        self.event(&HookEvent::TurnEnded);
    }

    fn press(&mut self, press: KeyPress) {
        self.agent.record_press(press, self.now);
        self.run();
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    /// Carries out the steps, with a fast disk and terminal.
    fn run(&mut self) {
        loop {
            if !self.is_hung_up && self.agent.has_read_input() {
                self.agent.record_input_read(Some(true), self.now);
            }
            if self.status_file.is_some()
                && self.deliveries.needs_process_check(&self.agent, self.now)
            {
                self.agent
                    .record_own_status(self.status_file.clone(), self.now);
            }
            let step = self.deliveries.step(&self.agent, self.now);
            match &step {
                Step::Wait(_) => return,
                Step::WriteIntent(_) if self.is_disk_slow => {}
                Step::WriteIntent(_) => self.deliveries.intent_written(),
                Step::Type(..) | Step::Write(_) => self.deliveries.written(self.now),
                Step::MoveToFile(key) => {
                    let line = "[cbroker peer message] it is in a file [end]".to_owned();
                    let lines = (line.clone(), line);
                    self.deliveries.moved_to_file(*key, lines, TextPlace::File);
                }
                Step::HideInFile(key) => {
                    let line = format!("[cbroker peer message] {:?} [end]", self.hidden_in);
                    let lines = (line.clone(), line);
                    self.deliveries.moved_to_file(*key, lines, self.hidden_in);
                }
                _ => {}
            }
            let given = match &step {
                Step::Deliver(_, submission) if !self.are_ways_slow => Some(submission.number),
                _ => None,
            };
            self.steps.push(step);
            if let Some(number) = given {
                self.deliveries.agent_has(number);
            }
        }
    }

    fn typed(&self) -> Vec<String> {
        self.steps
            .iter()
            .filter_map(|step| match step {
                Step::Type(_, bytes) | Step::Write(bytes) => {
                    Some(String::from_utf8_lossy(bytes).into_owned())
                }
                _ => None,
            })
            .collect()
    }

    fn has_typed(&self) -> bool {
        !self.typed().is_empty()
    }

    fn enters(&self) -> usize {
        self.typed().iter().filter(|bytes| *bytes == "\r").count()
    }

    fn hold(&self) -> Option<Hold> {
        self.deliveries.first_hold(&self.agent, self.now)
    }

    /// The box shows the text, and the output is quiet.
    fn shows_text(&mut self) {
        let text = self.last_text();
        self.sees(Input::Holds(text));
        self.passes(ms(60));
    }

    /// The text that was pasted last, as a box shows it.
    fn last_text(&self) -> String {
        let typed = self.typed();
        let text = typed.iter().rfind(|bytes| *bytes != "\r").cloned();
        let text = text.unwrap_or_default();
        text.replace("\x1b[200~", "").replace("\x1b[201~", "")
    }

    fn turn(&mut self, id: &str) {
        self.event(&HookEvent::PromptSubmitted(format!(
            "[cbroker peer message from=a id={id}] x [end]"
        )));
    }

    fn did(&self, step: &Step) -> bool {
        self.steps.contains(step)
    }
}

/// A queued message.
fn message(key: MessageKey, text: &str, now: Instant) -> InFlightMessage {
    let body = serde_json::json!({
        "id": format!("m{}", key.0), "from": "a", "to": "b", "message": text,
        "ts": "2026-01-01T00:00:00.000Z",
    });
    let envelope = Envelope::parse(body.to_string().as_bytes(), 1 << 20).unwrap();
    let line = format!("[cbroker peer message from=a id=m{}] {text} [end]", key.0);
    let mut message = InFlightMessage::new(envelope, None, now);
    message.repeat_line = line.replace("] ", "] (possible repeat) ");
    message.line = line;
    message.state = DeliveryState::Queued;
    message
}

fn holds(text: &str) -> Input {
    Input::Holds(text.to_owned())
}
