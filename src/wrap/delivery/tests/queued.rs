//! Tests of texts that an agent shows as waiting, which are not in the model's context.

use super::*;

/// The history above an agent's line.
fn history(text: &str) -> History {
    History::of(&[text.to_owned()])
}

impl Play {
    /// A text that was typed into the line of `program` and entered.
    fn entered(program: &str) -> (Self, MessageKey) {
        let mut play = Self::quiet(program);
        let key = play.offer("look at this");
        play.sees(holds("[cbroker peer message"));
        play.passes(ms(2000));
        assert_eq!(play.enters(), 1, "{program}");
        (play, key)
    }

    /// The line is empty, the text stands above it, and a turn runs.
    fn shows_above(&mut self, shows_waiting: bool) {
        self.passes(ms(300));
        let history = history(&self.last_text());
        self.reads(ScreenReading {
            input: Input::Empty,
            shows_busy: true,
            shows_waiting,
            history,
            ..ScreenReading::default()
        });
    }

    /// The agent is at rest, and shows nothing of the text.
    fn shows_nothing(&mut self) {
        self.sees(Input::Empty);
        self.passes(ms(5000));
    }

    fn has_delivered(&self, key: MessageKey) -> bool {
        self.did(&Step::Delivered(vec![key], Way::Keyboard))
    }
}

#[test]
fn a_text_that_waits_for_the_running_turn_is_read_when_its_turn_begins() {
    let (mut play, key) = Play::entered("opencode");
    play.shows_above(true);
    play.passes(ms(3_600_000));
    play.shows_above(true);
    assert!(!play.has_delivered(key));
    assert!(play.did(&Step::HandedOver(vec![key], Way::Keyboard)));
    assert!(
        play.deliveries.filter_keys(b"x", play.now).is_some(),
        "keys pass"
    );
    play.shows_above(false);
    assert!(play.has_delivered(key));
    assert_eq!(play.enters(), 1);
}

#[test]
fn a_text_that_waits_is_not_acked_when_the_agent_ends() {
    for program in ["opencode", "codex"] {
        let (mut play, _) = Play::entered(program);
        play.shows_above(true);
        let ended = play.deliveries.finish(&play.agent, play.now);
        let acks = |step: &Step| matches!(step, Step::Delivered(..));
        assert!(!ended.iter().any(acks), "{program}: {ended:?}");
    }
}

#[test]
fn a_turn_that_runs_proves_nothing_before_the_text_is_shown() {
    // The line is empty at once, and opencode shows a prompt only once its server has it.
    let (mut play, key) = Play::entered("opencode");
    play.reads(ScreenReading {
        input: Input::Empty,
        shows_busy: true,
        ..ScreenReading::default()
    });
    play.passes(ms(60_000));
    assert!(!play.has_delivered(key));
    play.shows_above(true);
    assert!(!play.has_delivered(key));
    play.shows_above(false);
    assert!(play.has_delivered(key));
}

#[test]
fn a_long_text_is_shown_when_its_end_is() {
    let mut play = Play::quiet("opencode");
    let key = play.offer(&"words ".repeat(500));
    play.sees(holds("[cbroker peer message"));
    play.passes(ms(2000));
    let end = history(&play.last_text()[1000..]);
    for (shows_waiting, is_read) in [(true, false), (false, true)] {
        play.passes(ms(300));
        play.reads(ScreenReading {
            input: Input::Empty,
            shows_busy: true,
            shows_waiting,
            history: end.clone(),
            ..ScreenReading::default()
        });
        assert_eq!(play.has_delivered(key), is_read);
    }
}

#[test]
fn a_text_whose_wait_ends_after_escape_is_repeated() {
    // The turn was stopped, and with it the text that waited for its next step.
    let (mut play, key) = Play::entered("opencode");
    play.shows_above(true);
    assert!(play.deliveries.filter_keys(b"\x1b", play.now).is_some());
    play.press(KeyPress::Escape);
    play.shows_above(false);
    assert!(!play.has_delivered(key));
    play.shows_nothing();
    assert!(play.last_text().contains("(possible repeat)"));
}

