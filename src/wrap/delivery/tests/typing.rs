//! Tests of typing at a free prompt, and of the conditions that prevent it.

use super::*;

#[test]
fn at_a_free_prompt_the_intent_the_paste_enter_and_the_proof_follow_in_order() {
    let mut play = Play::claude();
    let key = play.offer("hello");
    play.shows_text();
    play.turn("m1");
    let all = vec![key];
    let text = "[cbroker peer message from=a id=m1] hello [end]".to_owned();
    let submission = Submission {
        number: 1,
        ids: vec!["m1".to_owned()],
        text: text.clone(),
        is_hidden: false,
        timing: crate::wrap::ways::Timing::Idle,
    };
    assert_eq!(
        play.steps,
        [
            Step::WriteIntent(all.clone()),
            Step::Type(submission, format!("\x1b[200~{text}\x1b[201~").into_bytes()),
            Step::Write(b"\r".to_vec()),
            Step::HandedOver(all.clone(), Way::Keyboard),
            Step::Delivered(all, Way::Keyboard),
            Step::EndSearch(1),
        ]
    );
}

#[test]
fn a_dialog_holds_whatever_source_reports_it() {
    let mut play = Play::claude();
    play.event(&HookEvent::PermissionAsked("Bash".into()));
    play.offer("by the hook");
    assert_eq!(
        play.hold(),
        Some(Hold::Dialog("permission for Bash".into()))
    );
    let mut play = Play::claude();
    play.reads(ScreenReading {
        dialog: Some("menu".into()),
        ..ScreenReading::default()
    });
    play.offer("by the screen");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Dialog("menu".into())));
    assert!(!play.has_typed());
}

#[test]
fn a_screen_without_the_prompt_holds() {
    let mut play = Play::claude();
    play.sees(Input::Absent);
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::UnknownScreen));
    assert!(!play.has_typed());
}

#[test]
fn a_title_that_says_busy_holds_though_the_last_hook_was_stop() {
    let mut play = Play::claude();
    play.output("\x1b]0;\u{2802} Claude Code\x07");
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Busy));
    assert!(!play.has_typed());
}

#[test]
fn a_running_turn_holds_until_it_ends() {
    let mut play = Play::claude();
    play.begins("something else");
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Busy));
    assert!(!play.has_typed());
    play.ends();
    play.passes(ms(60));
    assert!(play.has_typed());
}

#[test]
fn keys_pressed_between_text_and_enter_come_after_the_enter_in_order() {
    let mut play = Play::claude();
    play.offer("x");
    assert_eq!(play.deliveries.filter_keys(b"ab", play.now), None);
    assert_eq!(play.deliveries.filter_keys(b"\x1b[Ic", play.now), None);
    play.shows_text();
    play.turn("m1");
    assert_eq!(
        play.steps.last(),
        Some(&Step::Replay(b"ab\x1b[Ic".to_vec()))
    );
    assert_eq!(play.deliveries.filter_keys(b"d", play.now), Some(&b"d"[..]));
}

#[test]
fn reports_of_the_terminal_are_kept_in_order_and_are_no_keys() {
    // A focus event counted as a key of the person: attempts with slow agents were given up, and no
    // second Enter was pressed.
    let mut play = Play::claude();
    play.offer("x");
    assert_eq!(play.deliveries.filter_reports(b"\x1b[I"), None);
    play.passes(ms(3000));
    play.shows_text();
    assert_eq!(play.enters(), 1);
    play.passes(ms(1000));
    assert_eq!(play.enters(), 2);
    play.turn("m1");
    assert_eq!(play.steps.last(), Some(&Step::Replay(b"\x1b[I".to_vec())));
}

#[test]
fn after_ten_seconds_keys_are_given_back_and_no_enter_follows() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    let key = play.offer("x");
    assert_eq!(play.deliveries.filter_keys(b"ab", play.now), None);
    play.passes(ms(9_999));
    assert!(!play.did(&Step::Replay(b"ab".to_vec())));
    play.passes(ms(1));
    assert!(play.did(&Step::Held(vec![key], Hold::Unseen)));
    assert!(play.did(&Step::Replay(b"ab".to_vec())));
    play.press(KeyPress::Text(2));
    let both = format!("{}ab", play.last_text());
    play.sees(holds(&both));
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 0);
    assert_eq!(play.hold(), Some(Hold::Stuck));
    // The person submits the text, which delivers it.
    play.turn("m1");
    assert!(play.did(&Step::Delivered(vec![key], Way::Keyboard)));
}

#[test]
fn a_text_that_stands_in_the_box_is_typed_again_when_the_box_was_seen_empty() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.offer("x");
    assert_eq!(play.deliveries.filter_keys(b"ab", play.now), None);
    let both = format!("{}ab", play.last_text());
    play.sees(holds(&both));
    play.passes(ms(10_000));
    assert_eq!(play.hold(), Some(Hold::Stuck));
    play.passes(ms(600_000));
    assert_eq!(play.typed().len(), 1);
    play.sees(Input::Empty);
    play.passes(ms(60));
    assert!(
        play.typed()[1].contains("(possible repeat)"),
        "{:?}",
        play.typed()
    );
}

