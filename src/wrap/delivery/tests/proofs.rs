//! Tests of the proofs that the agent has read a typed text.

use super::*;

impl Play {
    /// Checks that the message is delivered when its row is in the transcript, and not before.
    fn is_delivered_only_by_its_row(&mut self, key: MessageKey) {
        let delivered = Step::Delivered(vec![key], Way::Keyboard);
        assert!(!self.did(&delivered), "it was delivered without a proof");
        let number = self.deliveries.typed_number().unwrap();
        self.deliveries.in_context(number);
        self.run();
        assert!(self.did(&delivered), "its row proves nothing");
    }
}

#[test]
fn a_prompt_that_a_hook_of_the_persons_refuses_is_not_delivered() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.set_turn_proof(TurnProof::Row);
    let key = play.offer("x");
    play.shows_text();
    play.turn("m1");
    play.sees(Input::Empty);
    play.passes(ms(1000));
    assert!(!play.did(&Step::Delivered(vec![key], Way::Keyboard)));
    play.passes(ms(5000));
    play.passes(ms(5000));
    assert_eq!(play.hold(), Some(Hold::Refused(String::new())));
    assert!(!play.agent.is_busy(play.now), "and the agent is idle");
    assert_eq!(play.enters(), 1);
}

#[test]
fn a_submitted_text_is_delivered_when_its_row_is_there_however_long_that_takes() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.set_turn_proof(TurnProof::Row);
    let key = play.offer("x");
    play.shows_text();
    play.output("\x1b]0;\u{2802} Claude Code\x07");
    play.turn("m1");
    assert!(play.did(&Step::HandedOver(vec![key], Way::Keyboard)));
    play.passes(ms(600_000));
    play.is_delivered_only_by_its_row(key);
}

#[test]
fn the_end_of_a_turn_that_did_not_begin_with_the_text_proves_nothing() {
    // A background task ended, and its turn began while Enter was pressed.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.set_turn_proof(TurnProof::Row);
    let key = play.offer("x");
    play.shows_text();
    play.sees(Input::Empty);
    play.ends();
    play.is_delivered_only_by_its_row(key);
}

#[test]
fn a_prompt_that_holds_some_messages_of_a_text_proves_none_of_them() {
    // Escape put the text back into the box, and the person's Ctrl-U removed its last line.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.set_turn_proof(TurnProof::Row);
    play.begins("busy");
    let keys = vec![play.offer("x"), play.offer("y")];
    play.ends();
    play.passes(ms(60));
    assert!(play.did(&Step::WriteIntent(keys.clone())));
    play.shows_text();
    play.sees(Input::Empty);
    let part = play.last_text();
    play.begins(part.lines().next().unwrap());
    play.ends();
    play.passes(ms(5000));
    play.passes(ms(5000));
    assert!(!play.did(&Step::Delivered(keys, Way::Keyboard)));
    assert!(play.last_text().contains("(possible repeat)"), "each again");
}

#[test]
fn the_end_of_its_turn_proves_a_text_whatever_follows_its_id_in_the_head() {
    // The transcript cannot be read. A question ended as refused by the person's own hook.
    for more in [
        "",
        " reply_to=b",
        " correlation_id=c",
        " text_sha256=0123456789ab",
    ] {
        let mut play = Play::claude_by(DeliveryMode::Keyboard);
        play.deliveries.set_turn_proof(TurnProof::Row);
        let key = play.offer("x");
        play.shows_text();
        play.sees(Input::Empty);
        play.begins(&format!(
            "[cbroker peer message from=a id=m1{more}] x [end]"
        ));
        play.ends();
        let delivered = Step::Delivered(vec![key], Way::Keyboard);
        assert!(play.did(&delivered), "{more:?}: {:?}", play.hold());
    }
}

#[test]
fn an_id_in_the_text_of_another_message_proves_nothing() {
    // It came by another way while this text was typed, and its turn ended.
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.deliveries.set_turn_proof(TurnProof::Row);
    let key = play.offer("x");
    play.shows_text();
    play.sees(Input::Empty);
    play.begins("[cbroker peer message from=c id=other] what of id=m1] there? [end]");
    play.ends();
    play.is_delivered_only_by_its_row(key);
}

