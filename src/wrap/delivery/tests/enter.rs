//! Tests of Enter after a paste: its conditions, and the signs of the turn.

use super::*;

#[test]
fn enter_waits_for_the_redraw_however_long_it_takes() {
    let mut play = Play::claude();
    play.offer("x");
    play.passes(ms(5000));
    assert_eq!(play.enters(), 0);
    play.shows_text();
    assert_eq!(play.enters(), 1);
}

#[test]
fn enter_comes_after_quiet_and_in_a_write_of_its_own() {
    let mut play = Play::claude();
    play.offer("x");
    for _ in 0..5 {
        play.passes(ms(40));
        play.sees(holds(&play.last_text()));
    }
    assert_eq!(play.enters(), 0, "the screen is still moving");
    play.passes(ms(49));
    assert_eq!(play.enters(), 0);
    play.passes(ms(1));
    assert_eq!(play.typed().last().map(String::as_str), Some("\r"));
}

#[test]
fn a_dialog_that_opens_after_the_paste_is_never_answered() {
    let mut play = Play::claude();
    play.offer("x");
    play.sees(holds(&play.last_text()));
    play.event(&HookEvent::PermissionAsked("Bash".into()));
    play.reads(ScreenReading {
        dialog: Some("permission".into()),
        ..ScreenReading::default()
    });
    play.passes(ms(60_000));
    assert_eq!(
        play.hold(),
        Some(Hold::Dialog("permission for Bash".into())),
        "and it is said why"
    );
    assert_eq!(play.enters(), 0);
}

#[test]
fn no_enter_while_the_process_says_that_it_waits_for_the_person() {
    // The process reports a dialog before it is drawn.
    let waiting = || Some(OwnStatus::Waiting("permission".into()));
    let mut play = Play::claude();
    play.offer("x");
    play.agent.record_own_status(waiting(), play.now);
    play.shows_text();
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 0);
    play.agent
        .record_own_status(Some(OwnStatus::Idle), play.now);
    play.passes(ms(1000));
    assert_eq!(play.enters(), 1);
    play.agent.record_own_status(waiting(), play.now);
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 1, "nor is it pressed once more");
}

#[test]
fn one_more_enter_after_a_second_and_never_a_third() {
    let mut play = Play::claude();
    let key = play.offer("x");
    play.shows_text();
    assert_eq!(play.enters(), 1);
    play.passes(ms(999));
    assert_eq!(play.enters(), 1);
    play.passes(ms(1));
    assert_eq!(play.enters(), 2);
    play.passes(ms(1000));
    assert!(play.did(&Step::Held(vec![key], Hold::Stuck)));
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 2);
}

#[test]
fn no_second_enter_when_the_box_is_empty_or_a_dialog_is_there() {
    let mut play = Play::claude();
    play.offer("x");
    play.shows_text();
    play.passes(ms(10));
    play.sees(Input::Empty);
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 1);
    let mut play = Play::claude();
    play.offer("x");
    play.shows_text();
    play.reads(ScreenReading {
        dialog: Some("permission".into()),
        ..ScreenReading::default()
    });
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 1);
}

#[test]
fn another_prompt_is_no_sign_of_the_texts_turn() {
    let mut play = Play::claude();
    let key = play.offer("x");
    play.shows_text();
    play.event(&HookEvent::PromptSubmitted("what a person typed".into()));
    assert!(!play.did(&Step::Delivered(vec![key], Way::Keyboard)));
}

#[test]
fn an_empty_box_after_enter_is_a_sign_of_the_turn() {
    let mut play = Play::claude();
    let key = play.offer("x");
    play.shows_text();
    play.passes(ms(10));
    play.sees(Input::Empty);
    assert!(play.did(&Step::Delivered(vec![key], Way::Keyboard)));
}

#[test]
fn a_swallowed_text_is_typed_again_as_a_possible_repeat() {
    let mut play = Play::claude();
    let key = play.offer("x");
    play.passes(ms(9_999));
    assert_eq!(play.typed().len(), 1);
    play.passes(ms(1));
    assert!(play.did(&Step::Held(vec![key], Hold::Unseen)));
    play.sees(Input::Empty);
    play.passes(ms(2000));
    play.passes(ms(60));
    assert_eq!(play.enters(), 0);
    assert!(play.typed()[1].contains("(possible repeat)"));
}

