//! Tests of texts that a way has and the agent does not have yet.

use super::*;
use crate::wrap::ways::Refusal;

#[test]
fn a_way_that_is_open_and_says_that_it_does_not_reach_the_session_is_not_asked_without_end() {
    let mut play = Play::claude_by(DeliveryMode::Plugin);
    play.deliveries.open(Way::Plugin, false);
    play.offer("x");
    for _ in 0..10 {
        let number = play.last_key();
        play.deliveries
            .not_taken(number, "elsewhere", Refusal::Elsewhere);
        play.run();
    }
    assert_eq!(play.ways_used(), [Way::Plugin; 2]);
    assert_eq!(play.deliveries.disabled_ways(), [Way::Plugin]);
}

#[test]
fn a_text_that_waits_in_its_way_waits_for_the_agents_turn() {
    let mut play = Play::claude();
    play.are_ways_slow = true;
    play.deliveries.open(Way::Api, false);
    play.begins("a prompt of the person");
    play.offer("x");
    assert_eq!(play.ways_used(), [Way::Api]);
    assert_eq!(play.hold(), Some(Hold::Busy));
    // A command cannot take it any more, and a lost connection leaves it where it is.
    let keys: Vec<MessageKey> = play.deliveries.table.iter().map(|(key, _)| key).collect();
    assert_eq!(play.deliveries.take_for_command(keys.iter().copied()), None);
    play.deliveries.lose_deliveries();
    let message = play.deliveries.table.get(keys[0]).unwrap();
    assert_eq!(message.claim, Claim::Lost);
    let number = play.last_key();
    play.deliveries.in_context(number);
    play.run();
    assert!(play.did(&Step::Delivered(keys, Way::Api)));
}

#[test]
fn a_text_that_its_way_has_when_the_session_ends_may_have_been_read() {
    // Codex's daemon goes on, and may read the file that the text names.
    let mut play = Play::claude();
    play.are_ways_slow = true;
    play.deliveries.open(Way::Api, false);
    let key = play.offer("x");
    let message = play.deliveries.table.get_mut(key).unwrap();
    message.text_files.push("/spill/file".into());
    play.deliveries.finish(&play.agent, play.now);
    let message = play.deliveries.table.get_mut(key).unwrap();
    assert_eq!(message.unread_files(), Vec::<PathBuf>::new());
}

#[test]
fn a_text_that_its_way_refuses_was_never_with_the_agent() {
    // Its sender was told that it was handed over, at each attempt.
    let mut play = Play::claude_by(DeliveryMode::Api);
    play.are_ways_slow = true;
    play.deliveries.open(Way::Api, false);
    let key = play.offer("a secret");
    let number = play.last_key();
    play.deliveries
        .not_taken(number, "exposed", Refusal::Exposed);
    play.run();
    let handed_over = Step::HandedOver(vec![key], Way::Api);
    assert!(!play.did(&handed_over));
    let number = play.last_key();
    play.deliveries.agent_has(number);
    play.run();
    assert!(play.did(&handed_over));
}