#[test]
fn where_no_hook_runs_a_text_is_read_at_its_row_or_at_rest() {
    for has_row in [true, false] {
        let mut play = Play::with(&CLAUDE, DeliveryMode::Keyboard);
        play.agent.disable_hooks();
        play.deliveries.set_turn_proof(TurnProof::RowOrRest);
        play.sees(Input::Empty);
        play.passes(ms(3000));
        let key = play.offer("x");
        play.shows_text();
        assert_eq!(play.enters(), 1);
        play.output("\x1b]0;\u{2802} Claude Code\x07");
        play.sees(Input::Empty);
        play.passes(ms(60_000));
        let delivered = Step::Delivered(vec![key], Way::Keyboard);
        assert!(!play.did(&delivered), "a turn runs, and there is no row");
        if has_row {
            let number = play.deliveries.typed_number().unwrap();
            play.deliveries.in_context(number);
            play.run();
        } else {
            play.output("\x1b]0;\u{2733} Claude Code\x07");
            play.passes(ms(3000));
        }
        assert!(play.did(&delivered), "{has_row}");
    }
}

#[test]
fn the_status_file_is_read_again_before_rest_decides_about_a_text() {
    // Claude Code hung after it had cleared its box, and its status of before counted: a text that
    // the model never got was acked.
    for (before, later) in [
        (OwnStatus::Idle, OwnStatus::Busy),
        (OwnStatus::Busy, OwnStatus::Idle),
    ] {
        let mut play = Play::with(&CLAUDE, DeliveryMode::Keyboard);
        play.agent.disable_hooks();
        play.deliveries.set_turn_proof(TurnProof::RowOrRest);
        play.status_file = Some(OwnStatus::Idle);
        play.sees(Input::Empty);
        play.passes(ms(3000));
        let key = play.offer("x");
        play.status_file = Some(before);
        play.shows_text();
        assert_eq!(play.enters(), 1);
        play.sees(Input::Empty);
        play.status_file = Some(later.clone());
        play.passes(ms(3000));
        play.passes(ms(1000));
        let is_delivered = play.did(&Step::Delivered(vec![key], Way::Keyboard));
        assert_eq!(is_delivered, later == OwnStatus::Idle);
    }
}

#[test]
fn a_proof_that_comes_late_counts() {
    // On a slow machine the row came after the way had given the text up.
    for mode in [
        DeliveryMode::Inbox,
        DeliveryMode::Hook,
        DeliveryMode::Plugin,
    ] {
        let mut play = Play::claude_by(mode);
        for way in [Way::Inbox, Way::Hook, Way::Plugin] {
            play.deliveries.open(way, false);
        }
        let key = play.offer("x");
        let first = play.last_key();
        let way = play.ways_used()[0];
        play.deliveries.unseen(first);
        play.run();
        play.passes(ms(300_000));
        play.deliveries.in_context(first);
        play.run();
        assert!(play.did(&Step::Delivered(vec![key], way)), "{mode:?}");
        assert_eq!(play.deliveries.disabled_ways(), []);
        // The repeat that was handed over meanwhile changes nothing.
        play.deliveries.in_context(play.last_key());
        play.run();
        let acks = |step: &&Step| matches!(step, Step::Delivered(..));
        assert_eq!(play.steps.iter().filter(acks).count(), 1, "{mode:?}");
    }
}

#[test]
fn a_late_proof_while_the_intent_is_written_prevents_another_delivery() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Inbox, true);
    let key = play.offer("x");
    let first = play.last_key();
    play.is_disk_slow = true;
    play.deliveries.unseen(first);
    play.run();
    play.deliveries.in_context(first);
    play.deliveries.intent_written();
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Inbox)));
    play.passes(ms(60_000));
    assert_eq!(play.ways_used(), [Way::Inbox]);
    assert!(!play.has_typed());
}
