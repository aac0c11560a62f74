//! Tests of the ways without keys: their order, their failures, and their submissions.

use super::*;
use crate::wrap::ways::{Refusal, Timing};

impl Play {
    /// The submissions that were handed to ways without keys.
    fn handed_over(&self) -> Vec<(Way, u64)> {
        let hands = self.steps.iter().filter_map(|step| match step {
            Step::Deliver(way, submission) => Some((*way, submission.number)),
            _ => None,
        });
        hands.collect()
    }

    pub(super) fn ways_used(&self) -> Vec<Way> {
        self.handed_over().into_iter().map(|(way, _)| way).collect()
    }

    /// Offers a message with this timing.
    fn offer_for(&mut self, text: &str, timing: Timing) {
        let key = self.deliveries.table.next_key();
        let mut message = message(key, text, self.now);
        message.timing = timing;
        self.deliveries.table.insert(key, message);
        self.run();
    }

    fn sign(&mut self, sign: &AgentSign) {
        self.agent.record_sign(sign, self.now);
        self.deliveries.sign(sign);
        self.run();
    }

    pub(super) fn last_key(&self) -> u64 {
        self.handed_over().last().unwrap().1
    }
}

#[test]
fn a_way_without_keys_comes_before_the_keyboard_whatever_the_agent_does() {
    for input in [Input::Empty, holds("half"), Input::Shell, Input::Absent] {
        let mut play = Play::claude();
        play.deliveries.open(Way::Hook, false);
        play.sees(input.clone());
        let key = play.offer("x");
        assert_eq!(play.ways_used(), [Way::Hook], "{input:?}");
        assert!(play.did(&Step::HandedOver(vec![key], Way::Hook)));
        assert!(!play.has_typed());
    }
}

#[test]
fn the_order_is_plugin_api_inbox_hook() {
    let mut play = Play::claude();
    for way in [Way::Hook, Way::Inbox, Way::Plugin] {
        play.deliveries.open(way, false);
    }
    for (closed, text) in [Way::Plugin, Way::Inbox, Way::Hook]
        .iter()
        .zip(["a", "b", "c"])
    {
        play.offer(text);
        play.deliveries.in_context(play.last_key());
        play.run();
        play.deliveries.close(*closed, play.now);
        play.passes(ms(2000));
    }
    assert_eq!(play.ways_used(), [Way::Plugin, Way::Inbox, Way::Hook]);
}

#[test]
fn a_message_is_acked_at_the_proof_and_not_before_however_long_that_takes() {
    // The text was handed over again after five seconds, so behind a menu that stayed open longer
    // the agent had it twice.
    let mut play = Play::claude();
    play.deliveries.open(Way::Hook, false);
    let key = play.offer("x");
    play.deliveries.close(Way::Hook, play.now);
    play.passes(ms(3_600_000));
    assert_eq!(play.ways_used(), [Way::Hook]);
    assert!(!play.did(&Step::Delivered(vec![key], Way::Hook)));
    assert!(!play.has_typed(), "never two ways at once");
    play.deliveries.in_context(play.last_key());
    play.run();
    assert!(play.did(&Step::Delivered(vec![key], Way::Hook)));
}

#[test]
fn a_text_that_was_not_taken_goes_to_the_next_way_and_two_failures_disable_a_way() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Inbox, true);
    play.offer("x");
    for _ in 0..2 {
        play.deliveries
            .not_taken(play.last_key(), "dropped", Refusal::Failed);
        play.run();
    }
    assert_eq!(play.ways_used(), [Way::Inbox, Way::Inbox]);
    assert_eq!(play.deliveries.disabled_ways(), [Way::Inbox]);
    assert!(play.has_typed(), "the keyboard is next");
    assert!(
        !play.last_text().contains("(possible repeat)"),
        "it was certain"
    );
}

#[test]
fn an_unreachable_session_disables_no_way() {
    let mut play = Play::claude_by(DeliveryMode::Plugin);
    for _ in 0..3 {
        play.deliveries.open(Way::Plugin, false);
        play.offer("x");
        play.deliveries.mark_away(Way::Plugin);
        play.deliveries.close(Way::Plugin, play.now);
        play.deliveries
            .not_taken(play.last_key(), "elsewhere", Refusal::Elsewhere);
        play.run();
    }
    assert_eq!(play.deliveries.disabled_ways(), Vec::<Way>::new());
    assert_eq!(play.ways_used(), [Way::Plugin; 3]);
}

