//! What an agent shows as waiting is not in its model's context: it is not acked, it is not lost
//! with the agent, and nothing else is typed meanwhile.

use rustix::process::{Pid, Signal, kill_process};

use crate::claude::{log_lines, wait_for_hold, wait_for_log};
use crate::stage::{Stage, Terminal, wait_for};

crate::tests![
    no_text_that_is_shown_as_queued_is_lost_with_its_agent,
    a_text_that_is_shown_as_queued_is_acked_when_its_turn_begins,
    a_text_that_waits_for_the_start_is_acked_when_the_start_is_over,
    nothing_is_typed_into_a_view_that_waits_for_the_start,
];

const KEYBOARD: [&str; 2] = ["--delivery", "pty"];

fn wrapped(stage: &Stage, program: &str, quirks: &str) -> Terminal {
    stage.wrap_with(&KEYBOARD, &[program], &[("AGENT", quirks)])
}

/// The agent has the message, and its model has not.
fn wait_for_hand_over(stage: &Stage) {
    wait_for("the hand-over", || {
        stage
            .says(&["--json", "inbox", "peer"])
            .contains("handed over")
    });
}

fn was_delivered(stage: &Stage) -> bool {
    stage.text("home/logs/peer.log").contains("delivered ")
}

fn go(stage: &Stage) {
    std::fs::write(stage.path("go"), "").unwrap();
}

fn no_text_that_is_shown_as_queued_is_lost_with_its_agent() {
    // It was acked when it stood above the empty line, and the agent ended before it read it.
    let stage = Stage::new();
    let mut terminal = wrapped(&stage, "opencode", "");
    stage.send("peer", "not read", &[]);
    terminal.wait_for_screen("QUEUED");
    wait_for_hand_over(&stage);
    // Time enough for an ack that comes too early.
    let behind = "send --to peer -m behind --wait --timeout 2";
    let words: Vec<&str> = behind.split(' ').collect();
    assert_eq!(
        stage.cbroker(&words).output().unwrap().status.code(),
        Some(4)
    );
    assert!(!was_delivered(&stage));
    let pid = log_lines(&stage, "process")[0].replace("process ", "");
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    terminal.wait_for_end();
    wait_for("the messages in their queue", || {
        stage.consumers("peer") == 0 && stage.waiting("peer") == 2
    });
    go(&stage);
    let _terminal = wrapped(&stage, "opencode", "");
    wait_for_log(&stage, "submitted [cbroker");
    let submitted = log_lines(&stage, "submitted [cbroker");
    assert!(
        submitted[0].contains("] (possible repeat) not read [end]"),
        "{submitted:?}"
    );
    wait_for("its proof", || was_delivered(&stage));
}

/// The text waits, its wait ends at the next key, and then it counts as read.
fn is_acked_after_its_wait(program: &str, quirks: &str, shown: &str) {
    let stage = Stage::new();
    let terminal = wrapped(&stage, program, quirks);
    stage.send("peer", "read later", &[]);
    terminal.wait_for_screen(shown);
    wait_for_hand_over(&stage);
    assert!(!was_delivered(&stage));
    go(&stage);
    // The end of the wait is drawn at a key.
    terminal.keys(b"\x1b[A");
    wait_for_log(&stage, "submitted [cbroker");
    wait_for("its proof", || was_delivered(&stage));
    let log = stage.text("agent.log");
    assert_eq!(log.matches("submitted ").count(), 1, "{log}");
    assert!(!log.contains("(possible repeat)"), "{log}");
}

fn a_text_that_is_shown_as_queued_is_acked_when_its_turn_begins() {
    is_acked_after_its_wait("opencode", "", "QUEUED");
}

fn a_text_that_waits_for_the_start_is_acked_when_the_start_is_over() {
    is_acked_after_its_wait("codex", "waits", "Waiting for startup");
}

fn nothing_is_typed_into_a_view_that_waits_for_the_start() {
    let stage = Stage::new();
    let terminal = wrapped(&stage, "codex", "waits loads");
    terminal.wait_for_screen("Waiting for startup");
    stage.send("peer", "too early", &[]);
    wait_for_hold(&stage, "busy");
    let command = "send --to peer -m behind --wait --timeout 4";
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(
        stage.cbroker(&words).output().unwrap().status.code(),
        Some(4)
    );
    assert!(!terminal.screen().contains("too early"));
    go(&stage);
    terminal.keys(b"\x1b[A");
    wait_for_log(&stage, "[cbroker peer message");
    assert!(!stage.text("agent.log").contains("(possible repeat)"));
}
