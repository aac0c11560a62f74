//! Dead letters whose message comes again: the connection or the session ends while they are being
//! written.

use std::fs::File;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use rustix::fs::{FlockOperation, flock};

use crate::stage::{Stage, Terminal, body, wait_for};

crate::tests![
    a_message_that_comes_again_while_its_dead_letter_is_written_has_no_second_one,
    a_message_that_comes_again_after_its_dead_letter_was_written_has_no_second_one,
    a_session_that_ends_rejects_the_message_of_the_dead_letter_that_it_writes,
    a_publisher_s_x_death_does_not_make_a_refused_message_look_delivered,
    a_refused_message_that_its_queue_returns_does_not_return_for_ever,
];

/// Keeps sessions from writing dead letters until it is dropped.
struct SlowDisk {
    _lock: File,
}

impl SlowDisk {
    fn of(stage: &Stage) -> Self {
        let folder = stage.path("home/dlq");
        std::fs::create_dir_all(&folder).unwrap();
        let folder = File::open(folder).unwrap();
        flock(&folder, FlockOperation::LockExclusive).unwrap();
        Self { _lock: folder }
    }
}

/// A session that writes the dead letter of a message, and the disk that keeps it from that.
fn writing(stage: &Stage) -> (Terminal, SlowDisk) {
    let terminal = stage.sink(&[]);
    let disk = SlowDisk::of(stage);
    stage.publish("peer", b"{half");
    is_received(stage);
    (terminal, disk)
}

fn is_received(stage: &Stage) {
    wait_for("the message to be with the session", || {
        stage.consumers("peer") == 1 && stage.waiting("peer") == 0
    });
}

/// The message is in no queue any more, and has one dead letter.
fn is_dead_once(stage: &Stage, mut terminal: Terminal) {
    stage.publish("peer", &body("good", "after it"));
    stage.wait_for_messages(1);
    wait_for("the dead letter", || !stage.dead_letters().is_empty());
    terminal.keys(b"\x03");
    terminal.wait_for_end();
    assert_eq!(stage.waiting("peer"), 0, "it was rejected");
    let letters = stage.dead_letters();
    assert_eq!(letters.lines().count(), 1, "{letters}");
}

fn a_message_that_comes_again_while_its_dead_letter_is_written_has_no_second_one() {
    let mut stage = Stage::new();
    let (terminal, disk) = writing(&stage);
    stage.stop_broker();
    stage.start_broker();
    is_received(&stage);
    drop(disk);
    is_dead_once(&stage, terminal);
}

fn a_message_that_comes_again_after_its_dead_letter_was_written_has_no_second_one() {
    let mut stage = Stage::new();
    let (terminal, disk) = writing(&stage);
    stage.stop_broker();
    drop(disk);
    wait_for("the dead letter", || !stage.dead_letters().is_empty());
    stage.start_broker();
    is_received(&stage);
    is_dead_once(&stage, terminal);
}

fn a_session_that_ends_rejects_the_message_of_the_dead_letter_that_it_writes() {
    let stage = Stage::new();
    let (mut terminal, disk) = writing(&stage);
    terminal.keys(b"\x03");
    wait_for("the program's end", || {
        stage.text("home/logs/peer.log").contains("the program ")
    });
    drop(disk);
    terminal.wait_for_end();
    assert_eq!(stage.waiting("peer"), 0, "it was rejected");
    let letters = stage.dead_letters();
    assert_eq!(letters.lines().count(), 1, "{letters}");
}

/// Declares a session's queue that passes what it rejects on to the queue `key`.
fn declare_passing_on(stage: &Stage, key: &str) {
    let mut arguments = FieldTable::default();
    for (argument, value) in [
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", key),
    ] {
        arguments.insert(argument.into(), text(value));
    }
    stage.with_channel(|channel| async move {
        let options = lapin::options::QueueDeclareOptions {
            durable: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        for (queue, arguments) in [("peer", arguments), ("graves", FieldTable::default())] {
            let declared = channel.queue_declare(queue.into(), options, arguments);
            declared.await.unwrap();
        }
    });
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// An entry of `x-death` as a broker writes it.
fn death(queue: &str, reason: &str) -> AMQPValue {
    let mut entry = FieldTable::default();
    for (field, value) in [("queue", queue), ("reason", reason)] {
        entry.insert(field.into(), text(value));
    }
    entry.insert("count".into(), AMQPValue::LongLongInt(1));
    AMQPValue::FieldTable(entry)
}

fn a_publisher_s_x_death_does_not_make_a_refused_message_look_delivered() {
    let stage = Stage::new();
    declare_passing_on(&stage, "graves");
    let _terminal = stage.sink(&[]);
    let forged = [
        text("[]"),
        AMQPValue::FieldArray(vec![].into()),
        AMQPValue::FieldArray(vec![death("other", "rejected"), death("peer", "expired")].into()),
    ];
    for (number, deaths) in (1..).zip(forged) {
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), deaths);
        let properties = BasicProperties::default().with_headers(headers);
        stage.publish_with("peer", b"{half", properties);
        wait_for("the rejected message", || stage.waiting("graves") == number);
    }
}

fn a_refused_message_that_its_queue_returns_does_not_return_for_ever() {
    let stage = Stage::new();
    declare_passing_on(&stage, "peer");
    let mut terminal = stage.sink(&[]);
    stage.publish("peer", b"{half");
    wait_for("the message to return once", || {
        stage.dead_letters().lines().count() == 2
    });
    stage.publish("peer", &body("good", "after it"));
    stage.wait_for_messages(1);
    terminal.keys(b"\x03");
    terminal.wait_for_end();
    assert_eq!(stage.waiting("peer"), 0);
    assert_eq!(stage.dead_letters().lines().count(), 2);
}
