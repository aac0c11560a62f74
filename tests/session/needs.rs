//! What an agent needs of its person is shown, whatever the person has chosen for its messages.

use crate::claude::ready;
use crate::stage::{Stage, Terminal, wait_for};

crate::tests![
    a_paused_session_with_a_dialog_needs_its_person,
    a_session_that_only_announces_messages_needs_its_person_at_a_dialog,
];

/// The agent asks something.
fn ask(terminal: &Terminal) {
    terminal.submit("please ASK{something}");
    terminal.wait_for_screen("Do you want to proceed?");
}

/// What `wait --until needs-you` prints.
fn need(stage: &Stage) -> String {
    stage.says(&["wait", "peer", "--until", "needs-you", "--timeout", "20"])
}

fn a_paused_session_with_a_dialog_needs_its_person() {
    // It was `paused` only: no command and no page showed that its agent waited.
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "inbox"], "inbox");
    assert_eq!(stage.says(&["pause", "peer"]), "peer: paused\n");
    ask(&terminal);
    let state = need(&stage);
    assert!(state.starts_with("peer: needs you: "), "{state}");
    assert!(state.ends_with("; paused\n"), "{state}");
    assert_eq!(stage.says(&["pause", "peer"]), state);
    stage.send("peer", "held", &[]);
    wait_for("the held message", || {
        stage.says(&["list"]).contains("1 held")
    });
    let list = stage.says(&["list"]);
    assert!(list.contains("; paused "), "{list}");
    assert!(!list.contains("held: paused"), "{list}");
    assert!(list.contains("answer in its terminal"), "{list}");
    terminal.keys(b"\x1b");
    wait_for("the pause", || {
        let list = stage.says(&["list"]);
        list.contains(" paused ") && !list.contains("needs you")
    });
}

fn a_session_that_only_announces_messages_needs_its_person_at_a_dialog() {
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "notify"], "");
    wait_for("the state", || stage.says(&["list"]).contains(" notify "));
    ask(&terminal);
    let state = need(&stage);
    assert!(state.starts_with("peer: needs you: "), "{state}");
}