#[test]
fn a_text_that_may_have_been_read_is_marked_as_a_possible_repeat() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.offer("x");
    play.deliveries.lost(play.last_key());
    play.run();
    let again = play.steps.iter().rev().find_map(|step| match step {
        Step::Deliver(_, submission) => Some(submission.text.clone()),
        _ => None,
    });
    assert!(again.unwrap().contains("(possible repeat)"));
}

#[test]
fn an_unread_text_is_held_for_the_person_and_marked() {
    // On a busy machine the row may come late although the model has read the text.
    let mut play = Play::claude_by(DeliveryMode::Hook);
    play.deliveries.open(Way::Hook, false);
    play.offer("x");
    play.deliveries.unread(play.last_key());
    play.run();
    assert_eq!(play.hold(), Some(Hold::Refused(String::new())));
    play.deliveries.resume();
    play.run();
    let again = play.steps.iter().rev().find_map(|step| match step {
        Step::Deliver(_, submission) => Some(submission.text.clone()),
        _ => None,
    });
    assert!(again.unwrap().contains("(possible repeat)"));
}

#[test]
fn after_escape_messages_wait_for_the_persons_next_input() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.offer("x");
    play.deliveries
        .not_taken(play.last_key(), "stopped", Refusal::Escaped);
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Escaped));
    assert_eq!(play.handed_over().len(), 1);
    play.deliveries.sign(&AgentSign::PersonSpoke);
    play.run();
    assert_eq!(play.handed_over().len(), 2);
}

#[test]
fn after_escape_no_way_is_given_a_message() {
    for (mode, way) in [
        (DeliveryMode::Plugin, Some(Way::Plugin)),
        (DeliveryMode::Inbox, Some(Way::Inbox)),
        (DeliveryMode::Api, Some(Way::Api)),
        (DeliveryMode::Hook, Some(Way::Hook)),
        (DeliveryMode::Keyboard, None),
    ] {
        let mut play = Play::claude_by(mode);
        if let Some(way) = way {
            play.deliveries.open(way, way == Way::Inbox);
        }
        play.sign(&AgentSign::Escaped);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(Hold::Escaped), "{mode:?}");
        let has_begun = |play: &Play| !play.handed_over().is_empty() || play.has_typed();
        assert!(!has_begun(&play), "{mode:?}");
        play.sign(&AgentSign::PersonSpoke);
        play.passes(ms(2000));
        assert!(has_begun(&play), "{mode:?}");
    }
}

#[test]
fn a_late_hook_does_not_override_the_plugin() {
    for mode in [DeliveryMode::Hook, DeliveryMode::Keyboard] {
        let mut play = Play::claude_by(mode);
        play.deliveries.open(Way::Plugin, false);
        play.deliveries.open(Way::Hook, false);
        play.agent.set_way_reports(true);
        play.sign(&AgentSign::TurnBegan);
        play.sign(&AgentSign::Escaped);
        let late = HookEvent::PromptSubmitted("work".to_owned());
        play.event(&late);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(Hold::Escaped), "{mode:?}");
        assert!(!play.agent.is_busy(play.now), "{mode:?}");
        // In a process that has not loaded the plugin, the hooks decide.
        play.agent.set_way_reports(false);
        play.deliveries.close(Way::Plugin, play.now);
        play.event(&late);
        play.event(&HookEvent::TurnEnded);
        play.passes(ms(3000));
        assert!(
            !play.handed_over().is_empty() || play.has_typed(),
            "{mode:?}"
        );
    }
}

#[test]
fn a_prompt_that_was_refused_before_the_plugin_reported_leaves_the_agent_at_rest() {
    // A hook reports the prompt, and nothing reports its end: no turn began.
    let refused = HookEvent::PromptSubmitted("refused".to_owned());
    let mut later = Play::claude();
    later.sees(Input::Empty);
    later.event(&refused);
    later.agent.set_way_reports(true);
    let mut at_start = Play::with(&CLAUDE, DeliveryMode::Auto);
    at_start.sees(Input::Empty);
    at_start.agent.set_way_reports(true);
    at_start.event(&refused);
    for mut play in [later, at_start] {
        assert!(play.agent.is_busy(play.now), "it may be a turn");
        play.passes(ms(60_000));
        assert!(!play.agent.is_busy(play.now));
        play.sign(&AgentSign::TurnBegan);
        play.passes(ms(60_000));
        assert!(play.agent.is_busy(play.now), "the plugin reports its end");
        play.agent.set_way_reports(false);
        assert!(!play.agent.is_busy(play.now), "nothing but the screen does");
    }
}

