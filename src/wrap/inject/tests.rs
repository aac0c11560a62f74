//! Every rule of INJECTION, each with a test that fails when the rule is taken out. Time is moved by hand.

mod enter;
mod holds;
mod hook;

use super::*;
use crate::wrap::agents::reading::{Input, Reading, Vim};
use crate::wrap::agents::{CLAUDE, Profile};
use crate::wrap::keys::Press;
use crate::wrap::modes::Modes;

/// An agent that is told what happens, and an injection whose steps are carried out on paper.
struct Play {
    agent: Attention,
    injection: Injection,
    modes: Modes,
    now: Instant,
    /// What was asked for, but for waiting.
    steps: Vec<Step>,
    last: u64,
    /// What is to be noted is not on disk yet.
    is_disk_slow: bool,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Play {
    fn with(profile: &'static Profile, delivery: Delivery) -> Self {
        let now = Instant::now();
        let mut play = Self {
            agent: Attention::new(profile, now),
            injection: Injection::new(delivery, 10),
            modes: Modes::default(),
            now,
            steps: Vec::new(),
            last: 0,
            is_disk_slow: false,
        };
        play.output("\x1b[?2004h\x1b]0;\u{2733} Claude Code\x07");
        play
    }

    /// Claude, drawn, its session begun, at rest.
    fn claude() -> Self {
        Self::claude_by(Delivery::Auto)
    }

    fn claude_by(delivery: Delivery) -> Self {
        let mut play = Self::with(&CLAUDE, delivery);
        play.event(&Event::SessionStart);
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
        let mut play = Self::with(profile, Delivery::Pty);
        if profile.line.is_some() {
            play.sees(Input::Empty);
        }
        play.passes(ms(5000));
        play
    }

    fn offer(&mut self, text: &str) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let line = format!(
            "[cbroker peer message from=a id=m{}] {text} [end]",
            self.last
        );
        self.injection.offer(Item {
            ticket,
            id: format!("m{}", self.last),
            line_again: line.replace("] ", "] (possible repeat) "),
            line,
            may_repeat: false,
            blocked: None,
        });
        self.run();
        ticket
    }

    fn output(&mut self, bytes: &str) {
        self.modes.read(bytes.as_bytes());
        self.agent.output(&self.modes, self.now);
        self.run();
    }

    fn sees(&mut self, input: Input) {
        self.reads(Reading {
            input,
            ..Reading::default()
        });
    }

    /// The screen was redrawn, and shows this.
    fn reads(&mut self, reading: Reading) {
        self.agent.output(&self.modes, self.now);
        self.agent.screen(reading, self.now);
        self.run();
    }

    fn event(&mut self, event: &Event) {
        self.agent.event(event, self.now);
        self.injection.event(event);
        self.run();
    }

    fn press(&mut self, press: Press) {
        self.agent.press(press, self.now);
        self.run();
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
        self.run();
    }

    /// Carries out steps as the session does; disk and terminal are quick here.
    fn run(&mut self) {
        loop {
            let step = self.injection.step(&self.agent, self.now);
            match &step {
                Step::Wait(_) => return,
                Step::Note(_) if self.is_disk_slow => {}
                Step::Note(_) => self.injection.noted(),
                Step::Write(_) => self.injection.written(self.now),
                _ => {}
            }
            self.steps.push(step);
        }
    }

    fn typed(&self) -> Vec<String> {
        self.steps
            .iter()
            .filter_map(|step| match step {
                Step::Write(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
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
        self.injection.hold()
    }

    /// The text is drawn in the box, and all is quiet.
    fn shows_text(&mut self) {
        self.sees(Input::Holds("[cbroker peer message".to_owned()));
        self.passes(ms(60));
    }

    fn turn(&mut self, id: &str) {
        self.event(&Event::PromptSubmitted(format!(
            "[cbroker peer message from=a id={id}] x [end]"
        )));
    }

    fn did(&self, step: &Step) -> bool {
        self.steps.contains(step)
    }
}

fn holds(text: &str) -> Input {
    Input::Holds(text.to_owned())
}

#[test]
fn at_a_free_prompt_a_message_is_noted_pasted_entered_and_begun_in_that_order() {
    let mut play = Play::claude();
    let ticket = play.offer("hello");
    play.shows_text();
    play.turn("m1");
    let all = vec![ticket];
    assert_eq!(
        play.steps,
        [
            Step::Note(all.clone()),
            Step::Write(
                b"\x1b[200~[cbroker peer message from=a id=m1] hello [end]\x1b[201~".to_vec()
            ),
            Step::Write(b"\r".to_vec()),
            Step::Entered(all.clone()),
            Step::Begun(all),
        ]
    );
}

#[test]
fn rule_1_a_dialog_holds_whatever_tells_of_it() {
    let mut play = Play::claude();
    play.event(&Event::PermissionAsked("Bash".into()));
    play.offer("by the hook");
    assert_eq!(play.hold(), Some(Hold::Dialog("Bash".into())));
    let mut play = Play::claude();
    play.reads(Reading {
        dialog: Some("menu".into()),
        ..Reading::default()
    });
    play.offer("by the screen");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Dialog("menu".into())));
    assert!(!play.has_typed());
}

#[test]
fn rule_1_a_screen_without_the_prompt_holds() {
    let mut play = Play::claude();
    play.sees(Input::Absent);
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::UnknownScreen));
    assert!(!play.has_typed());
}