#[test]
fn a_waiting_text_that_disappears_is_repeated() {
    let (mut play, key) = Play::entered("opencode");
    play.shows_above(true);
    for _ in 0..3 {
        play.shows_nothing();
    }
    assert!(!play.has_delivered(key));
    assert!(play.last_text().contains("(possible repeat)"));
}

#[test]
fn a_text_that_waits_for_the_start_is_read_when_the_start_is_over() {
    let (mut play, key) = Play::entered("codex");
    // The text stands in the line meanwhile.
    let in_line = |shows_waiting| ScreenReading {
        input: holds("[cbroker peer message"),
        shows_waiting,
        ..ScreenReading::default()
    };
    for _ in 0..100 {
        play.reads(in_line(true));
        play.passes(ms(5000));
    }
    assert!(!play.has_delivered(key));
    play.shows_above(false);
    assert!(play.has_delivered(key));
    assert_eq!(play.enters(), 1);
    // The agent shows only after a while that the text waits for its start.
    let (mut play, key) = Play::entered("codex");
    play.reads(in_line(false));
    play.passes(ms(3000));
    play.reads(in_line(true));
    play.passes(ms(3000));
    play.shows_above(false);
    assert!(play.has_delivered(key));
    assert_eq!(play.enters(), 1);
}

#[test]
fn nothing_is_typed_while_something_waits() {
    for program in ["codex", "opencode"] {
        for input in [Input::Empty, Input::Absent, holds("hello")] {
            let mut play = Play::quiet(program);
            play.reads(ScreenReading {
                input,
                shows_waiting: true,
                ..ScreenReading::default()
            });
            play.offer("x");
            play.passes(ms(3_600_000));
            assert!(!play.has_typed(), "{program}");
            assert_eq!(play.hold(), Some(Hold::Busy), "{program}");
            play.sees(Input::Empty);
            play.passes(ms(3000));
            assert!(play.has_typed(), "{program}");
        }
    }
}

/// At rest: the line is empty, and the typed text stands above it, followed by `below`.
fn at_rest(play: &Play, below: &str) -> ScreenReading {
    ScreenReading {
        input: Input::Empty,
        history: history(&(play.last_text() + below)),
        ..ScreenReading::default()
    }
}

#[test]
fn a_prompt_that_is_shown_before_its_turn_begins_is_not_read() {
    // On a busy machine opencode showed a prompt eight seconds before its turn began.
    for program in ["opencode", "codex"] {
        let (mut play, key) = Play::entered(program);
        let shown = at_rest(&play, "");
        for _ in 0..5 {
            play.reads(shown.clone());
            play.passes(ms(10_000));
        }
        // The foot of a line that is not recognized is no answer.
        play.reads(ScreenReading {
            input: Input::Absent,
            ..at_rest(&play, "commands")
        });
        assert!(!play.has_delivered(key), "{program}");
        assert_eq!(play.enters(), 1, "{program}");
        let answered = at_rest(&play, "OK");
        play.reads(answered);
        assert!(play.has_delivered(key), "{program}");
    }
}

#[test]
fn a_prompt_without_a_turn_is_repeated() {
    for program in ["opencode", "codex"] {
        let (mut play, key) = Play::entered(program);
        let shown = at_rest(&play, "");
        assert!(!play.last_text().contains("(possible repeat)"), "{program}");
        for _ in 0..9 {
            play.reads(shown.clone());
            play.passes(ms(10_000));
        }
        assert!(!play.has_delivered(key), "{program}");
        assert!(play.last_text().contains("(possible repeat)"), "{program}");
    }
}

#[test]
fn a_prompt_that_is_shown_is_not_acked_when_the_agent_ends_before_its_turn() {
    for program in ["opencode", "codex"] {
        let (mut play, key) = Play::entered(program);
        let shown = at_rest(&play, "");
        play.reads(shown);
        play.passes(ms(54_000));
        assert!(!play.has_delivered(key), "{program}");
        let ended = play.deliveries.finish(&play.agent, play.now);
        let acks = |step: &Step| matches!(step, Step::Delivered(..));
        assert!(!ended.iter().any(acks), "{program}: {ended:?}");
    }
}
