//! Tests of a screen whose last reading lacks output of the program.

use super::*;

impl Play {
    /// The program has written more than the last reading of the screen shows.
    fn falls_behind(&mut self) {
        self.agent.set_screen_behind(true);
        self.run();
    }

    fn catches_up(&mut self) {
        self.agent.set_screen_behind(false);
        self.run();
    }
}

#[test]
fn nothing_is_typed_on_a_screen_that_lacks_output() {
    // The person's terminal took no output, so that of the program was not read: a message was
    // pasted into what the program had shown before.
    for program in ["claude", "gemini", "a-program-of-ours"] {
        let mut play = match program {
            "claude" => Play::claude_by(DeliveryMode::Keyboard),
            other => Play::quiet(other),
        };
        play.falls_behind();
        play.offer("x");
        play.passes(ms(60_000));
        assert!(!play.has_typed(), "{program}");
        assert_eq!(play.hold(), Some(Hold::Busy), "{program}");
        play.catches_up();
        assert!(play.has_typed(), "{program}");
    }
}

#[test]
fn no_enter_is_pressed_on_a_screen_that_lacks_output() {
    for program in ["claude", "gemini", "a-program-of-ours"] {
        let mut play = match program {
            "claude" => Play::claude_by(DeliveryMode::Keyboard),
            other => Play::quiet(other),
        };
        play.offer("x");
        play.falls_behind();
        play.sees(holds(&play.last_text()));
        play.passes(ms(60_000));
        assert_eq!(play.enters(), 0, "{program}");
        play.catches_up();
        assert_eq!(play.enters(), 1, "{program}");
    }
}

#[test]
fn keys_are_given_back_although_the_screen_lacks_output() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.offer("x");
    play.falls_behind();
    play.passes(ms(20_000));
    assert_eq!(play.deliveries.filter_keys(b"ab", play.now), None);
    play.run();
    assert!(play.did(&Step::Replay(b"ab".to_vec())));
    assert_eq!(play.enters(), 0);
}

#[test]
fn neither_a_second_enter_nor_a_stuck_text_follows_from_a_screen_that_lacks_output() {
    for program in ["claude", "gemini"] {
        let mut play = match program {
            "claude" => Play::claude_by(DeliveryMode::Keyboard),
            other => Play::quiet(other),
        };
        play.offer("x");
        play.shows_text();
        play.passes(ms(500));
        assert_eq!(play.enters(), 1, "{program}");
        // The box still holds the text in what was read of the output.
        play.falls_behind();
        play.output("");
        play.passes(ms(1100));
        assert_eq!(play.enters(), 1, "{program}");
        assert!(!play.deliveries.is_stuck(), "{program}");
        play.reads(ScreenReading {
            input: Input::Empty,
            shows_busy: true,
            ..ScreenReading::default()
        });
        play.catches_up();
        assert_eq!(play.enters(), 1, "{program}");
        assert!(!play.deliveries.is_stuck(), "{program}");
    }
}

#[test]
fn a_box_that_is_empty_in_an_old_reading_does_not_end_a_stuck_text() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.offer("x");
    play.falls_behind();
    assert!(play.deliveries.filter_keys(b"\x03", play.now).is_some());
    play.run();
    // The paste is in the output that was not read.
    play.passes(ms(10));
    play.output("");
    assert!(play.deliveries.is_stuck());
    play.sees(holds(&play.last_text()));
    play.catches_up();
    play.passes(ms(60_000));
    assert!(play.deliveries.is_stuck());
    assert_eq!(play.typed().len(), 1);
    play.sees(Input::Empty);
    play.passes(ms(60));
    assert_eq!(play.typed().len(), 2);
}

