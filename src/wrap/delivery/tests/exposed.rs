//! Tests of texts that a way would show to others.

use super::*;
use crate::wrap::ways::{Refusal, Submission};

/// Refuses what was handed over last, because others could have read it.
fn refuse_as_exposed(play: &mut Play) {
    let number = play.last_key();
    play.deliveries
        .not_taken(number, "exposed", Refusal::Exposed);
    play.run();
}

fn submissions(play: &Play) -> Vec<Submission> {
    let submissions = play.steps.iter().filter_map(|step| match step {
        Step::Deliver(_, submission) => Some(submission.clone()),
        _ => None,
    });
    submissions.collect()
}

#[test]
fn texts_that_others_could_read_go_by_the_same_way_once_they_are_hidden() {
    let mut play = Play::claude();
    for text in ["a secret", "another secret"] {
        let key = play.deliveries.table.next_key();
        let message = message(key, text, play.now);
        play.deliveries.table.insert(key, message);
    }
    play.deliveries.open(Way::Api, false);
    play.run();
    refuse_as_exposed(&mut play);
    let [exposed, hidden] = &submissions(&play)[..] else {
        panic!("{:?}", play.steps);
    };
    assert!(!exposed.is_hidden && exposed.text.matches("secret").count() == 2);
    assert!(hidden.is_hidden && !hidden.text.contains("secret"));
    assert_eq!(hidden.ids, exposed.ids);
    assert_eq!(play.ways_used(), [Way::Api; 2]);
    assert_eq!(play.deliveries.disabled_ways(), Vec::<Way>::new());
}

#[test]
fn a_text_that_cannot_be_hidden_goes_by_another_way_after_two_failed_writes() {
    let mut play = Play::claude();
    play.hidden_in = TextPlace::Unwritable;
    for way in [Way::Api, Way::Hook] {
        play.deliveries.open(way, false);
    }
    play.offer("a secret");
    refuse_as_exposed(&mut play);
    assert_eq!(play.ways_used(), [Way::Api, Way::Hook]);
    let hides = |step: &&Step| matches!(step, Step::HideInFile(_));
    assert_eq!(play.steps.iter().filter(hides).count(), 2);
    assert!(submissions(&play).iter().all(|given| !given.is_hidden));
}

#[test]
fn a_text_that_could_not_be_hidden_is_hidden_at_the_next_attempt() {
    let mut play = Play::claude_by(DeliveryMode::Api);
    play.hidden_in = TextPlace::Unwritable;
    play.deliveries.open(Way::Api, false);
    play.offer("a secret");
    refuse_as_exposed(&mut play);
    assert_eq!(play.deliveries.disabled_ways(), [Way::Api]);
    play.hidden_in = TextPlace::HiddenInFile;
    play.passes(ms(120_000));
    assert!(submissions(&play).last().unwrap().is_hidden);
}

#[test]
fn a_lost_connection_is_no_failure_of_a_way_that_shows_texts() {
    let mut play = Play::claude_by(DeliveryMode::Api);
    play.deliveries.open(Way::Api, false);
    for _ in 0..2 {
        play.offer("a secret");
        play.deliveries.lose_deliveries();
        refuse_as_exposed(&mut play);
    }
    assert_eq!(play.deliveries.disabled_ways(), Vec::<Way>::new());
}

#[test]
fn texts_for_a_way_that_shows_them_are_hidden_before_they_are_handed_over() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Api, false);
    play.deliveries.set_exposed(Way::Api, true);
    let key = play.offer("a secret");
    let [hidden] = &submissions(&play)[..] else {
        panic!("{:?}", play.steps);
    };
    assert!(hidden.is_hidden);
    play.deliveries.in_context(hidden.number);
    play.deliveries.set_exposed(Way::Api, false);
    let other = play.offer("no secret");
    assert!(play.did(&Step::HideInFile(key)) && !play.did(&Step::HideInFile(other)));
}

#[test]
fn a_way_that_refuses_what_is_hidden_is_not_asked_without_end() {
    let mut play = Play::claude_by(DeliveryMode::Api);
    play.deliveries.open(Way::Api, false);
    let key = play.offer("a secret");
    for _ in 0..10 {
        refuse_as_exposed(&mut play);
    }
    let hidden: Vec<bool> = submissions(&play).iter().map(|one| one.is_hidden).collect();
    assert_eq!(hidden, [false, true, true], "two failures");
    assert_eq!(play.deliveries.disabled_ways(), [Way::Api]);
    assert_eq!(play.hold(), Some(Hold::NoWay));
    assert!(play.deliveries.table.get(key).unwrap().is_queued());
}