#[test]
fn a_program_that_loses_an_early_enter_is_given_the_time_it_needs() {
    let mut play = Play::quiet("codex");
    play.offer("x");
    play.sees(holds("› [cbroker peer message"));
    play.passes(ms(199));
    assert_eq!(play.enters(), 0);
    play.passes(ms(1));
    assert_eq!(play.enters(), 1);
}

#[test]
fn a_program_that_shows_nothing_of_the_text_gets_its_enter_after_a_second() {
    let mut play = Play::unknown();
    play.offer("x");
    play.passes(ms(999));
    assert_eq!(play.enters(), 0);
    play.passes(ms(1));
    assert_eq!(play.enters(), 1);
}

#[test]
fn a_line_that_does_not_show_the_text_gets_no_enter() {
    // A start screen that drew something else took the text, which counted as read.
    let mut play = Play::quiet("codex");
    let key = play.offer("x");
    play.output("a logo");
    play.passes(ms(9_900));
    assert_eq!(play.enters(), 0);
    play.passes(ms(100));
    assert!(play.did(&Step::Held(vec![key], Hold::Unseen)));
    assert_eq!(play.enters(), 0);
}

#[test]
fn a_line_that_was_not_drawn_since_enter_may_still_take_it() {
    // On a busy machine Gemini processed Enter seconds later, and the message was typed twice.
    let mut play = Play::quiet("gemini");
    let key = play.offer("x");
    play.sees(holds("[cbroker peer message"));
    play.passes(ms(500));
    assert_eq!(play.enters(), 1);
    play.passes(ms(9_000));
    assert_ne!(play.hold(), Some(Hold::Stuck));
    play.reads(ScreenReading {
        shows_busy: true,
        ..ScreenReading::default()
    });
    assert!(play.did(&Step::Delivered(vec![key], Way::Keyboard)));
    let mut play = Play::quiet("gemini");
    play.offer("y");
    play.sees(holds("[cbroker peer message"));
    play.passes(ms(500));
    play.passes(ms(1_000));
    play.sees(holds("[cbroker peer message"));
    play.passes(ms(10));
    assert!(
        play.deliveries.is_stuck(),
        "it was drawn, and is still there"
    );
}

#[test]
fn a_text_too_long_for_a_line_goes_to_a_file() {
    let mut play = Play::quiet("gemini");
    let key = play.offer(&"word ".repeat(2000));
    assert!(play.did(&Step::MoveToFile(key)));
    assert!(play.last_text().contains("in a file"));
    let mut play = Play::quiet("gemini");
    play.sees(holds("a draft"));
    let keys: Vec<MessageKey> = (0..3).map(|_| play.offer(&"word ".repeat(1000))).collect();
    play.sees(Input::Empty);
    play.passes(ms(5000));
    assert!(
        play.did(&Step::WriteIntent(keys[..1].to_vec())),
        "one at a time"
    );
}

#[test]
fn gemini_gets_its_enter_long_after_the_paste() {
    // Gemini takes an Enter within 40 ms of a paste for a line break.
    let mut play = Play::quiet("gemini");
    play.offer("x");
    play.passes(ms(400));
    play.sees(holds("[cbroker peer message"));
    play.passes(ms(499));
    assert_eq!(play.enters(), 0);
    play.passes(ms(1));
    assert_eq!(play.enters(), 1);
}

#[test]
fn a_disabled_keyboard_reports_a_stuck_text_and_resume_enables_it() {
    let mut play = Play::quiet("gemini");
    play.offer("x");
    for _ in 0..2 {
        play.sees(holds("[cbroker peer message"));
        play.passes(ms(500));
        play.passes(ms(1_000));
        play.sees(holds("[cbroker peer message"));
        play.passes(ms(10));
        assert_eq!(play.hold(), Some(Hold::Stuck));
        play.passes(ms(10));
        play.sees(Input::Empty);
        play.passes(ms(3_000));
    }
    assert_eq!(play.deliveries.disabled_ways(), [Way::Keyboard]);
    assert_eq!(play.hold(), Some(Hold::NoWay));
    let enters = play.enters();
    play.deliveries.resume();
    play.run();
    play.sees(holds("[cbroker peer message"));
    play.passes(ms(500));
    assert_eq!(play.enters(), enters + 1);
}

