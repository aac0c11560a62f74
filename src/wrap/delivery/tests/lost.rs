//! What becomes of messages when the connection to the broker is lost, and every delivery with it.

use super::*;

#[test]
fn a_text_that_is_being_typed_keeps_its_message_when_the_connection_is_lost() {
    let mut play = Play::claude();
    let key = play.offer("half-way");
    assert!(play.has_typed());
    play.deliveries.lose_deliveries();
    let identity = play.deliveries.table.identities(&[key]).remove(0);
    assert_eq!(play.deliveries.table.find(&identity), Some(key));
    play.shows_text();
    play.turn("m1");
    assert!(play.did(&Step::Delivered(vec![key], Way::Keyboard)));
    assert_eq!(play.enters(), 1);
}

#[test]
fn what_is_with_a_way_keeps_its_message_when_the_connection_is_lost() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Inbox, false);
    let key = play.offer("handed over");
    play.deliveries.lose_deliveries();
    play.deliveries.in_context(1);
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Inbox)));
}

#[test]
fn what_only_waits_is_forgotten_with_the_connection() {
    let mut play = Play::claude();
    play.begins("busy");
    let key = play.offer("waits");
    play.deliveries.lose_deliveries();
    assert!(play.deliveries.table.get(key).is_none());
    play.ends();
    play.passes(ms(1000));
    assert!(!play.has_typed());
}

#[test]
fn an_intent_that_was_not_carried_out_is_forgotten_with_the_connection() {
    let mut play = Play::claude();
    play.is_disk_slow = true;
    play.offer("noted");
    play.deliveries.lose_deliveries();
    play.deliveries.noted();
    play.run();
    assert!(!play.has_typed());
    assert!(play.deliveries.is_idle());
}

#[test]
fn what_was_not_taken_without_its_delivery_is_the_brokers_again() {
    let mut play = Play::claude_by(Mode::Inbox);
    play.deliveries.open(Way::Inbox, false);
    let key = play.offer("refused later");
    play.deliveries.lose_deliveries();
    let failed = crate::wrap::ways::Refusal::Failed;
    play.deliveries.not_taken(1, "gone", failed);
    play.run();
    assert!(play.deliveries.table.get(key).is_none());
    assert_eq!(play.deliveries.table.held(), 0);
}

#[test]
fn what_stands_in_the_box_without_its_delivery_is_given_to_no_other_way() {
    let mut play = Play::claude();
    let key = play.offer("stuck");
    play.shows_text();
    assert!(play.deliveries.keys(b"\x03", play.now).is_some());
    play.passes(ms(1500));
    play.deliveries.lose_deliveries();
    assert!(play.deliveries.table.get(key).is_some());
    play.deliveries.open(Way::Inbox, false);
    play.run();
    let handed = |step: &Step| matches!(step, Step::Hand(..));
    assert!(!play.steps.iter().any(handed));
}
