//! The plugin as a way in: a wrap around an agent that loads it, with what it refuses and with the
//! processes that must not have a message.

use crate::claude::{log_lines, ready, wait_for_hold, wait_for_log};
use crate::stage::{Stage, wait_for};

crate::tests![
    a_message_is_submitted_by_the_plugin_and_a_draft_stays,
    a_message_in_a_running_turn_is_submitted_after_it,
    a_message_behind_a_dialog_comes_when_it_closes,
    after_escape_a_message_waits_for_the_person,
    after_escape_a_message_waits_by_hook_and_keyboard_too,
    what_escape_drops_comes_again_with_the_persons_next_input,
    the_plugin_follows_the_session_to_another_process,
    while_no_process_holds_the_session_no_way_is_given_a_message,
    a_spare_process_gets_no_message,
    an_agent_without_the_plugin_gets_its_messages_by_another_way,
];

fn with_plugin(stage: &Stage, quirks: &str) -> crate::stage::Terminal {
    let terminal = ready(stage, &[], &format!("plugin {quirks}"));
    wait_for("the plugin's hello", || {
        let log = stage.text("home/logs/peer.log");
        log.contains("the way in by plugin is open")
    });
    terminal
}

fn a_message_is_submitted_by_the_plugin_and_a_draft_stays() {
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "");
    terminal.keys(b"half a draft");
    terminal.wait_for_screen("half a draft");
    let said = stage.send("peer", "without a key", &["--wait"]);
    assert!(said.contains("delivered (plugin)"), "{said}");
    let lines = log_lines(&stage, "plugin");
    assert!(lines[0].ends_with("] without a key [end]"), "{lines:?}");
    assert_eq!(log_lines(&stage, "submitted"), Vec::<String>::new());
    terminal.wait_for_screen("❯ half a draft");
}

fn a_message_in_a_running_turn_is_submitted_after_it() {
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "");
    terminal.submit("work SLOW10");
    wait_for_log(&stage, "submitted work");
    let said = stage.send("peer", "afterwards", &["--wait"]);
    assert!(said.contains("delivered (plugin)"), "{said}");
    let log = stage.text("agent.log");
    let (before, _) = log.split_once("plugin [cbroker").unwrap();
    assert!(before.contains("turn ended"), "{log}");
}

fn a_message_behind_a_dialog_comes_when_it_closes() {
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "");
    terminal.submit("please ASK{something}");
    terminal.wait_for_screen("Do you want to proceed?");
    stage.send("peer", "patience", &[]);
    wait_for_log(&stage, "asked to submit [cbroker");
    assert!(
        stage
            .says(&["--json", "inbox", "peer"])
            .contains("handed over")
    );
    assert!(!stage.text("agent.log").contains("approved"));
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "plugin [cbroker");
    assert!(!stage.text("agent.log").contains("approved"));
}

fn after_escape_a_message_waits_for_the_person() {
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "");
    terminal.submit("work SLOW3000");
    wait_for_log(&stage, "submitted work");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "interrupted");
    stage.send("peer", "waits", &[]);
    wait_for_hold(&stage, "you pressed Escape");
    terminal.submit("go on");
    wait_for_log(&stage, "plugin [cbroker");
    let log = stage.text("agent.log");
    let (before, _) = log.split_once("plugin [cbroker").unwrap();
    assert!(before.contains("submitted go on"), "{log}");
}

fn after_escape_a_message_waits_by_hook_and_keyboard_too() {
    for (way, word) in [("hook", "reminder"), ("pty", "submitted")] {
        let stage = Stage::new();
        let terminal = ready(&stage, &["--delivery", way], "plugin");
        wait_for("the plugin's hello", || {
            let log = stage.text("home/logs/peer.log");
            log.contains("the way in by plugin is open")
        });
        terminal.submit("work SLOW3000");
        wait_for_log(&stage, "submitted work");
        terminal.keys(b"\x1b");
        wait_for("the news of Escape", || {
            let log = stage.text("home/logs/peer.log");
            log.contains("the person pressed Escape")
        });
        stage.send("peer", "waits", &[]);
        wait_for_hold(&stage, "you pressed Escape");
        terminal.submit("go on");
        let arrival = format!("{word} [cbroker");
        wait_for_log(&stage, &arrival);
        let log = stage.text("agent.log");
        let (before, _) = log.split_once(&arrival).unwrap();
        assert!(before.contains("submitted go on"), "{log}");
    }
}