#[test]
fn a_line_that_is_empty_after_enter_proves_nothing_without_a_turn() {
    for program in ["codex", "opencode", "gemini", "aider"] {
        let mut play = Play::quiet(program);
        let key = play.offer("x");
        play.sees(holds("[cbroker peer message"));
        play.passes(ms(500));
        assert_eq!(play.enters(), 1, "{program}");
        play.sees(Input::Empty);
        play.passes(ms(9_900));
        let read = Step::Delivered(vec![key], Way::Keyboard);
        assert!(!play.did(&read), "{program}");
        play.passes(ms(100));
        assert!(play.did(&Step::Held(vec![key], Hold::Unseen)));
        play.passes(ms(10_000));
        assert!(play.last_text().contains("(possible repeat)"), "{program}");
        assert!(!play.did(&read), "{program}");
    }
}

#[test]
fn a_turn_or_the_text_above_the_empty_line_proves_that_it_was_read() {
    let turn = ScreenReading {
        shows_busy: true,
        ..ScreenReading::default()
    };
    let text = "[cbroker peer message from=a id=m1] x [end]";
    let above = ScreenReading {
        input: Input::Empty,
        history: History::of(&[text.to_owned()]),
        ..ScreenReading::default()
    };
    // Codex may show a text later than its turn, and its turn later than the text.
    let answered = ScreenReading {
        history: History::of(&[text.to_owned(), "OK".to_owned()]),
        ..above.clone()
    };
    for (program, sign) in [("gemini", turn), ("gemini", above), ("codex", answered)] {
        let mut play = Play::quiet(program);
        let key = play.offer("x");
        play.sees(holds("› [cbroker peer message"));
        play.passes(ms(500));
        play.reads(sign);
        play.passes(ms(500));
        assert!(play.did(&Step::Delivered(vec![key], Way::Keyboard)));
    }
}

#[test]
fn no_enter_answers_an_unknown_question_below_the_text() {
    // Gemini drew a question that the profile does not know below a text that it had shown: the
    // text was named on the screen, and Enter chose an answer.
    let question = "Share this with everybody? (yes) no";
    for program in ["gemini", "codex", "opencode", "aider"] {
        let mut play = Play::quiet(program);
        play.offer("x");
        let text = play.last_text();
        play.reads(ScreenReading {
            history: History::of(&[format!("> {text}"), question.to_owned()]),
            ..ScreenReading::default()
        });
        play.passes(ms(60_000));
        assert_eq!(play.enters(), 0, "{program}");
    }
}

#[test]
fn a_text_of_several_rows_hides_aiders_line_and_is_shown_at_the_end_of_the_screen() {
    let mut play = Play::quiet("aider");
    play.offer(&"word ".repeat(50));
    let text = play.last_text();
    let rows = [text[..80].to_owned(), text[80..].to_owned()];
    play.reads(ScreenReading {
        history: History::of(&rows),
        ..ScreenReading::default()
    });
    play.passes(ms(500));
    assert_eq!(play.enters(), 1);
}

#[test]
fn an_unknown_program_has_a_text_once_it_has_read_it() {
    // It was acked when its Enter was written, and lost if the program ended before it read.
    let mut play = Play::unknown();
    let key = play.offer("x");
    play.agent.record_input_read(Some(false), play.now);
    play.passes(ms(1000));
    assert_eq!(play.enters(), 1);
    assert_eq!(play.deliveries.filter_keys(b"ab", play.now), None);
    play.passes(ms(9_900));
    assert!(play.did(&Step::HandedOver(vec![key], Way::Keyboard)));
    assert!(!play.did(&Step::Replay(b"ab".to_vec())));
    play.passes(ms(100));
    assert!(play.did(&Step::Replay(b"ab".to_vec())), "keys pass");
    play.passes(ms(600_000));
    let delivered = Step::Delivered(vec![key], Way::Keyboard);
    assert!(!play.did(&delivered));
    let ended = play.deliveries.finish(&play.agent, play.now);
    assert!(!ended.contains(&delivered), "{ended:?}");
    play.agent.record_input_read(Some(true), play.now);
    play.run();
    assert!(play.did(&delivered));
    assert_eq!(play.enters(), 1);
}

