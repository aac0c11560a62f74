//! Ids that a stranger uses too: they make no message of the session's own user vanish.

use crate::stage::{Stage, body, wait_for};

crate::tests![
    a_stranger_who_uses_an_id_first_makes_no_genuine_message_vanish,
    a_strangers_message_that_is_held_gives_way_to_the_genuine_one,
    a_copy_by_a_strangers_binding_makes_no_genuine_message_vanish,
    what_reaches_no_agent_is_rejected_and_brought_back_no_more_than_once,
];

fn publish_own(stage: &Stage, queue: &str, body: &[u8]) {
    stage.publish_with_hops(queue, body, 0);
}

/// All copies of a message to a group have one id: who reads the first one knows it.
fn a_stranger_who_uses_an_id_first_makes_no_genuine_message_vanish() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.publish("peer", &body("m", "forged"));
    stage.wait_for_messages(1);
    publish_own(&stage, "peer", &body("m", "genuine"));
    let lines = stage.wait_for_messages(2);
    assert!(lines[1].ends_with(" id=m] genuine [end]"), "{lines:?}");
    assert_eq!(stage.dead_letters(), "");
    // It is known when it comes again, and the id is used up for strangers.
    stage.publish("peer", &body("m", "forged again"));
    publish_own(&stage, "peer", &body("m", "genuine"));
    publish_own(&stage, "peer", &body("n", "the last"));
    wait_for("the dead letter", || {
        let letters = stage.dead_letters();
        letters.contains("id used twice") && letters.contains("forged again")
    });
    let lines = stage.wait_for_messages(3);
    assert!(lines[2].ends_with(" id=n] the last [end]"), "{lines:?}");
    assert_eq!(stage.dead_letters().lines().count(), 1);
}

fn a_strangers_message_that_is_held_gives_way_to_the_genuine_one() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.says(&["pause", "peer"]);
    // Also with the same text: the stranger's would hold the genuine one with its hops.
    for (id, text) in [("m", "forged"), ("n", "genuine")] {
        stage.publish_as_stranger("peer", &body(id, text), 1000);
        wait_for("the stranger's message", || {
            stage
                .says(&["inbox", "peer"])
                .contains(&format!("id={id}]"))
        });
        publish_own(&stage, "peer", &body(id, "genuine"));
    }
    wait_for("the dead letters", || {
        stage.dead_letters().matches("id used twice").count() == 2
    });
    stage.says(&["resume", "peer"]);
    let lines = stage.wait_for_messages(2);
    assert!(lines[0].ends_with(" id=m] genuine [end]"), "{lines:?}");
    assert!(lines[1].ends_with(" id=n] genuine [end]"), "{lines:?}");
    publish_own(&stage, "peer", &body("o", "the last"));
    assert_eq!(stage.wait_for_messages(3).len(), 3);
    wait_for("an empty queue", || {
        stage.waiting("peer") == 0 && stage.says(&["why", "m"]).contains("peer delivered")
    });
}

/// The broker vouches for a message, and not for the session that a binding brings it to.
fn a_copy_by_a_strangers_binding_makes_no_genuine_message_vanish() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.with_channel(|channel| async move {
        let options = lapin::options::QueueBindOptions::default();
        let arguments = lapin::types::FieldTable::default();
        let (queue, exchange) = ("peer".into(), "claudeBroker".into());
        let bound = channel.queue_bind(queue, exchange, "other".into(), options, arguments);
        bound.await.unwrap();
    });
    publish_own(&stage, "other", &body("m", "to another session"));
    stage.wait_for_messages(1);
    publish_own(&stage, "peer", &body("m", "genuine"));
    let lines = stage.wait_for_messages(2);
    assert!(lines[1].ends_with(" id=m] genuine [end]"), "{lines:?}");
    assert_eq!(stage.dead_letters(), "");
}

/// An ack would say to all who watch the broker that the message was delivered.
fn what_reaches_no_agent_is_rejected_and_brought_back_no_more_than_once() {
    let stage = Stage::new();
    stage.with_channel(|channel| async move {
        let mut arguments = lapin::types::FieldTable::default();
        // A rule of the broker's that brings every rejected message back.
        for (name, value) in [
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-routing-key", "peer"),
        ] {
            let value = lapin::types::LongString::from(value);
            arguments.insert(name.into(), lapin::types::AMQPValue::LongString(value));
        }
        let durable = lapin::options::QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let declared = channel.queue_declare("peer".into(), durable, arguments);
        declared.await.unwrap();
    });
    let _terminal = stage.sink(&[]);
    stage.publish("peer", b"{half");
    wait_for("two dead letters", || {
        stage.dead_letters().lines().count() == 2
    });
    for (count, id) in ["m", "n"].iter().enumerate() {
        publish_own(&stage, "peer", &body(id, "after it"));
        stage.wait_for_messages(count + 1);
    }
    assert_eq!(stage.dead_letters().lines().count(), 2);
}
