//! The way without the keyboard (rule 8).

use super::*;

#[test]
fn rule_8_after_two_seconds_of_draft_the_hook_carries_it_in() {
    let mut play = Play::claude();
    play.injection.arm();
    play.sees(holds("half"));
    let ticket = play.offer("x");
    play.passes(ms(1999));
    assert!(play.steps.is_empty());
    play.passes(ms(1));
    let line = "[cbroker peer message from=a id=m1] x [end]".to_owned();
    assert_eq!(
        play.steps,
        [Step::Note(vec![ticket]), Step::Hand(vec![ticket], line)]
    );
    play.injection.handed(Handover::Taken);
    play.run();
    assert_eq!(
        play.steps[2..],
        [Step::Entered(vec![ticket]), Step::Begun(vec![ticket])]
    );
    assert!(!play.has_typed());
}

#[test]
fn rule_8_patience_begins_where_the_hook_begins_to_help() {
    let mut play = Play::claude();
    play.injection.arm();
    play.sees(Input::Shell);
    play.offer("x");
    play.passes(ms(10_000));
    play.sees(holds("half"));
    play.passes(ms(1999));
    assert!(play.steps.is_empty());
    play.passes(ms(1));
    assert!(!play.steps.is_empty());
}

#[test]
fn rule_8_the_hook_is_not_used_where_it_was_not_asked_for_or_does_not_wait() {
    for (delivery, is_armed) in [(Delivery::Pty, true), (Delivery::Auto, false)] {
        let mut play = Play::claude_by(delivery);
        if is_armed {
            play.injection.arm();
        }
        play.sees(holds("half"));
        play.offer("x");
        play.passes(ms(60_000));
        assert!(play.steps.is_empty(), "{delivery:?}");
    }
}

#[test]
fn rule_8_by_hook_alone_nothing_is_ever_typed() {
    let mut play = Play::claude_by(Delivery::Hook);
    let ticket = play.offer("x");
    play.passes(ms(60_000));
    assert!(play.steps.is_empty());
    play.injection.arm();
    play.run();
    assert!(
        matches!(&play.steps[..], [Step::Note(_), Step::Hand(tickets, _)] if *tickets == [ticket])
    );
}

#[test]
fn rule_8_a_hook_that_fails_twice_is_switched_off_and_the_message_is_marked() {
    let mut play = Play::claude();
    play.sees(holds("half"));
    play.offer("x");
    for _ in 0..2 {
        play.injection.arm();
        play.passes(ms(3000));
        play.injection.handed(Handover::Refused);
        play.run();
    }
    let hands = |play: &Play| {
        play.steps
            .iter()
            .filter(|step| matches!(step, Step::Hand(..)))
            .count()
    };
    assert_eq!(hands(&play), 2);
    play.injection.arm();
    play.passes(ms(60_000));
    assert_eq!(hands(&play), 2);
    play.sees(Input::Empty);
    play.passes(ms(60));
    assert!(play.typed()[0].contains("(possible repeat)"));
}

#[test]
fn rule_8_a_keyboard_that_fails_twice_is_switched_off() {
    let mut play = Play::claude();
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
fn rule_8_a_dialog_and_a_turn_keep_nobody_waiting_either() {
    let dialog = Event::PermissionAsked("Bash".into());
    for event in [Event::PromptSubmitted("long".into()), dialog] {
        let mut play = Play::claude();
        play.injection.arm();
        play.event(&event);
        let ticket = play.offer("x");
        play.passes(ms(2000));
        assert!(
            matches!(&play.steps[..], [Step::Note(_), Step::Hand(tickets, _)] if *tickets == [ticket]),
            "{event:?}"
        );
    }
}

#[test]
fn a_text_that_was_handed_over_waits_for_its_proof_without_limit() {
    let mut play = Play::claude();
    play.injection.arm();
    play.sees(holds("half"));
    play.offer("x");
    play.passes(ms(2000));
    play.sees(Input::Empty);
    play.passes(ms(3_600_000));
    assert_eq!(play.steps.len(), 2);
    play.injection.handed(Handover::Refused);
    play.run();
    play.passes(ms(60));
    assert!(play.typed()[0].contains("(possible repeat)"));
}