fn what_escape_drops_comes_again_with_the_persons_next_input() {
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "");
    terminal.submit("work SLOW3000");
    wait_for_log(&stage, "submitted work");
    stage.send("peer", "dropped at first", &[]);
    wait_for_log(&stage, "asked to submit [cbroker");
    terminal.keys(b"\x1b");
    wait_for_hold(&stage, "you pressed Escape");
    assert_eq!(log_lines(&stage, "plugin"), Vec::<String>::new());
    terminal.submit("go on");
    wait_for_log(&stage, "plugin [cbroker");
    let lines = log_lines(&stage, "plugin");
    assert!(lines[0].ends_with("] dropped at first [end]"), "{lines:?}");
    assert!(
        !lines[0].contains("(possible repeat)"),
        "it was certain: {lines:?}"
    );
}

fn the_plugin_follows_the_session_to_another_process() {
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "moves");
    terminal.keys(b"\x1b[D");
    wait_for_log(&stage, "moved started");
    let said = stage.send("peer", "where are you", &["--wait"]);
    assert!(said.contains("delivered (plugin)"), "{said}");
    let lines = log_lines(&stage, "moved plugin");
    assert!(lines[0].ends_with("] where are you [end]"), "{lines:?}");
    for word in ["new session", "plugin"] {
        assert_eq!(log_lines(&stage, word), Vec::<String>::new());
    }
}

fn while_no_process_holds_the_session_no_way_is_given_a_message() {
    // On a busy machine the process that the session moves to begins half a minute later. Inbox
    // and hook of the old one took messages all the same, and nobody read them.
    let stage = Stage::new();
    let terminal = with_plugin(&stage, "inbox moves lingers");
    terminal.keys(b"\x1b[D");
    terminal.wait_for_screen("describe a task");
    stage.send("peer", "where are you", &[]);
    // Each second once; this is longer than a text without a home waits for one.
    wait_for("many offers", || {
        log_lines(&stage, "asked to submit").len() >= 18
    });
    let now = ["--when", "now"];
    stage.send("peer", "and now", &now);
    std::fs::write(stage.path("move"), "").unwrap();
    wait_for_log(&stage, "moved started");
    for text in ["where are you [end]", "and now [end]"] {
        wait_for("its proof", || {
            let log = stage.text("agent.log");
            let lines = log.lines().filter(|line| line.ends_with(text));
            lines.filter(|line| line.starts_with("moved ")).count() == 1
        });
    }
    let lines = log_lines(&stage, "moved ").join("\n");
    assert!(!lines.contains("(possible repeat)"), "{lines}");
    for word in ["reminder", "inbox", "accepted"] {
        assert_eq!(log_lines(&stage, word), Vec::<String>::new());
    }
}

fn a_spare_process_gets_no_message() {
    let stage = Stage::new();
    let _terminal = with_plugin(&stage, "spare");
    wait_for_log(&stage, "spare started");
    let said = stage.send("peer", "for the session", &["--wait"]);
    assert!(said.contains("delivered (plugin)"), "{said}");
    assert_eq!(log_lines(&stage, "plugin").len(), 1);
    assert_eq!(log_lines(&stage, "spare plugin"), Vec::<String>::new());
}

fn an_agent_without_the_plugin_gets_its_messages_by_another_way() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &[], "");
    let said = stage.send("peer", "by another way", &["--wait"]);
    assert!(said.contains("delivered (hook)"), "{said}");
}
