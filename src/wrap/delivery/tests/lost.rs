//! Tests of a lost connection to the broker, with which all deliveries are lost.

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
fn a_message_with_a_way_is_kept_when_the_connection_is_lost() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Inbox, false);
    let key = play.offer("handed over");
    play.deliveries.lose_deliveries();
    play.deliveries.in_context(1);
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Inbox)));
}

#[test]
fn waiting_messages_are_dropped_with_the_connection() {
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
fn an_unused_intent_is_dropped_with_the_connection() {
    let mut play = Play::claude();
    play.is_disk_slow = true;
    play.offer("noted");
    play.deliveries.lose_deliveries();
    play.deliveries.intent_written();
    play.run();
    assert!(!play.has_typed());
    assert!(play.deliveries.is_idle());
}

#[test]
fn a_message_that_was_not_taken_and_lost_its_delivery_is_dropped() {
    let mut play = Play::claude_by(DeliveryMode::Inbox);
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
fn a_stuck_text_without_a_delivery_is_given_to_no_other_way() {
    let mut play = Play::claude();
    let key = play.offer("stuck");
    play.shows_text();
    assert!(play.deliveries.filter_keys(b"\x03", play.now).is_some());
    play.passes(ms(1500));
    play.deliveries.lose_deliveries();
    assert!(play.deliveries.table.get(key).is_some());
    play.deliveries.open(Way::Inbox, false);
    play.run();
    let handed = |step: &Step| matches!(step, Step::Deliver(..));
    assert!(!play.steps.iter().any(handed));
}

/// A text that the inbox had and that was given up; its message was dropped with the connection.
fn given_up_and_lost() -> (Play, MessageKey, String) {
    let mut play = Play::claude_by(DeliveryMode::Inbox);
    play.deliveries.open(Way::Inbox, false);
    let key = play.offer("x");
    let identity = play.deliveries.table.identities(&[key]).remove(0);
    play.deliveries.unseen(1);
    play.deliveries.close(Way::Inbox, play.now);
    play.run();
    play.deliveries.lose_deliveries();
    play.run();
    assert!(play.deliveries.table.get(key).is_none());
    (play, key, identity)
}

#[test]
fn a_proof_during_a_lost_connection_is_written() {
    let (mut play, _, identity) = given_up_and_lost();
    play.deliveries.in_context(1);
    play.run();
    assert!(play.did(&Step::WriteDone(vec![identity], Way::Inbox)));
    assert!(play.did(&Step::EndSearch(1)));
    assert!(play.deliveries.is_idle());
}

#[test]
fn a_proof_after_a_reconnect_acks_the_redelivered_message() {
    for state in [DeliveryState::Queued, DeliveryState::Arriving] {
        let (mut play, key, _) = given_up_and_lost();
        let again = MessageKey(key.0 + 100);
        let mut message = message(key, "x", play.now);
        message.state = state;
        play.deliveries.table.insert(again, message);
        play.run();
        play.deliveries.in_context(1);
        play.run();
        assert!(play.did(&Step::Delivered(vec![again], Way::Inbox)));
    }
}

#[test]
fn a_late_proof_says_nothing_of_another_message_under_the_same_id() {
    let (mut play, key, _) = given_up_and_lost();
    let other = MessageKey(key.0 + 100);
    let mut namesake = message(key, "another text", play.now);
    namesake.state = DeliveryState::Queued;
    play.deliveries.table.insert(other, namesake);
    play.deliveries.in_context(1);
    play.run();
    let acks = |step: &Step| matches!(step, Step::Delivered(..) | Step::WriteDone(..));
    assert!(!play.steps.iter().any(acks), "{:?}", play.steps);
}

#[test]
fn a_late_proof_is_awaited_for_a_limited_time() {
    let (mut play, ..) = given_up_and_lost();
    let until = play.deliveries.late_until().unwrap();
    assert_eq!(until, play.now + ms(600_000));
    play.passes(ms(599_999));
    assert!(!play.did(&Step::EndSearch(1)));
    play.passes(ms(1));
    assert!(play.did(&Step::EndSearch(1)));
    assert_eq!(play.deliveries.late_until(), None);
    play.deliveries.in_context(1);
    play.run();
    assert!(
        !play
            .steps
            .iter()
            .any(|step| matches!(step, Step::WriteDone(..)))
    );
}
