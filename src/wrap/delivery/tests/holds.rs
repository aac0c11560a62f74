//! Drafts, readiness, unknown programs, stops and pauses.

use super::*;

#[test]
fn a_draft_on_the_screen_or_a_recent_key_holds() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.sees(holds("half"));
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Draft));
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.press(KeyPress::Text(1));
    play.offer("x");
    play.passes(ms(900));
    assert_eq!(play.hold(), Some(Hold::Draft));
    assert!(
        !play.has_typed(),
        "a key was pressed less than a second ago"
    );
    play.passes(ms(60_000));
    assert!(!play.has_typed(), "nothing was drawn since the key");
    play.sees(Input::Empty);
    play.passes(ms(60));
    assert!(play.has_typed(), "the screen shows an empty box");
}

#[test]
fn without_a_known_prompt_keys_that_were_not_deleted_are_a_draft() {
    let mut play = Play::unknown();
    play.press(KeyPress::Text(2));
    play.press(KeyPress::Backspace);
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Draft));
    play.press(KeyPress::Backspace);
    play.passes(ms(3000));
    assert!(play.has_typed());
}

#[test]
fn a_line_that_is_drawn_empty_after_the_keys_is_no_draft_whatever_they_were() {
    // Keys whose effect is not tracked (a history, an editor's shortcuts) must not count as a draft
    // once the line is drawn empty.
    let mut play = Play::quiet("codex");
    play.press(KeyPress::Text(2));
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Draft), "nothing was drawn since");
    let mut play = Play::quiet("codex");
    play.press(KeyPress::Text(2));
    play.offer("x");
    play.passes(ms(100));
    play.sees(Input::Empty);
    play.passes(ms(2800));
    assert_eq!(
        play.hold(),
        Some(Hold::Draft),
        "a key was pressed less than three seconds ago"
    );
    play.passes(ms(100));
    assert!(play.has_typed());
    let mut play = Play::quiet("codex");
    play.sees(holds("› what nobody was seen to type"));
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Draft));
}

#[test]
fn nothing_is_typed_before_the_session_began_and_paste_is_on() {
    let mut play = Play::with(&CLAUDE, DeliveryMode::Auto);
    play.sees(Input::Empty);
    play.offer("x");
    play.passes(ms(9000));
    assert_eq!(play.hold(), Some(Hold::Starting));
    play.event(&HookEvent::SessionStart);
    play.passes(ms(60));
    assert!(play.has_typed());
    let mut play = Play::claude();
    play.output("\x1b[?2004l");
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Starting));
}

#[test]
fn without_hooks_the_screen_alone_decides_after_ten_seconds_and_with_more_quiet() {
    let mut play = Play::with(&CLAUDE, DeliveryMode::Auto);
    play.sees(Input::Empty);
    play.offer("x");
    play.passes(ms(9900));
    play.output("something moves");
    play.passes(ms(200));
    assert!(
        !play.has_typed(),
        "ten seconds, but not quiet for 1.5 of them"
    );
    play.passes(ms(1400));
    assert!(play.has_typed());
}

#[test]
fn an_unknown_program_needs_quiet_idle_hands_and_gets_one_enter() {
    let mut play = Play::unknown();
    play.output("moving");
    play.offer("x");
    play.passes(ms(1400));
    assert!(!play.has_typed());
    play.passes(ms(100));
    assert!(play.has_typed());
    play.output("echo");
    play.passes(ms(99));
    assert_eq!(play.enters(), 0);
    play.passes(ms(1));
    assert_eq!(play.enters(), 1);
    play.passes(ms(60_000));
    assert_eq!(play.enters(), 1, "never a second Enter");
    let mut play = Play::unknown();
    play.press(KeyPress::Text(1));
    play.press(KeyPress::Enter);
    play.offer("x");
    play.passes(ms(2900));
    assert!(!play.has_typed());
    play.passes(ms(100));
    assert!(play.has_typed());
}

#[test]
fn with_a_known_resting_screen_nothing_is_typed_into_any_other() {
    // A message answered Gemini's question whether a folder is trusted.
    let mut play = Play::quiet("gemini");
    play.reads(ScreenReading::default());
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::UnknownScreen));
    assert!(!play.has_typed());
    play.sees(Input::Empty);
    play.passes(ms(1500));
    assert!(play.has_typed());
    play.sees(holds("> [cbroker peer message"));
    play.passes(ms(500));
    assert_eq!(play.enters(), 1, "the text stands in it");
}

