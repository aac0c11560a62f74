//! Views and modes of the agent in which a key is a command, an answer or somebody else's: nothing
//! is typed there, and the message comes when the main prompt is back.

use crate::claude::{claude, log_lines, ready, wait_for_hold, wait_for_log};
use crate::stage::{Stage, Terminal, wait_for};

crate::tests![
    nothing_is_typed_into_vims_normal_mode,
    nothing_is_typed_into_a_menu_of_sessions,
    no_plan_is_approved_by_a_message,
    nothing_is_typed_into_the_transcript,
    no_folder_is_trusted_by_a_message,
    what_a_window_cannot_show_waits_for_a_larger_one,
    the_waiting_hook_of_a_spare_process_gets_no_message,
    the_inbox_follows_the_session_into_a_spare_process,
    the_plugin_follows_the_session_into_a_spare_process,
    the_waiting_hook_follows_the_session_into_a_spare_process,
];

const KEYBOARD: [&str; 2] = ["--delivery", "pty"];

/// The agent wrote no line that begins so.
fn none(stage: &Stage, word: &str) {
    assert_eq!(log_lines(stage, word), Vec::<String>::new());
}

/// The message came once, by itself, and no other text was submitted.
fn arrives(stage: &Stage, text: &str) {
    wait_for_log(stage, "submitted [cbroker peer message");
    let submitted = log_lines(stage, "submitted [cbroker");
    assert_eq!(submitted.len(), 1, "{submitted:?}");
    let end = format!("] {text} [end]");
    assert!(submitted[0].ends_with(&end), "{submitted:?}");
}

fn nothing_is_typed_into_vims_normal_mode() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "vim");
    terminal.wait_for_screen("-- INSERT --");
    wait_for("the state", || stage.says(&["list"]).contains(" idle"));
    terminal.keys(b"\x1b");
    terminal.wait_for_screen("? for shortcuts");
    stage.send("peer", "dd", &[]);
    wait_for_hold(&stage, "vim normal mode");
    none(&stage, "command");
    terminal.keys(b"i");
    arrives(&stage, "dd");
    none(&stage, "command");
}

fn nothing_is_typed_into_a_menu_of_sessions() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    terminal.submit("/resume");
    terminal.wait_for_screen("Resume session");
    stage.send("peer", "1", &[]);
    wait_for_hold(&stage, "needs you: menu");
    none(&stage, "closed");
    terminal.keys(b"\x1b");
    arrives(&stage, "1");
    assert_eq!(log_lines(&stage, "closed").len(), 1);
}

fn no_plan_is_approved_by_a_message() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    terminal.submit("please PLAN");
    terminal.wait_for_screen("Would you like to proceed?");
    stage.send("peer", "1", &[]);
    wait_for_hold(&stage, "needs you: permission for ExitPlanMode");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "rejected plan");
    arrives(&stage, "1");
    none(&stage, "approved");
}

fn nothing_is_typed_into_the_transcript() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    terminal.keys(b"\x0f");
    terminal.wait_for_screen("ctrl+o to toggle");
    stage.send("peer", "q", &[]);
    wait_for_hold(&stage, "needs you: transcript");
    terminal.keys(b"\x0f");
    arrives(&stage, "q");
    none(&stage, "in the transcript");
}

fn no_folder_is_trusted_by_a_message() {
    for options in [&KEYBOARD[..], &[]] {
        let stage = Stage::new();
        let terminal = claude(&stage, options, "trust plugin inbox");
        wait_for_log(&stage, "asks for trust");
        terminal.wait_for_screen("Do you trust the files");
        stage.send("peer", "2", &[]);
        wait_for_hold(&stage, "needs you: trust");
        assert!(stage.says(&["list"]).contains("needs you: trust"));
        none(&stage, "distrusted");
        terminal.keys(b"2");
        wait_for_log(&stage, "] 2 [end]");
        none(&stage, "distrusted");
    }
}

fn resized(stage: &Stage, terminal: &Terminal, rows: u16, columns: u16) {
    terminal.resize(rows, columns);
    wait_for("a frame of that size", || {
        // The agent draws at a key.
        terminal.keys(b"\x1b[A");
        let drawn = format!("window {rows} {columns}");
        stage.text("agent.log").contains(&drawn)
    });
}

fn what_a_window_cannot_show_waits_for_a_larger_one() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    resized(&stage, &terminal, 16, 60);
    stage.send("peer", &format!("long {}", "words ".repeat(80)), &[]);
    wait_for_hold(&stage, "the window is too small to type into");
    none(&stage, "submitted");
    resized(&stage, &terminal, 30, 120);
    wait_for_log(&stage, "submitted [cbroker peer message");
    assert!(log_lines(&stage, "submitted")[0].contains("/spill/"));
    none(&stage, "scrolled");
}

fn the_waiting_hook_of_a_spare_process_gets_no_message() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &["--delivery", "hook"], "spare");
    wait_for_log(&stage, "spare started");
    let said = stage.send("peer", "for the session", &["--wait"]);
    assert!(said.contains("delivered (hook)"), "{said}");
    assert_eq!(log_lines(&stage, "reminder").len(), 1);
    none(&stage, "spare reminder");
}

/// The agents view is open, and the session has moved to the process that waited for it.
fn moved_to_spare(stage: &Stage, way: &str, quirks: &str) -> Terminal {
    let quirks = format!("{quirks} spare claims");
    let terminal = ready(stage, &["--delivery", way], &quirks);
    wait_for_log(stage, "spare started");
    terminal.keys(b"\x1b[D");
    wait_for_log(stage, "claimed started");
    terminal.wait_for_screen("describe a task");
    terminal
}

/// A message comes to the process that has the session by this way, and to no other process.
fn follows(way: &str, quirks: &str, taken: &str) {
    let stage = Stage::new();
    let _terminal = moved_to_spare(&stage, way, quirks);
    let said = stage.send("peer", "where are you", &["--wait"]);
    assert!(said.contains(&format!("delivered ({way})")), "{said}");
    let lines = log_lines(&stage, &format!("claimed {taken}"));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with("] where are you [end]"), "{lines:?}");
    for other in [
        "new session",
        "spare plugin",
        "spare inbox",
        "spare reminder",
    ] {
        none(&stage, other);
    }
}

fn the_inbox_follows_the_session_into_a_spare_process() {
    follows("inbox", "inbox", "inbox");
}

fn the_plugin_follows_the_session_into_a_spare_process() {
    follows("plugin", "plugin", "plugin");
}

fn the_waiting_hook_follows_the_session_into_a_spare_process() {
    let stage = Stage::new();
    let _terminal = moved_to_spare(&stage, "hook", "unarmed");
    stage.send("peer", "where are you", &[]);
    wait_for_hold(&stage, "needs you: another view");
    std::fs::write(stage.path("arm"), "").unwrap();
    wait_for_log(&stage, "claimed reminder [cbroker");
    for other in ["accepted", "reminder", "spare reminder"] {
        none(&stage, other);
    }
}
