//! What a session holds when its queue is purged or deleted: neither lost in silence nor uncounted.

use crate::stage::{Stage, Terminal, body, wait_for};

crate::tests![
    purge_and_delete_refuse_while_a_session_is_attached,
    what_a_session_held_is_counted_and_its_end_is_in_its_story,
    what_waited_in_a_queue_has_its_end_in_its_story_too,
];

/// A session that holds these messages.
fn holding(stage: &Stage, ids: &[&str]) -> Terminal {
    let terminal = stage.wrap(&[], &["sink", stage.path("sink.txt").to_str().unwrap()]);
    terminal.wait_for("sink is ready");
    hold(stage, ids);
    terminal
}

fn hold(stage: &Stage, ids: &[&str]) {
    for id in ids {
        stage.publish("peer", &body(id, "text"));
        wait_for("it in the inbox", || {
            stage.says(&["inbox", "peer"]).contains(&format!("id={id}"))
        });
    }
}

fn purge_and_delete_refuse_while_a_session_is_attached() {
    let stage = Stage::new();
    let _terminal = holding(&stage, &["m1", "m2"]);
    for verb in ["purge", "delete"] {
        // A session that answers late has not said how many it holds.
        wait_for("the number of messages", || {
            let output = stage.cbroker(&[verb, "peer", "--yes"]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            said.contains("holds 2 messages") && said.contains("--force")
        });
    }
    assert_eq!(stage.says(&["inbox", "peer"]).matches("id=m").count(), 2);
}

fn what_a_session_held_is_counted_and_its_end_is_in_its_story() {
    // They were dropped, and the command reported 0 messages.
    let stage = Stage::new();
    let _terminal = holding(&stage, &["m1", "m2"]);
    assert_eq!(
        stage.says(&["purge", "peer", "--yes", "--force"]),
        "purged peer: 2 messages deleted\n"
    );
    assert!(!stage.says(&["inbox", "peer"]).contains("id=m"));
    hold(&stage, &["m3"]);
    assert_eq!(
        stage.says(&["delete", "peer", "--yes", "--force"]),
        "deleted peer and 1 message\n"
    );
    for (id, end) in [("m1", "purged"), ("m2", "purged"), ("m3", "deleted")] {
        wait_for(&format!("the end of {id}"), || {
            stage.says(&["why", id]).contains(&format!("peer {end}"))
        });
    }
    wait_for("the session on a new queue", || {
        stage.says(&["list"]).contains("peer")
    });
    hold(&stage, &["m4"]);
}

fn what_waited_in_a_queue_has_its_end_in_its_story_too() {
    let stage = Stage::new();
    stage.says(&["send", "--to", "peer", "-m", "first", "--json"]);
    stage.publish("peer", &body("m1", "text"));
    assert_eq!(
        stage.says(&["purge", "peer", "--yes"]),
        "purged peer: 2 messages deleted\n"
    );
    assert!(stage.says(&["why", "m1"]).contains("peer purged"));
    stage.publish("peer", &body("m2", "text"));
    assert_eq!(
        stage.says(&["delete", "peer", "--yes"]),
        "deleted peer and 1 message\n"
    );
    assert!(stage.says(&["why", "m2"]).contains("peer deleted"));
}