#[test]
fn a_screen_within_a_frame_is_not_typed_into_for_a_limited_time() {
    // A frame that pauses may have removed a draft that it draws again.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.output("\x1b[?2026h");
    play.sees(Input::Empty);
    play.offer("x");
    play.passes(ms(999));
    assert!(!play.has_typed());
    assert_eq!(play.hold(), Some(Hold::Busy));
    play.passes(ms(1));
    assert!(play.has_typed());
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.output("\x1b[?2026h");
    play.offer("x");
    play.output("\x1b[?2026l");
    play.sees(Input::Empty);
    play.passes(ms(50));
    assert!(play.has_typed(), "it is finished");
}

#[test]
fn a_box_in_an_unfinished_frame_after_enter_proves_nothing() {
    // It was read as taken: without a transcript the message was acked, and Enter was lost.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    let key = play.offer("x");
    play.shows_text();
    assert_eq!(play.enters(), 1);
    let text = play.last_text();
    play.passes(ms(100));
    play.output("\x1b[?2026h");
    play.sees(Input::Empty);
    play.passes(ms(300));
    let delivered = Step::Delivered(vec![key], Way::Keyboard);
    assert!(!play.did(&delivered));
    play.sees(holds(&text));
    play.output("\x1b[?2026l");
    play.passes(ms(1500));
    assert!(!play.did(&delivered));
    assert_eq!(play.enters(), 2, "the first one was lost");
    play.sees(Input::Empty);
    play.passes(ms(60));
    assert!(play.did(&delivered));
}

/// A program whose line got a text and Enter, and which has begun a frame since: the play, and the
/// message and its text.
fn drawing_after_enter(program: &str) -> (Play, MessageKey, String) {
    let mut play = Play::quiet(program);
    let key = play.offer("x");
    let text = play.last_text();
    play.sees(holds(&text));
    play.passes(ms(1000));
    assert_eq!(play.enters(), 1, "{program}");
    play.output("\x1b[?2026h");
    (play, key, text)
}

#[test]
fn a_line_in_an_unfinished_frame_after_enter_proves_nothing() {
    for program in ["gemini", "codex", "opencode", "aider"] {
        let (mut play, key, text) = drawing_after_enter(program);
        play.reads(ScreenReading {
            input: Input::Empty,
            shows_busy: true,
            history: History::of(&[text, "an answer".to_owned()]),
            ..ScreenReading::default()
        });
        play.passes(ms(700));
        let delivered = Step::Delivered(vec![key], Way::Keyboard);
        assert!(!play.did(&delivered), "{program}");
        play.output("\x1b[?2026l");
        play.passes(ms(1000));
        assert!(play.did(&delivered), "{program}");
    }
}

#[test]
fn a_text_that_only_an_unfinished_frame_showed_above_the_line_is_not_read() {
    // A starting agent drops what is typed, and its first frame may still have the echo.
    for program in ["gemini", "aider"] {
        let (mut play, key, text) = drawing_after_enter(program);
        play.reads(ScreenReading {
            input: Input::Empty,
            history: History::of(std::slice::from_ref(&text)),
            ..ScreenReading::default()
        });
        play.passes(ms(100));
        play.reads(ScreenReading {
            input: Input::Empty,
            ..ScreenReading::default()
        });
        play.output("\x1b[?2026l");
        play.passes(ms(1000));
        let delivered = Step::Delivered(vec![key], Way::Keyboard);
        assert!(!play.did(&delivered), "{program}");
    }
}

#[test]
fn a_text_that_the_box_shows_again_without_a_row_is_stuck() {
    // A box that is empty between two writes of a frame was read as taken, and the message stayed
    // handed over for ever.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.set_turn_proof(TurnProof::Row);
    let key = play.offer("x");
    play.shows_text();
    assert_eq!(play.enters(), 1);
    let text = play.last_text();
    play.sees(Input::Empty);
    play.sees(holds(&text));
    play.passes(ms(60_000));
    assert!(play.deliveries.is_stuck());
    assert_eq!(play.enters(), 1);
    assert!(play.did(&Step::Held(vec![key], Hold::Stuck)));
    // The person presses Enter.
    play.sees(Input::Empty);
    play.deliveries.in_context(1);
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Keyboard)));
}