#[test]
fn an_escape_while_the_intent_is_written_keeps_the_message_back() {
    for mode in [
        DeliveryMode::Plugin,
        DeliveryMode::Hook,
        DeliveryMode::Keyboard,
    ] {
        let mut play = Play::claude_by(mode);
        play.is_disk_slow = true;
        play.deliveries.open(Way::Plugin, false);
        play.deliveries.open(Way::Hook, false);
        let key = play.offer("x");
        assert!(play.did(&Step::WriteIntent(vec![key])), "{mode:?}");
        play.sign(&AgentSign::Escaped);
        play.deliveries.intent_written();
        play.run();
        assert!(
            play.handed_over().is_empty() && !play.has_typed(),
            "{mode:?}"
        );
        assert_eq!(play.hold(), Some(Hold::Escaped), "{mode:?}");
    }
}

#[test]
fn a_message_for_now_gets_past_escape_by_the_inbox_and_one_for_next_between_tools() {
    for timing in [Timing::Now, Timing::Next] {
        let mut play = Play::claude();
        play.deliveries.open(Way::Plugin, false);
        play.deliveries.open(Way::Inbox, true);
        let sign = match timing {
            Timing::Now => AgentSign::Escaped,
            _ => AgentSign::TurnBegan,
        };
        play.agent.record_sign(&sign, play.now);
        let key = play.deliveries.table.next_key();
        let mut first = message(key, "x", play.now);
        first.timing = timing;
        play.deliveries.table.insert(key, first);
        play.run();
        assert_eq!(play.ways_used(), [Way::Inbox], "{timing:?}");
    }
}

#[test]
fn a_refused_text_does_not_hold_others() {
    let mut play = Play::claude_by(DeliveryMode::Plugin);
    let keys: Vec<MessageKey> = ["good", "bad", "good too"]
        .map(|text| play.offer(text))
        .into();
    play.deliveries.open(Way::Plugin, false);
    play.run();
    let handed = |play: &Play| {
        let mut steps = play.steps.iter().rev();
        steps.find_map(|step| match step {
            Step::Deliver(_, submission) => Some((submission.number, submission.ids.clone())),
            _ => None,
        })
    };
    assert_eq!(handed(&play).unwrap().1, ["m1", "m2", "m3"]);
    play.deliveries.not_taken(1, "by policy", Refusal::Refused);
    for id in ["m1", "m2", "m3"] {
        play.run();
        let (number, ids) = handed(&play).unwrap();
        assert_eq!(ids, [id]);
        if id == "m2" {
            play.deliveries
                .not_taken(number, "by policy Original prompt: bad", Refusal::Refused);
        } else {
            play.deliveries.in_context(number);
        }
    }
    play.run();
    for key in [keys[0], keys[2]] {
        assert!(play.did(&Step::Delivered(vec![key], Way::Plugin)));
    }
    let hold = Hold::Refused("by policy".to_owned());
    assert!(play.did(&Step::Held(vec![keys[1]], hold)));
}

#[test]
fn an_early_hook_does_not_take_precedence_over_the_plugin() {
    let mut play = Play::with(&CLAUDE, DeliveryMode::Auto);
    play.deliveries.expect(Way::Plugin);
    play.deliveries.hooks_work(play.now);
    play.deliveries.open(Way::Hook, false);
    play.offer("early");
    let handed = |play: &Play, wanted: Way| {
        let is_it = |step: &Step| matches!(step, Step::Deliver(way, _) if *way == wanted);
        play.steps.iter().any(is_it)
    };
    assert!(!handed(&play, Way::Hook));
    play.deliveries.open(Way::Plugin, false);
    play.run();
    assert!(handed(&play, Way::Plugin));
}

#[test]
fn a_refused_text_is_held_and_tried_by_no_other_way() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.offer("x");
    play.deliveries
        .not_taken(play.last_key(), "blocked by policy", Refusal::Refused);
    play.passes(ms(60_000));
    let hold = play.hold().unwrap();
    assert_eq!(hold.to_string(), "your agent refused it: blocked by policy");
    assert_eq!(play.handed_over().len(), 1);
    assert!(!play.has_typed());
}

