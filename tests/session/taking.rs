//! What a command cannot take out of a session: a message that is with the agent already. It is
//! shown to nobody as taken or removed, and the agent gets it once.

use serde_json::{Value, json};

use crate::claude::{log_lines, ready, wait_for_log};
use crate::stage::{Stage, Terminal, wait_for};

crate::tests![
    a_take_prints_only_what_it_takes,
    a_message_that_the_agent_has_is_not_taken,
    a_purge_says_which_messages_stay_with_the_agent,
];

const IS_LEFT: &str = "1 message, which the agent or another command already has";

/// A session whose agent takes no Enter: its box holds `in the box`, and `behind it` waits.
fn stuck(stage: &Stage) -> Terminal {
    stage.send("peer", "in the box", &[]);
    let terminal = stage.wrap(&[], &["gemini"]);
    wait_for("the session to be stuck", || {
        stage.says(&["list"]).contains(" stuck ")
    });
    stage.send("peer", "behind it", &[]);
    wait_for("the second message", || {
        stage.says(&["inbox", "peer"]).contains("behind it")
    });
    terminal
}

fn a_take_prints_only_what_it_takes() {
    // Both were printed as taken, and the agent could still read the first one.
    let stage = Stage::new();
    let _terminal = stuck(&stage);
    let taken = stage.says(&["inbox", "peer", "--take"]);
    assert!(taken.contains("behind it [end]"), "{taken}");
    assert!(!taken.contains("in the box"), "{taken}");
    assert!(taken.contains(IS_LEFT), "{taken}");
    let left = stage.says(&["inbox", "peer"]);
    assert!(left.contains("in the box [end]"), "{left}");
    assert!(!left.contains("behind it"), "{left}");
}

fn a_message_that_the_agent_has_is_not_taken() {
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "inbox"], "inbox");
    terminal.submit("please ASK{something}");
    terminal.wait_for_screen("Do you want to proceed?");
    stage.send("peer", "for the agent", &[]);
    wait_for("the hand-over", || {
        stage.says(&["inbox", "peer"]).starts_with("handed over")
    });
    let mut taking = stage.cbroker(&["--json", "inbox", "peer", "--take"]);
    let mut output = taking.output().unwrap();
    wait_for("an answer in time", || {
        let has_answered = output.status.success();
        if !has_answered {
            output = taking.output().unwrap();
        }
        has_answered
    });
    let taken: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(taken, Value::Array(Vec::new()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(IS_LEFT), "{said}");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "inbox [cbroker peer message");
    wait_for("its proof", || {
        stage.says(&["history", "peer"]).contains("delivered")
    });
    let lines = log_lines(&stage, "inbox");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

fn a_purge_says_which_messages_stay_with_the_agent() {
    // It reported 0 deleted messages, and the session went on holding one.
    let stage = Stage::new();
    let _terminal = stuck(&stage);
    let mut purging = stage.cbroker(&["purge", "peer", "--yes", "--force"]);
    let purged = purging.output().unwrap();
    assert!(purged.status.success(), "{purged:?}");
    assert_eq!(purged.stdout, b"purged peer: 1 message deleted\n");
    let said = String::from_utf8_lossy(&purged.stderr).into_owned();
    assert!(said.contains(IS_LEFT), "{said}");
    let left = stage.says(&["inbox", "peer"]);
    assert!(left.contains("in the box [end]"), "{left}");
    let purged = stage.says(&["--json", "purge", "peer", "--yes", "--force"]);
    let purged: Value = serde_json::from_str(&purged).unwrap();
    assert_eq!(purged, json!({ "name": "peer", "purged": 0, "left": 1 }));
    let deleted = stage.says(&["--json", "delete", "peer", "--yes", "--force"]);
    let deleted: Value = serde_json::from_str(&deleted).unwrap();
    assert_eq!(deleted["left"], 1, "{deleted}");
    let help = stage.says(&["purge", "--help"]);
    assert!(help.contains("what its agent has stays"), "{help}");
}