#[test]
fn control_c_passes_at_once_and_ends_the_attempt() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.offer("x");
    assert_eq!(play.deliveries.filter_keys(b"a", play.now), None);
    assert_eq!(
        play.deliveries.filter_keys(b"\x03", play.now),
        Some(&b"\x03"[..])
    );
    play.run();
    play.shows_text();
    assert_eq!(play.enters(), 0);
}

#[test]
fn a_key_that_the_program_has_not_read_is_a_draft() {
    // A slow agent showed an empty box: the person's text and the message were submitted together.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.press(KeyPress::Text(1));
    play.agent.record_input_read(Some(false), play.now);
    play.offer("x");
    play.passes(ms(5000));
    play.sees(Input::Empty);
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Draft));
    assert!(!play.has_typed());
    play.agent.record_input_read(Some(true), play.now);
    play.run();
    assert_eq!(play.hold(), Some(Hold::Draft), "it was read, and not drawn");
    play.passes(ms(20));
    play.sees(Input::Empty);
    play.passes(ms(60));
    assert!(play.has_typed());
}

#[test]
fn a_key_that_draws_nothing_holds_messages_for_a_limited_time() {
    // Up in an empty box, or a frame that was drawn between the reading of a key and the check of
    // that: the message was held as `draft` at an empty box until something else was drawn.
    for program in ["claude", "gemini"] {
        let mut play = match program {
            "claude" => Play::claude_by(DeliveryMode::Keyboard),
            line => Play::quiet(line),
        };
        play.press(KeyPress::Recall);
        play.agent.record_input_read(Some(false), play.now);
        play.offer("x");
        play.sees(Input::Empty);
        play.passes(ms(20));
        play.agent.record_input_read(Some(true), play.now);
        play.passes(ms(9_900));
        assert_eq!(play.hold(), Some(Hold::Draft), "{program}");
        play.passes(ms(100));
        assert!(play.has_typed(), "{program}");
    }
}

#[test]
fn a_text_that_is_drawn_with_a_persons_letters_gets_no_enter() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.offer("x");
    let both = format!("y{}", play.last_text());
    play.sees(holds(&both));
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 0);
    assert_eq!(play.hold(), Some(Hold::Stuck));
}

#[test]
fn titles_of_other_views_hold() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.output("\x1b]0;3 claude agents\x07");
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::UnknownScreen));
    assert!(!play.has_typed());
}

#[test]
fn a_text_that_the_window_cannot_show_whole_goes_by_file() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.resized(24, 80);
    let key = play.offer(&"word ".repeat(100));
    assert!(play.did(&Step::MoveToFile(key)));
    assert!(
        play.last_text().contains("in a file"),
        "{}",
        play.last_text()
    );
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.resized(24, 80);
    play.offer("short");
    assert!(play.last_text().contains("short"));
}

#[test]
fn a_window_that_cannot_show_the_name_of_a_file_is_not_typed_into_until_it_grows() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.resized(11, 20);
    let key = play.offer(&"word ".repeat(30));
    assert!(play.did(&Step::MoveToFile(key)));
    play.passes(ms(60_000));
    assert!(!play.has_typed());
    assert_eq!(play.hold(), Some(Hold::SmallWindow));
    play.deliveries.resized(40, 120);
    play.run();
    assert!(play.has_typed());
}

#[test]
fn the_next_message_waits_for_the_last_ones_turn() {
    let mut play = Play::claude();
    play.offer("one");
    play.offer("two");
    play.shows_text();
    play.output("\x1b]0;\u{2802} Claude Code\x07");
    play.turn("m1");
    play.sees(Input::Empty);
    play.passes(ms(5000));
    assert_eq!(play.typed().len(), 2, "text and Enter of the first");
    play.ends();
    play.passes(ms(60));
    assert_eq!(play.typed().len(), 3);
}

#[test]
fn waiting_messages_share_a_paste_up_to_the_batch() {
    let mut play = Play::claude();
    play.begins("busy");
    let keys: Vec<MessageKey> = (0..12).map(|n| play.offer(&n.to_string())).collect();
    play.ends();
    play.passes(ms(60));
    assert!(play.did(&Step::WriteIntent(keys[..10].to_vec())));
    assert_eq!(play.typed()[0].matches('\n').count(), 9);
    play.shows_text();
    play.begins(&play.last_text());
    assert!(play.did(&Step::Delivered(keys[..10].to_vec(), Way::Keyboard)));
}

#[test]
fn a_paste_has_a_maximum_length() {
    let mut play = Play::claude();
    play.begins("busy");
    let long = "x".repeat(25_000);
    let keys: Vec<MessageKey> = (0..4).map(|_| play.offer(&long)).collect();
    play.ends();
    play.passes(ms(60));
    assert!(play.did(&Step::WriteIntent(keys[..2].to_vec())));
}

#[test]
fn a_screen_that_says_busy_holds_though_nothing_else_does() {
    let mut play = Play::claude();
    play.reads(ScreenReading {
        input: Input::Empty,
        shows_busy: true,
        ..ScreenReading::default()
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
    play.press(KeyPress::Text(1));
    play.deliveries.intent_written();
    play.run();
    assert!(!play.has_typed());
    assert_eq!(play.hold(), Some(Hold::Draft));
}
