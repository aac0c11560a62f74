//! Tests of messages that a command takes.

use super::*;

/// A busy agent, and two messages that a command takes.
fn shown() -> (Play, [MessageKey; 2]) {
    let mut play = Play::claude();
    play.begins("busy");
    let keys = ["first", "second"].map(|text| play.offer(text));
    assert!(play.deliveries.take_for_command(keys.into_iter()).is_some());
    play.run();
    assert!(play.did(&Step::WriteIntent(keys.to_vec())));
    assert!(play.did(&Step::Show(1, keys.to_vec())));
    (play, keys)
}

#[test]
fn messages_that_are_taken_are_acked_only_once_the_command_confirms_them() {
    let (mut play, keys) = shown();
    let delivered = Step::Delivered(keys.to_vec(), Way::InboxCommand);
    play.passes(ms(9_000));
    assert!(!play.did(&delivered));
    play.deliveries.taken(keys.into_iter());
    play.run();
    assert!(play.did(&delivered));
    play.ends();
    play.passes(ms(20_000));
    assert!(!play.has_typed());
    assert!(play.deliveries.is_idle());
}

#[test]
fn messages_that_no_command_confirms_are_delivered_in_their_order_and_marked() {
    let (mut play, _) = shown();
    play.offer("third");
    play.ends();
    play.passes(ms(9_000));
    assert!(!play.has_typed(), "the third one would overtake them");
    play.passes(ms(2_000));
    let ids = ["m1", "m2"].map(str::to_owned).to_vec();
    assert!(play.did(&Step::NotConfirmed(ids)));
    let text = play.last_text();
    let places = [
        "(possible repeat) first",
        "(possible repeat) second",
        "] third",
    ]
    .map(|text_of_one| text.find(text_of_one));
    assert!(places.iter().all(Option::is_some), "{text}");
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn a_late_confirmation_counts_for_messages_that_wait() {
    let (mut play, keys) = shown();
    play.passes(ms(11_000));
    play.deliveries.taken(keys.into_iter());
    play.run();
    assert!(play.did(&Step::Delivered(keys.to_vec(), Way::InboxCommand)));
}

#[test]
fn a_message_that_another_way_has_is_not_taken() {
    let mut play = Play::claude_by(DeliveryMode::Inbox);
    play.deliveries.open(Way::Inbox, false);
    let key = play.offer("with the agent");
    assert_eq!(play.deliveries.take_for_command([key].into_iter()), None);
    play.deliveries.taken([key].into_iter());
    play.run();
    let taken = Step::Delivered(vec![key], Way::InboxCommand);
    assert!(!play.did(&taken));
    play.deliveries.in_context(1);
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Inbox)));
}

#[test]
fn messages_that_were_shown_are_kept_when_the_connection_is_lost() {
    let (mut play, keys) = shown();
    play.deliveries.lose_deliveries();
    play.deliveries.taken(keys.into_iter());
    play.run();
    assert!(play.did(&Step::Delivered(keys.to_vec(), Way::InboxCommand)));
}

#[test]
fn messages_that_were_never_shown_wait_for_no_confirmation() {
    let mut play = Play::claude();
    play.begins("busy");
    let key = play.offer("being noted");
    play.is_disk_slow = true;
    play.deliveries.take_for_command([key].into_iter());
    play.run();
    play.deliveries.lose_deliveries();
    play.deliveries.intent_written();
    play.run();
    assert!(play.did(&Step::Show(1, Vec::new())));
    assert!(play.deliveries.is_idle());
}

/// A watcher that takes each message and dies kept all of them from the agent.
#[test]
fn takes_that_are_never_confirmed_keep_no_message_from_the_agent_for_long() {
    let mut play = Play::claude();
    for number in 0..10 {
        let key = play.offer(&format!("text {number}"));
        play.deliveries.take_for_command([key].into_iter());
        play.passes(ms(6_000));
    }
    assert!(play.has_typed(), "nothing reached the agent");
}

#[test]
fn a_take_is_the_reason_why_messages_are_held() {
    let (mut play, keys) = shown();
    assert_eq!(play.hold(), Some(Hold::Taking));
    let third = play.offer("third");
    let holds = play.deliveries.waiting(&play.agent, play.now);
    assert_eq!(holds, [(third, Hold::Taking)]);
    assert_eq!(play.deliveries.taken(keys.into_iter()), 2);
    assert_eq!(play.deliveries.taken(keys.into_iter()), 0);
    assert_ne!(play.hold(), Some(Hold::Taking));
}

#[test]
fn a_message_that_is_discarded_while_a_command_takes_it_does_not_come_back() {
    let (mut play, [first, second]) = shown();
    assert!(play.deliveries.discard(first).is_some());
    play.ends();
    play.passes(ms(11_000));
    let again = Step::NotConfirmed(vec!["m2".to_owned()]);
    assert!(play.did(&again), "{:?}", play.steps);
    assert!(play.last_text().contains("(possible repeat) second"));
    assert!(!play.last_text().contains("first"));
    assert!(
        play.deliveries.discard(second).is_none(),
        "it is with the agent"
    );
}