#[test]
fn a_text_that_an_unknown_program_may_not_have_read_before_its_end_is_not_acked() {
    // What was known of the input before the text was written counted.
    let mut play = Play::unknown();
    let key = play.offer("x");
    play.is_hung_up = true;
    play.passes(ms(1000));
    assert_eq!(play.enters(), 1);
    play.passes(ms(1000));
    let delivered = Step::Delivered(vec![key], Way::Keyboard);
    let ended = play.deliveries.finish(&play.agent, play.now);
    assert!(!play.did(&delivered) && !ended.contains(&delivered));
}

#[test]
fn a_text_that_was_read_before_the_key_that_ends_the_program_is_acked() {
    // The key came before the next look at the input, and was unread when the program ended.
    let mut play = Play::unknown();
    let key = play.offer("x");
    play.agent.record_input_read(Some(false), play.now);
    play.passes(ms(1000));
    assert_eq!(
        play.deliveries.filter_keys(b"\x03", play.now),
        Some(&b"\x03"[..])
    );
    play.agent.record_input_read(Some(true), play.now);
    play.deliveries.input_checked(&play.agent);
    play.agent.record_input_read(Some(false), play.now);
    play.is_hung_up = true;
    let ended = play.deliveries.finish(&play.agent, play.now);
    let delivered = Step::Delivered(vec![key], Way::Keyboard);
    assert!(play.did(&delivered) || ended.contains(&delivered));
}

#[test]
fn a_text_that_the_terminal_discards_goes_again_as_a_possible_repeat() {
    let mut play = Play::unknown();
    let key = play.offer("x");
    play.agent.record_input_read(Some(false), play.now);
    play.passes(ms(1000));
    assert!(play.deliveries.may_be_flushed());
    assert_eq!(
        play.deliveries.filter_keys(b"\x03", play.now),
        Some(&b"\x03"[..])
    );
    play.deliveries.note_flush();
    play.agent.record_input_read(Some(true), play.now);
    play.passes(ms(5000));
    assert!(!play.did(&Step::Delivered(vec![key], Way::Keyboard)));
    assert!(play.last_text().contains("(possible repeat) x"));
}

#[test]
fn an_earlier_copy_of_a_possible_repeat_proves_nothing() {
    // The line was empty and a copy of the text stood above it, so the message was acked although
    // the agent had dropped the text.
    for program in ["gemini", "codex", "opencode", "aider"] {
        let mut play = Play::quiet(program);
        let line = "[cbroker peer message from=a id=m1] x [end]".to_owned();
        let above = |rows: &[&str]| ScreenReading {
            input: Input::Empty,
            history: History::of(&rows.iter().map(|&row| row.to_owned()).collect::<Vec<_>>()),
            ..ScreenReading::default()
        };
        play.reads(above(&[&line, "an error"]));
        play.passes(ms(5000));
        let key = play.deliveries.table.next_key();
        let mut repeat = message(key, "x", play.now);
        repeat.may_repeat = true;
        play.deliveries.table.insert(key, repeat);
        play.run();
        let text = play.last_text();
        play.sees(holds(&text));
        play.passes(ms(1000));
        assert_eq!(play.enters(), 1, "{program}");
        play.reads(above(&[&line, "an error"]));
        play.passes(ms(2000));
        let delivered = Step::Delivered(vec![key], Way::Keyboard);
        assert!(!play.did(&delivered), "{program}");
        play.reads(above(&[&line, "an error", &text]));
        play.reads(above(&["an error", &text, "an answer"]));
        play.passes(ms(2000));
        assert!(play.did(&delivered), "{program}");
    }
}