#[test]
fn notify_types_nothing_ever() {
    let mut play = Play::claude_by(DeliveryMode::Notify);
    play.deliveries.open(Way::Hook, false);
    play.offer("x");
    play.passes(ms(60_000));
    assert!(play.steps.is_empty());
    assert_eq!(play.hold(), Some(Hold::Notify));
}

#[test]
fn a_stopped_program_gets_nothing() {
    let mut play = Play::claude();
    play.agent.suspend();
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Suspended));
    play.agent.resume();
    play.run();
    assert!(play.has_typed());
}

#[test]
fn shell_mode_and_vim_normal_mode_are_holds_of_their_own() {
    for (input, hold) in [
        (Input::Shell, Hold::ShellMode),
        (Input::Command, Hold::VimNormal),
    ] {
        let mut play = Play::claude();
        play.sees(input);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(hold));
        assert!(!play.has_typed());
    }
}

#[test]
fn a_plain_footer_after_insert_mode_means_normal_mode() {
    let footer = |vim| ScreenReading {
        input: Input::Empty,
        vim,
        ..ScreenReading::default()
    };
    let mut play = Play::claude();
    play.reads(footer(Vim::Plain));
    play.reads(footer(Vim::Insert));
    play.reads(footer(Vim::Plain));
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::VimNormal));
    play.reads(footer(Vim::Insert));
    play.passes(ms(60));
    assert!(play.has_typed());
}

#[test]
fn escape_at_a_dialog_is_detected_on_the_screen() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.event(&HookEvent::PermissionAsked("Bash".into()));
    play.reads(ScreenReading {
        dialog: Some("permission".into()),
        ..ScreenReading::default()
    });
    play.offer("x");
    play.press(KeyPress::Escape);
    play.passes(ms(100));
    play.sees(Input::Empty);
    assert!(!play.has_typed());
    play.passes(ms(1600));
    assert!(play.has_typed());
}

#[test]
fn escape_in_a_turn_is_detected_on_the_screen() {
    let mut play = Play::claude_by(DeliveryMode::Keyboard);
    play.begins("long");
    play.offer("x");
    play.passes(ms(60_000));
    assert!(!play.has_typed(), "a quiet screen alone ends no turn");
    play.press(KeyPress::Escape);
    play.output("\x1b]0;\u{2733} Claude Code\x07");
    play.sees(Input::Empty);
    play.passes(ms(1600));
    assert!(play.has_typed());
}

#[test]
fn pause_holds_messages_and_resume_also_releases_the_brake() {
    let mut play = Play::claude();
    play.deliveries.pause();
    let held = play.offer_braked();
    let other = play.offer("x");
    play.passes(ms(60_000));
    assert!(!play.has_typed());
    let waiting = play.deliveries.waiting(&play.agent, play.now);
    assert_eq!(waiting, [(held, Hold::Loop), (other, Hold::Paused)]);
    play.deliveries.resume();
    play.run();
    assert!(play.did(&Step::WriteIntent(vec![held, other])));
}

#[test]
fn a_message_that_the_persons_hook_refused_stays_blocked_when_the_brake_releases() {
    let mut play = Play::claude_by(DeliveryMode::Inbox);
    play.deliveries.open(Way::Inbox, false);
    let refused = play.offer("refused");
    let refusal = crate::wrap::ways::Refusal::Refused;
    play.deliveries.not_taken(1, "not this", refusal);
    let braked = play.offer_braked();
    play.run();
    play.deliveries.release_brake();
    play.run();
    assert!(play.did(&Step::WriteIntent(vec![braked])));
    let hold = Hold::Refused("not this".into());
    let waiting = play.deliveries.waiting(&play.agent, play.now);
    assert!(waiting.contains(&(refused, hold)), "{waiting:?}");
    play.deliveries.in_context(2);
    play.deliveries.resume();
    play.run();
    assert!(
        play.did(&Step::WriteIntent(vec![refused])),
        "`resume` releases it"
    );
}

#[test]
fn braked_messages_do_not_delay_others() {
    let mut play = Play::claude();
    play.offer_braked();
    let key = play.offer("x");
    assert!(play.did(&Step::WriteIntent(vec![key])));
}

