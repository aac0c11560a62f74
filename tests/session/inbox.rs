//! Claude Code's inbox socket as a way in: a wrap around an agent that has one, with its silence
//! and its limits.

use crate::claude::{log_lines, ready, wait_for_hold, wait_for_log};
use crate::stage::{Stage, Terminal, body, wait_for};

crate::tests![
    a_message_goes_by_the_inbox_and_a_draft_stays,
    a_message_for_between_tools_comes_between_tools,
    a_message_in_a_running_turn_comes_after_it,
    a_message_behind_a_dialog_is_not_acked_and_not_given_up,
    what_the_inbox_loses_goes_by_the_next_way,
    the_address_follows_the_session_to_another_process,
    where_no_permissions_are_asked_for_the_waiting_hook_passes_the_message_on,
    more_messages_than_the_inbox_takes_at_once_all_arrive,
    a_long_text_reaches_the_inbox_by_file,
    an_agent_without_an_inbox_gets_nothing_by_it_and_the_reason_is_said,
    a_message_for_now_gets_past_escape_by_the_inbox,
    a_row_that_comes_late_still_proves_a_message,
    a_row_that_comes_while_the_broker_is_away_still_proves_a_message,
    a_row_that_comes_after_the_broker_was_away_still_proves_a_message,
];

/// Options for a session that takes messages by its inbox alone.
const INBOX: [&str; 2] = ["--delivery", "inbox"];

fn a_message_goes_by_the_inbox_and_a_draft_stays() {
    let stage = Stage::new();
    let terminal = ready(&stage, &INBOX, "inbox");
    terminal.keys(b"half a draft");
    terminal.wait_for_screen("half a draft");
    let said = stage.send("peer", "by the inbox", &["--wait", "--timeout", "120"]);
    assert!(said.contains("delivered (inbox)"), "{said}");
    let lines = log_lines(&stage, "inbox");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with("] by the inbox [end]"), "{lines:?}");
    assert_eq!(log_lines(&stage, "submitted"), Vec::<String>::new());
    terminal.wait_for_screen("❯ half a draft");
}

fn a_message_for_between_tools_comes_between_tools() {
    let stage = Stage::new();
    let terminal = ready(&stage, &INBOX, "inbox");
    terminal.submit("work TOOL100 SLOW100");
    wait_for_log(&stage, "submitted work");
    let said = stage.send("peer", "between", &["--when", "next", "--wait"]);
    assert!(said.contains("delivered (inbox)"), "{said}");
    let log = stage.text("agent.log");
    assert!(log.contains("between tools [cbroker peer"), "{log}");
    assert!(!log.contains("turn ended"), "{log}");
}

fn a_message_in_a_running_turn_comes_after_it() {
    let stage = Stage::new();
    let terminal = ready(&stage, &INBOX, "inbox");
    terminal.submit("work TOOL5 SLOW10");
    wait_for_log(&stage, "submitted work");
    let said = stage.send("peer", "afterwards", &["--wait"]);
    assert!(said.contains("delivered (inbox)"), "{said}");
    let log = stage.text("agent.log");
    let (before, _) = log.split_once("inbox [cbroker").unwrap();
    assert!(before.contains("turn ended"), "{log}");
}

fn a_message_behind_a_dialog_is_not_acked_and_not_given_up() {
    let stage = Stage::new();
    let terminal = ready(&stage, &INBOX, "inbox");
    terminal.submit("please ASK{something}");
    terminal.wait_for_screen("Do you want to proceed?");
    // Longer than a text of which nothing is seen is waited for.
    let command = "send --to peer -m waits --wait --timeout 5";
    let words: Vec<&str> = command.split(' ').collect();
    let sent = stage.cbroker(&words).output().unwrap();
    assert_eq!(sent.status.code(), Some(4), "{sent:?}");
    assert!(
        stage
            .says(&["--json", "inbox", "peer"])
            .contains("handed over")
    );
    assert!(!stage.text("agent.log").contains("approved"));
    // What waits behind it waits for the same dialog.
    stage.send("peer", "waits too", &[]);
    wait_for("the second message", || {
        stage.says(&["inbox", "peer"]).contains("waits too")
    });
    let list = stage.says(&["list"]);
    assert!(list.contains("2 held"), "{list}");
    assert!(!list.contains("held:"), "{list}");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "inbox [cbroker peer message");
    wait_for("both proofs", || {
        let log = stage.text("home/logs/peer.log");
        log.matches("delivered ").count() == 2
    });
    assert_eq!(log_lines(&stage, "accepted").len(), 2);
}

fn what_the_inbox_loses_goes_by_the_next_way() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "inbox mute");
    terminal.keys(b"half a draft");
    terminal.wait_for_screen("half a draft");
    let said = stage.send("peer", "lost at first", &["--wait"]);
    assert!(said.contains("delivered (hook)"), "{said}");
    let lines = log_lines(&stage, "reminder");
    assert!(
        lines[0].ends_with("] (possible repeat) lost at first [end]"),
        "{lines:?}"
    );
    let log = stage.text("home/logs/peer.log");
    assert!(
        log.contains("inbox: the agent did not accept the text"),
        "{log}"
    );
}

