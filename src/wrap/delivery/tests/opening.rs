//! Tests of ways in that open late, close, are disabled, and are retried.

use super::*;

#[test]
fn an_expected_plugin_is_awaited_for_a_limited_time() {
    let mut play = Play::with(&CLAUDE, DeliveryMode::Auto);
    play.deliveries.expect(Way::Plugin);
    play.deliveries.open(Way::Hook, false);
    play.deliveries.close(Way::Hook, play.now);
    play.event(&HookEvent::SessionStart);
    play.sees(Input::Empty);
    play.offer("x");
    play.passes(ms(1900));
    assert_eq!(play.hold(), Some(Hold::Starting));
    assert!(!play.has_typed());
    play.passes(ms(100));
    assert!(play.has_typed());
}

#[test]
fn an_expected_api_is_awaited_for_a_limited_time() {
    for program in ["codex", "opencode"] {
        let profile = Profile::of(program.as_ref(), &[]);
        let mut play = Play::with(profile, DeliveryMode::Auto);
        play.deliveries.expect(Way::Api);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(Hold::Starting), "nothing is drawn yet");
        play.sees(Input::Empty);
        play.passes(ms(59_000));
        assert!(!play.has_typed(), "{program}");
        play.passes(ms(1000));
        assert!(play.has_typed(), "{program}");
    }
}

#[test]
fn an_api_that_the_agent_is_still_bringing_up_is_waited_for() {
    // Codex copies its own files first, on a busy machine for minutes, while it shows its prompt.
    let mut play = Play::with(Profile::of("codex".as_ref(), &[]), DeliveryMode::Auto);
    play.deliveries.expect(Way::Api);
    play.offer("x");
    play.sees(Input::Empty);
    for _ in 0..10 {
        play.passes(ms(50_000));
        play.deliveries.mark_starting(Way::Api, play.now);
    }
    play.passes(ms(59_000));
    assert_eq!(play.hold(), Some(Hold::Starting));
    assert!(!play.has_typed());
    play.passes(ms(1000));
    assert!(
        play.has_typed(),
        "it is not waited for when nothing says so"
    );
}

#[test]
fn an_api_that_opens_late_takes_waiting_messages() {
    let mut play = Play::with(Profile::of("opencode".as_ref(), &[]), DeliveryMode::Auto);
    play.deliveries.expect(Way::Api);
    play.offer("x");
    play.sees(Input::Empty);
    play.passes(ms(59_000));
    play.deliveries.open(Way::Api, true);
    play.run();
    assert_eq!(play.ways_used(), [Way::Api]);
    assert!(!play.has_typed());
}

#[test]
fn an_api_that_opens_after_the_keyboard_was_disabled_takes_waiting_messages() {
    let mut play = Play::with(Profile::of("codex".as_ref(), &[]), DeliveryMode::Auto);
    play.deliveries.expect(Way::Api);
    play.offer("x");
    play.sees(Input::Empty);
    // The screen never shows a typed text, until the keyboard is disabled.
    for _ in 0..28 {
        play.passes(ms(5000));
        play.sees(Input::Empty);
    }
    play.passes(ms(5000));
    assert_eq!(play.hold(), Some(Hold::NoWay));
    play.deliveries.open(Way::Api, true);
    play.run();
    assert_eq!(play.ways_used(), [Way::Api]);
}

#[test]
fn a_way_that_closed_has_a_moment_to_open_again_before_the_keyboard_is_used() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.deliveries.close(Way::Plugin, play.now);
    play.offer("x");
    play.passes(ms(1900));
    assert!(!play.has_typed());
    play.passes(ms(100));
    assert!(play.has_typed());
}

#[test]
fn a_keyboard_that_fails_twice_is_disabled() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    for _ in 0..2 {
        play.offer("x");
        play.shows_text();
        play.passes(ms(1000));
        play.passes(ms(1000));
        play.sees(Input::Empty);
        play.passes(ms(5000));
    }
    let before = play.typed().len();
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.typed().len(), before);
    assert_eq!(play.hold(), Some(Hold::NoWay));
}

#[test]
fn an_inbox_that_is_the_only_way_is_tried_again_and_then_disabled() {
    let mut play = Play::claude_by(DeliveryMode::Inbox);
    play.deliveries.open(Way::Inbox, true);
    play.offer("x");
    for _ in 0..2 {
        play.deliveries.unseen(play.last_key());
        play.run();
    }
    assert_eq!(play.ways_used(), [Way::Inbox, Way::Inbox]);
    assert_eq!(play.deliveries.disabled_ways(), [Way::Inbox]);
    assert_eq!(play.hold(), Some(Hold::NoWay));
}

#[test]
fn without_a_way_left_disabled_ways_are_retried_with_growing_pauses() {
    // On a slow machine the row of a text came later than the time limit of the inbox. The message
    // was held until `cbroker resume`.
    let mut play = Play::claude_by(DeliveryMode::Inbox);
    play.deliveries.open(Way::Inbox, true);
    let key = play.offer("x");
    play.deliveries.unseen(play.last_key());
    play.run();
    for (minutes, tried) in [(2, 3), (4, 4), (8, 5)] {
        play.deliveries.unseen(play.last_key());
        play.run();
        assert_eq!(play.hold(), Some(Hold::NoWay));
        play.passes(ms(minutes * 60_000 - 1));
        assert_eq!(play.ways_used().len(), tried - 1);
        play.passes(ms(1));
        play.run();
        assert_eq!(play.ways_used().len(), tried, "after {minutes} minutes");
    }
    play.deliveries.in_context(play.last_key());
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Inbox)));
    assert_eq!(play.deliveries.disabled_ways(), []);
}

#[test]
fn a_disabled_api_is_retried_although_the_keyboard_is_left() {
    let mut play = Play::with(Profile::of("opencode".as_ref(), &[]), DeliveryMode::Auto);
    play.deliveries.expect(Way::Api);
    play.deliveries.open(Way::Api, true);
    play.sees(Input::Empty);
    play.begins("a turn");
    play.offer("x");
    play.deliveries.unseen(play.last_key());
    play.run();
    play.deliveries.unseen(play.last_key());
    play.run();
    assert_eq!(play.deliveries.disabled_ways(), [Way::Api]);
    assert_eq!(play.ways_used().len(), 2);
    play.passes(ms(119_999));
    assert_eq!(play.ways_used().len(), 2);
    play.passes(ms(1));
    assert_eq!(play.ways_used(), [Way::Api; 3]);
    assert!(!play.has_typed());
}
