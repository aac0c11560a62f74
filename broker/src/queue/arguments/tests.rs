//! Every argument, right and wrong; each text was seen on RabbitMQ 3.10.8 first.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::{ArgumentError, DeadLetters, Overflow, QueueArguments};
use crate::wire::table::{ShortString, Table, Value};

fn table(entries: &[(&str, Value)]) -> Table {
    entries
        .iter()
        .map(|(name, value)| (ShortString::new(name).unwrap(), value.clone()))
        .collect()
}

fn refused(name: &str, value: Value) -> String {
    QueueArguments::parse(&table(&[(name, value)]))
        .unwrap_err()
        .text("q", "/")
}

#[test]
fn all_arguments_are_read() {
    let arguments = QueueArguments::parse(&table(&[
        ("x-message-ttl", Value::Byte(7)),
        ("x-expires", Value::Long(5_000_000_000)),
        ("x-max-length", Value::UnsignedShort(3)),
        ("x-max-length-bytes", Value::SignedLong(0)),
        ("x-overflow", Value::text("reject-publish")),
        ("x-dead-letter-exchange", Value::text("dead")),
        ("x-dead-letter-routing-key", Value::text("key")),
        ("x-max-priority", Value::Int(255)),
        ("x-single-active-consumer", Value::Bool(true)),
        ("x-queue-mode", Value::text("lazy")),
        ("x-ha-policy", Value::text("all")),
    ]))
    .unwrap();
    let expected = QueueArguments {
        message_ttl_ms: Some(7),
        expires_ms: Some(5_000_000_000),
        max_length: Some(3),
        max_length_bytes: Some(0),
        overflow: Overflow::RejectPublish,
        dead_letters: Some(DeadLetters {
            exchange: "dead".into(),
            routing_key: Some("key".into()),
        }),
        max_priority: Some(255),
        single_active_consumer: true,
    };
    assert_eq!(arguments, expected);
    assert_eq!(
        QueueArguments::parse(&Table::new()),
        Ok(QueueArguments::default())
    );
}

#[test]
fn numbers_out_of_range_are_refused_in_rabbitmqs_words() {
    let start = "for queue 'q' in vhost '/': ";
    for (name, value, reason) in [
        ("x-message-ttl", Value::Int(-1), "{value_negative,-1}"),
        (
            "x-message-ttl",
            Value::text("soon"),
            "\"expected integer, got longstr\"",
        ),
        (
            "x-message-ttl",
            Value::Long(315_360_000_001),
            "{value_too_large,315360000001}",
        ),
        (
            "x-message-ttl",
            Value::Void,
            "\"expected integer, got void\"",
        ),
        ("x-expires", Value::Int(0), "{value_zero,0}"),
        ("x-expires", Value::Int(-4), "{value_negative,-4}"),
        ("x-max-length", Value::Int(-5), "{value_negative,-5}"),
        (
            "x-max-length-bytes",
            Value::Bool(true),
            "\"expected integer, got bool\"",
        ),
        ("x-max-priority", Value::Int(-1), "{value_negative,-1}"),
        (
            "x-max-priority",
            Value::Int(256),
            "{max_value_exceeded,256}",
        ),
        (
            "x-queue-version",
            Value::Int(3),
            "\"unsupported queue version '3'\"",
        ),
    ] {
        assert_eq!(
            refused(name, value),
            format!("invalid arg '{name}' {start}{reason}")
        );
    }
}