impl Play {
    /// A message that the brake holds.
    fn offer_braked(&mut self) -> MessageKey {
        let key = self.deliveries.table.next_key();
        let mut braked = message(key, "y", self.now);
        braked.blocked = Some(Hold::Loop);
        self.deliveries.table.insert(key, braked);
        key
    }
}

/// The ways identify a message by its id, so a proof of one message would prove the other too.
#[test]
fn two_messages_under_one_id_are_never_with_the_agent_at_once() {
    let mut play = Play::claude();
    play.deliveries.open(Way::Inbox, false);
    let first = play.offer("of a stranger");
    let key = play.deliveries.table.next_key();
    let mut genuine = message(key, "genuine", play.now);
    genuine.envelope.id = "m1".to_owned();
    play.deliveries.table.insert(key, genuine);
    play.run();
    let third = play.offer("another");
    assert!(
        play.deliveries.displace(first).is_none(),
        "it is with the agent"
    );
    let holds = play.deliveries.waiting(&play.agent, play.now);
    assert_eq!(holds[0], (key, Hold::Behind));
    play.deliveries.in_context(1);
    play.run();
    assert!(play.did(&Step::Delivered(vec![first], Way::Inbox)));
    // The message stays in the table until it is acked.
    assert!(play.did(&Step::WriteIntent(vec![third])));
    play.deliveries.table.remove(first);
    play.deliveries.in_context(2);
    play.run();
    assert!(play.did(&Step::WriteIntent(vec![key])));
}

#[test]
fn only_waiting_messages_can_be_taken_by_a_command() {
    let mut play = Play::claude();
    let one = play.offer("x");
    let two = play.offer("y");
    assert_eq!(play.deliveries.take_for_command([one].into_iter()), None);
    assert!(
        play.deliveries
            .take_for_command([one, two].into_iter())
            .is_some()
    );
    play.run();
    assert!(play.did(&Step::WriteIntent(vec![two])));
}

#[test]
fn neither_control_c_nor_escape_alone_is_ever_written() {
    let mut play = Play::claude();
    play.offer("\x03 \x1b x");
    play.shows_text();
    play.turn("m1");
    for bytes in play.typed() {
        let text = bytes
            .strip_prefix("\x1b[200~")
            .and_then(|text| text.strip_suffix("\x1b[201~"));
        let text = text.unwrap_or(if bytes == "\r" { "" } else { "\x1b" });
        assert!(!text.chars().any(char::is_control), "{bytes:?}");
    }
}

#[test]
fn a_screen_without_cursor_or_paste_is_not_ready() {
    let mut play = Play::unknown();
    play.output("\x1b[?2004l\x1b[?25l");
    play.offer("x");
    play.passes(ms(60_000));
    assert_eq!(play.hold(), Some(Hold::Starting));
    assert!(!play.has_typed());
    play.output("\x1b[?25h");
    play.passes(ms(1500));
    assert!(play.has_typed());
}

#[test]
fn a_dialog_or_a_turn_that_the_screen_shows_holds_where_the_profile_knows_their_looks() {
    let dialog = ScreenReading {
        dialog: Some("approval".into()),
        ..ScreenReading::default()
    };
    let turn = ScreenReading {
        shows_busy: true,
        ..ScreenReading::default()
    };
    for (reading, hold) in [
        (dialog, Hold::Dialog("approval".into())),
        (turn, Hold::Busy),
    ] {
        let mut play = Play::quiet("codex");
        play.reads(reading);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(hold));
        assert!(!play.has_typed());
        play.sees(Input::Empty);
        play.passes(ms(1500));
        assert!(play.has_typed());
    }
}

#[test]
fn a_menu_whose_end_is_not_reported_does_not_hold_for_ever() {
    // The process that had opened it had lost the session, or the report was lost.
    for is_plugin_gone in [true, false] {
        let mut play = Play::claude_by(DeliveryMode::Keyboard);
        play.agent.set_way_reports(true);
        play.agent
            .record_sign(&AgentSign::Menu("model".into()), play.now);
        play.offer("x");
        play.passes(ms(60_000));
        assert_eq!(play.hold(), Some(Hold::Dialog("model".into())));
        if is_plugin_gone {
            play.agent.set_way_reports(false);
        } else {
            play.agent.record_sign(&AgentSign::PersonSpoke, play.now);
        }
        play.run();
        assert!(play.has_typed(), "{is_plugin_gone}");
    }
}
