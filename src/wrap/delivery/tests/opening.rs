//! Ways in that open late, close, are switched off, and are tried again.

use super::*;

#[test]
fn a_plugin_that_was_given_is_waited_for_and_not_for_ever() {
    let mut play = Play::with(&CLAUDE, Mode::Auto);
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
fn an_api_that_was_given_is_waited_for_from_the_start_and_not_for_ever() {
    for program in ["codex", "opencode"] {
        let profile = Profile::of(program.as_ref(), &[]);
        let mut play = Play::with(profile, Mode::Auto);
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
    // Codex copies its own files first, on a busy machine for minutes, and shows its prompt.
    let mut play = Play::with(Profile::of("codex".as_ref(), &[]), Mode::Auto);
    play.deliveries.expect(Way::Api);
    play.offer("x");
    play.sees(Input::Empty);
    for _ in 0..10 {
        play.passes(ms(50_000));
        play.deliveries.starts(Way::Api, play.now);
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
fn an_api_that_opens_late_takes_what_waited_for_it() {
    let mut play = Play::with(Profile::of("opencode".as_ref(), &[]), Mode::Auto);
    play.deliveries.expect(Way::Api);
    play.offer("x");
    play.sees(Input::Empty);
    play.passes(ms(59_000));
    play.deliveries.open(Way::Api, true);
    play.run();
    assert_eq!(play.hands_by(), [Way::Api]);
    assert!(!play.has_typed());
}

#[test]
fn an_api_that_opens_after_the_keyboard_was_switched_off_takes_what_waited() {
    let mut play = Play::with(Profile::of("codex".as_ref(), &[]), Mode::Auto);
    play.deliveries.expect(Way::Api);
    play.offer("x");
    play.sees(Input::Empty);
    // What is typed is never shown, until the keyboard is switched off.
    for _ in 0..28 {
        play.passes(ms(5000));
        play.sees(Input::Empty);
    }
    play.passes(ms(5000));
    assert_eq!(play.hold(), Some(Hold::NoWay));
    play.deliveries.open(Way::Api, true);
    play.run();
    assert_eq!(play.hands_by(), [Way::Api]);
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
fn a_keyboard_that_fails_twice_is_switched_off() {
    let mut play = Play::claude_by(Mode::Keyboard);
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
fn where_the_inbox_is_the_only_way_it_is_tried_again_and_then_switched_off() {
    let mut play = Play::claude_by(Mode::Inbox);
    play.deliveries.open(Way::Inbox, true);
    play.offer("x");
    for _ in 0..2 {
        play.deliveries.unseen(play.last_key());
        play.run();
    }
    assert_eq!(play.hands_by(), [Way::Inbox, Way::Inbox]);
    assert_eq!(play.deliveries.disabled_ways(), [Way::Inbox]);
    assert_eq!(play.hold(), Some(Hold::NoWay));
}

#[test]
fn where_no_way_is_left_those_that_were_switched_off_are_tried_again_ever_more_rarely() {
    // On a slow machine the row of a text came later than the inbox waits for it. The message was
    // held until somebody said `cbroker resume`.
    let mut play = Play::claude_by(Mode::Inbox);
    play.deliveries.open(Way::Inbox, true);
    let key = play.offer("x");
    play.deliveries.unseen(play.last_key());
    play.run();
    for (minutes, tried) in [(2, 3), (4, 4), (8, 5)] {
        play.deliveries.unseen(play.last_key());
        play.run();
        assert_eq!(play.hold(), Some(Hold::NoWay));
        play.passes(ms(minutes * 60_000 - 1));
        assert_eq!(play.hands_by().len(), tried - 1);
        play.passes(ms(1));
        play.run();
        assert_eq!(play.hands_by().len(), tried, "after {minutes} minutes");
    }
    play.deliveries.in_context(play.last_key());
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Inbox)));
    assert_eq!(play.deliveries.disabled_ways(), []);
}

#[test]
fn an_api_that_was_switched_off_is_tried_again_though_the_keyboard_is_left() {
    let mut play = Play::with(Profile::of("opencode".as_ref(), &[]), Mode::Auto);
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
    assert_eq!(play.hands_by().len(), 2);
    play.passes(ms(119_999));
    assert_eq!(play.hands_by().len(), 2);
    play.passes(ms(1));
    assert_eq!(play.hands_by(), [Way::Api; 3]);
    assert!(!play.has_typed());
}