#[test]
fn words_that_mean_nothing_are_refused_in_rabbitmqs_words() {
    let start = "for queue 'q' in vhost '/': ";
    for (name, value, reason) in [
        ("x-overflow", Value::text("spill"), "invalid_overflow"),
        ("x-overflow", Value::Int(1), "{unacceptable_type,signedint}"),
        (
            "x-dead-letter-routing-key",
            Value::text("k"),
            "routing_key_but_no_dlx_defined",
        ),
        (
            "x-single-active-consumer",
            Value::text("yes"),
            "{unacceptable_type,longstr}",
        ),
        (
            "x-queue-mode",
            Value::text("foo"),
            "\"unsupported queue mode 'foo'\"",
        ),
        (
            "x-queue-type",
            Value::text("zzz"),
            "\"unsupported queue type 'zzz'\"",
        ),
        (
            "x-queue-type",
            Value::Int(1),
            "{unacceptable_type,signedint}",
        ),
    ] {
        assert_eq!(
            refused(name, value),
            format!("invalid arg '{name}' {start}{reason}")
        );
    }
    assert_eq!(
        refused("x-dead-letter-exchange", Value::Int(7)),
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"
    );
}

#[test]
fn a_quorum_queue_is_an_ordinary_one_and_a_stream_is_not_implemented() {
    let quorum = ("x-queue-type", Value::text("quorum"));
    assert!(QueueArguments::parse(&table(&[quorum, ("x-delivery-limit", Value::Int(3))])).is_ok());
    assert_eq!(
        refused("x-delivery-limit", Value::Int(3)),
        "invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type \
         rabbit_classic_queue"
    );
    let stream = QueueArguments::parse(&table(&[("x-queue-type", Value::text("stream"))]));
    assert_eq!(stream, Err(ArgumentError::Stream));
}

fn compared(current: &[(&str, Value)], received: &[(&str, Value)]) -> Result<(), String> {
    QueueArguments::check_equivalent(&table(current), &table(received))
        .map_err(|error| error.text("q", "/"))
}

#[test]
fn a_redeclare_must_agree_and_the_text_says_where_it_does_not() {
    let start = "for queue 'q' in vhost '/': ";
    let ttl = |number| [("x-message-ttl", Value::Int(number))];
    for (current, received, difference) in [
        (&ttl(2)[..], &ttl(1)[..], "received '1' but current is '2'"),
        (
            &[],
            &ttl(1),
            "received the value '1' of type 'signedint' but current is none",
        ),
        (
            &ttl(1),
            &[],
            "received none but current is the value '1' of type 'signedint'",
        ),
    ] {
        assert_eq!(
            compared(current, received),
            Err(format!(
                "inequivalent arg 'x-message-ttl' {start}{difference}"
            ))
        );
    }
    let single = |claim| [("x-single-active-consumer", Value::Bool(claim))];
    assert_eq!(
        compared(&single(true), &single(false)),
        Err(format!(
            "inequivalent arg 'x-single-active-consumer' {start}received 'false' but \
             current is 'true'"
        ))
    );
}

#[test]
fn the_width_of_a_number_and_unknown_arguments_do_not_count() {
    assert_eq!(
        compared(
            &[("x-max-length", Value::Int(5))],
            &[("x-max-length", Value::Long(5))]
        ),
        Ok(())
    );
    assert_eq!(
        compared(&[("mine", Value::Int(5))], &[("mine", Value::Int(6))]),
        Ok(())
    );
    assert_eq!(
        compared(&[], &[("x-queue-type", Value::text("classic"))]),
        Ok(())
    );
    assert!(compared(&[], &[("x-queue-type", Value::text("quorum"))]).is_err());
}

/// RabbitMQ 3.10 takes any length, and the channel that delivers such a dead letter dies.
#[test]
fn a_routing_key_for_dead_letters_has_at_most_what_a_routing_key_has() {
    let with = |key: &str| {
        QueueArguments::parse(&table(&[
            ("x-dead-letter-exchange", Value::text("")),
            ("x-dead-letter-routing-key", Value::text(key)),
        ]))
    };
    let longest = "\u{e9}".repeat(127) + "e";
    assert!(with(&longest).is_ok());
    assert_eq!(
        with(&(longest + "e")).unwrap_err().text("q", "/"),
        "invalid arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': \
         \"longer than 255 bytes\""
    );
}