fn the_address_follows_the_session_to_another_process() {
    let stage = Stage::new();
    let terminal = ready(&stage, &INBOX, "inbox moves");
    terminal.keys(b"\x1b[D");
    wait_for_log(&stage, "moved started");
    terminal.wait_for_screen("describe a task");
    let said = stage.send("peer", "where are you", &["--wait"]);
    assert!(said.contains("delivered (inbox)"), "{said}");
    let lines = log_lines(&stage, "moved inbox");
    assert!(lines[0].ends_with("] where are you [end]"), "{lines:?}");
}

fn where_no_permissions_are_asked_for_the_waiting_hook_passes_the_message_on() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &INBOX, "inbox bypass");
    let said = stage.send("peer", "from a child", &["--wait"]);
    assert!(said.contains("delivered (inbox)"), "{said}");
    assert_eq!(log_lines(&stage, "held"), Vec::<String>::new());
}

fn more_messages_than_the_inbox_takes_at_once_all_arrive() {
    let stage = Stage::new();
    stage.configure("max_messages_per_minute = 100\n");
    let options = [&INBOX[..], &["--batch", "1"]].concat();
    let _terminal = ready(&stage, &options, "inbox");
    for number in 0..32 {
        stage.publish("peer", &body(&format!("m{number}"), "SLOW0"));
    }
    wait_for("all of them", || log_lines(&stage, "inbox").len() == 32);
    for number in 0..32 {
        let log = stage.text("agent.log");
        let id = format!("inbox [cbroker peer message from=tester id=m{number}]");
        assert_eq!(log.matches(&id).count(), 1, "{id}");
    }
    let lines = log_lines(&stage, "inbox");
    assert!(!lines.join("\n").contains("(possible repeat)"), "{lines:?}");
}

fn a_long_text_reaches_the_inbox_by_file() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &INBOX, "inbox");
    let text = "\"".repeat(400_000);
    stage.publish("peer", &body("long", &text));
    wait_for_log(&stage, "inbox [cbroker peer message from=tester id=long");
    let lines = log_lines(&stage, "inbox");
    let path = lines[0]
        .split_whitespace()
        .find(|word| word.contains("/spill/"))
        .unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), text);
}

fn an_agent_without_an_inbox_gets_nothing_by_it_and_the_reason_is_said() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &INBOX, "");
    stage.send("peer", "in vain", &[]);
    wait_for_hold(&stage, "no way in works");
    let log = stage.text("home/logs/peer.log");
    assert!(log.contains("names no inbox socket"), "{log}");
}

fn a_message_for_now_gets_past_escape_by_the_inbox() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "inbox plugin");
    wait_for("the plugin's hello", || {
        stage
            .text("home/logs/peer.log")
            .contains("by plugin is open")
    });
    terminal.submit("work SLOW100");
    terminal.wait_for_screen("esc to interrupt");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "interrupted");
    stage.send("peer", "waits", &[]);
    wait_for_hold(&stage, "you pressed Escape");
    let said = stage.send("peer", "now", &["--when", "now", "--wait"]);
    assert!(said.contains("delivered (inbox)"), "{said}");
    assert_eq!(log_lines(&stage, "plugin"), Vec::<String>::new());
    terminal.submit("go on");
    wait_for_log(&stage, "plugin [cbroker peer message");
}

/// A message that the inbox took, of which no row was written in time, and that is held now.
fn belated(stage: &Stage) -> Terminal {
    let terminal = ready(stage, &INBOX, "inbox belated");
    stage.send("peer", "read at once", &[]);
    wait_for_log(stage, "belated [cbroker");
    wait_for_hold(stage, "no way in works");
    terminal
}

fn row_is_written(stage: &Stage) {
    std::fs::write(stage.path("row"), "").unwrap();
}

/// Only the first copy had no mark, and the message is in no queue any more.
fn is_settled(stage: &Stage) {
    wait_for("the ack", || {
        stage.consumers("peer") == 1
            && stage.waiting("peer") == 0
            && !stage.says(&["inbox", "peer"]).contains("read at once")
    });
    let copies = log_lines(stage, "belated");
    let is_bare = |line: &&String| !line.contains("(possible repeat)");
    assert_eq!(copies.iter().filter(is_bare).count(), 1, "{copies:?}");
}

fn a_row_that_comes_late_still_proves_a_message() {
    // It was looked for during five seconds, and the message was held for ever.
    let stage = Stage::new();
    let _terminal = belated(&stage);
    row_is_written(&stage);
    is_settled(&stage);
    let said = stage.text("home/logs/peer.log");
    assert!(said.contains("(inbox)"), "{said}");
}

fn a_row_that_comes_while_the_broker_is_away_still_proves_a_message() {
    let mut stage = Stage::new();
    let _terminal = belated(&stage);
    stage.stop_broker();
    row_is_written(&stage);
    wait_for("the note on disk", || {
        stage.text("home/sessions/peer.seen").contains("done ")
    });
    let copies = log_lines(&stage, "belated").len();
    stage.start_broker();
    is_settled(&stage);
    assert_eq!(log_lines(&stage, "belated").len(), copies);
}

fn a_row_that_comes_after_the_broker_was_away_still_proves_a_message() {
    let mut stage = Stage::new();
    let _terminal = belated(&stage);
    stage.stop_broker();
    stage.start_broker();
    wait_for("the session to be back", || stage.consumers("peer") == 1);
    wait_for_hold(&stage, "no way in works");
    row_is_written(&stage);
    is_settled(&stage);
}