#[test]
fn while_no_process_holds_the_session_no_way_is_given_a_message() {
    let mut play = Play::claude();
    for way in [Way::Plugin, Way::Inbox, Way::Hook] {
        play.deliveries.open(way, way == Way::Inbox);
    }
    play.deliveries.mark_away(Way::Plugin);
    for timing in [Timing::Idle, Timing::Next, Timing::Now] {
        play.offer_for("x", timing);
    }
    play.passes(ms(3_600_000));
    assert_eq!(play.ways_used(), []);
    assert!(!play.has_typed());
    play.deliveries.open(Way::Plugin, false);
    play.run();
    assert_eq!(play.ways_used(), [Way::Plugin]);
    // Or the session's process turns out to have no plugin.
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.deliveries.open(Way::Inbox, true);
    play.deliveries.mark_away(Way::Plugin);
    play.deliveries.close(Way::Plugin, play.now);
    play.offer("x");
    assert_eq!(play.ways_used(), [Way::Inbox]);
}

#[test]
fn a_message_that_goes_in_now_is_not_held_behind_itself() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.is_disk_slow = true;
    let key = play.offer("x");
    play.run();
    assert!(play.did(&Step::WriteIntent(vec![key])));
    let waiting = play.deliveries.waiting(&play.agent, play.now);
    assert_eq!(waiting, []);
}

#[test]
fn a_requested_way_is_the_only_one_used() {
    for (mode, way) in [
        (DeliveryMode::Plugin, Way::Plugin),
        (DeliveryMode::Inbox, Way::Inbox),
        (DeliveryMode::Hook, Way::Hook),
    ] {
        let mut play = Play::claude_by(mode);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(Hold::NoWay), "{mode:?}");
        for open in [Way::Plugin, Way::Inbox, Way::Hook] {
            play.deliveries.open(open, true);
        }
        play.run();
        assert_eq!(play.ways_used(), [way]);
        assert!(!play.has_typed());
    }
}

#[test]
fn the_next_message_waits_for_the_proof_of_the_last() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Plugin, false);
    play.offer("one");
    let two = play.offer("two");
    let three = play.offer("three");
    assert_eq!(play.hold(), Some(Hold::Behind));
    play.deliveries.in_context(play.last_key());
    play.run();
    assert!(play.did(&Step::HandedOver(vec![two, three], Way::Plugin)));
}

#[test]
fn a_text_unseen_by_the_inbox_goes_by_the_next_way_as_a_possible_repeat() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Inbox, true);
    play.offer("x");
    play.deliveries.open(Way::Hook, false);
    play.deliveries.unseen(play.last_key());
    play.run();
    assert_eq!(play.ways_used(), [Way::Inbox, Way::Hook]);
    let again = play.steps.iter().rev().find_map(|step| match step {
        Step::Deliver(_, submission) => Some(submission.text.clone()),
        _ => None,
    });
    assert!(again.unwrap().contains("(possible repeat)"));
    // After one failure the inbox still gets the next message.
    play.deliveries.in_context(play.last_key());
    play.offer("y");
    assert_eq!(play.ways_used().last(), Some(&Way::Inbox));
}

#[test]
fn after_escape_only_messages_for_now_go_by_the_inbox() {
    let mut play = Play::claude();
    for way in [Way::Plugin, Way::Inbox] {
        play.deliveries.open(way, way == Way::Inbox);
    }
    play.sign(&AgentSign::Escaped);
    play.offer("idle");
    assert_eq!(play.ways_used(), []);
    play.deliveries.close(Way::Plugin, play.now);
    play.run();
    assert_eq!(play.ways_used(), [], "it waits for the person");
    assert_eq!(play.hold(), Some(Hold::Escaped));
    play.deliveries.open(Way::Plugin, false);
    play.offer_for("now", Timing::Now);
    assert_eq!(play.ways_used(), [Way::Inbox]);
}

#[test]
fn between_tools_the_inbox_comes_before_the_plugin() {
    let mut play = Play::claude();
    for way in [Way::Plugin, Way::Inbox] {
        play.deliveries.open(way, way == Way::Inbox);
    }
    play.begins("work");
    play.offer_for("next", Timing::Next);
    play.offer("later");
    assert_eq!(play.ways_used(), [Way::Inbox, Way::Plugin]);
}

#[test]
fn at_most_ten_messages_share_a_line_of_the_inbox() {
    let mut play = Play::claude();
    play.deliveries = Deliveries::new(DeliveryMode::Inbox, 50);
    play.deliveries.pause();
    for number in 0..12 {
        play.offer(&format!("text {number}"));
    }
    play.deliveries.open(Way::Inbox, true);
    play.deliveries.resume();
    play.run();
    let ids = play.steps.iter().find_map(|step| match step {
        Step::Deliver(Way::Inbox, submission) => Some(submission.ids.len()),
        _ => None,
    });
    assert_eq!(ids, Some(10));
}