#[test]
fn rule_1_a_title_that_says_busy_holds_though_the_last_hook_was_stop() {
    let mut play = Play::claude();
    play.output("\x1b]0;\u{2802} Claude Code\x07");
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Busy));
    assert!(!play.has_typed());
}

#[test]
fn rule_2_a_running_turn_holds_until_it_ends() {
    let mut play = Play::claude();
    play.event(&Event::PromptSubmitted("something else".into()));
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Busy));
    assert!(!play.has_typed());
    play.event(&Event::TurnEnded);
    play.passes(ms(60));
    assert!(play.has_typed());
}

#[test]
fn rule_2_keys_pressed_between_text_and_enter_come_after_the_enter_in_order() {
    let mut play = Play::claude();
    play.offer("x");
    assert_eq!(play.injection.keys(b"ab", play.now), None);
    assert_eq!(play.injection.keys(b"\x1b[Ic", play.now), None);
    play.shows_text();
    play.turn("m1");
    assert_eq!(
        play.steps.last(),
        Some(&Step::Replay(b"ab\x1b[Ic".to_vec()))
    );
    assert_eq!(play.injection.keys(b"d", play.now), Some(&b"d"[..]));
}

#[test]
fn rule_9_what_the_terminal_reports_is_kept_in_order_and_is_nobodys_typing() {
    // A window that got the focus counted as a person who typed on: slow agents were given up on, and no second Enter came.
    let mut play = Play::claude();
    play.offer("x");
    assert_eq!(play.injection.reports(b"\x1b[I"), None);
    play.passes(ms(3000));
    play.shows_text();
    assert_eq!(play.enters(), 1);
    play.passes(ms(1000));
    assert_eq!(play.enters(), 2);
    play.turn("m1");
    assert_eq!(play.steps.last(), Some(&Step::Replay(b"\x1b[I".to_vec())));
}

#[test]
fn rule_2_keys_are_given_back_when_the_agent_takes_too_long_and_enter_is_not_pressed_then() {
    let mut play = Play::claude();
    let ticket = play.offer("x");
    assert_eq!(play.injection.keys(b"ab", play.now), None);
    play.passes(ms(1600));
    assert!(play.did(&Step::Stuck(vec![ticket], Hold::Mixed)));
    assert!(play.did(&Step::Replay(b"ab".to_vec())));
    play.press(Press::Text(2));
    play.sees(holds("[cbroker peer message ab"));
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 0);
    // The person submits it: that is its delivery.
    play.turn("m1");
    assert!(play.did(&Step::Entered(vec![ticket])) && play.did(&Step::Begun(vec![ticket])));
}

#[test]
fn rule_4_the_next_message_waits_for_the_last_ones_turn() {
    let mut play = Play::claude();
    play.offer("one");
    play.offer("two");
    play.shows_text();
    play.turn("m1");
    play.sees(Input::Empty);
    play.passes(ms(5000));
    assert_eq!(play.typed().len(), 2, "text and Enter of the first");
    play.event(&Event::TurnEnded);
    play.passes(ms(60));
    assert_eq!(play.typed().len(), 3);
}

#[test]
fn rule_4_what_waited_together_shares_a_paste_up_to_the_batch() {
    let mut play = Play::claude();
    play.event(&Event::PromptSubmitted("busy".into()));
    let tickets: Vec<Ticket> = (0..12).map(|n| play.offer(&n.to_string())).collect();
    play.event(&Event::TurnEnded);
    play.passes(ms(60));
    assert!(play.did(&Step::Note(tickets[..10].to_vec())));
    assert_eq!(play.typed()[0].matches('\n').count(), 9);
    play.shows_text();
    play.turn("m3");
    assert!(play.did(&Step::Begun(tickets[..10].to_vec())));
}

#[test]
fn rule_4_no_more_shares_a_paste_than_was_seen_to_arrive_whole() {
    let mut play = Play::claude();
    play.event(&Event::PromptSubmitted("busy".into()));
    let long = "x".repeat(25_000);
    let tickets: Vec<Ticket> = (0..4).map(|_| play.offer(&long)).collect();
    play.event(&Event::TurnEnded);
    play.passes(ms(60));
    assert!(play.did(&Step::Note(tickets[..2].to_vec())));
}

#[test]
fn rule_1_a_screen_that_says_busy_holds_though_nothing_else_does() {
    let mut play = Play::claude();
    play.reads(Reading {
        input: Input::Empty,
        shows_busy: true,
        ..Reading::default()
    });
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Busy));
    assert!(!play.has_typed());
}

#[test]
fn nothing_is_typed_before_the_intent_is_on_disk_nor_when_the_prompt_is_no_longer_free_by_then() {
    let mut play = Play::claude();
    play.is_disk_slow = true;
    play.offer("x");
    play.passes(ms(60_000));
    assert!(!play.has_typed());
    play.press(Press::Text(1));
    play.injection.noted();
    play.run();
    assert!(!play.has_typed());
    assert_eq!(play.hold(), Some(Hold::Draft));
}
