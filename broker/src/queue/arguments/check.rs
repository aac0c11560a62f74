//! The rule for each argument of `queue.declare`, in RabbitMQ's order, with its Erlang terms as
//! reasons.

use super::{ArgumentError, TTL_LIMIT_MS};
use crate::wire::table::{Table, Value};

/// Known to quorum queues and streams only.
const OTHER_KINDS: [&str; 10] = [
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-queue-leader-locator",
    "x-quorum-initial-group-size",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
];

type Check = fn(&Value, &Table) -> Result<(), String>;

const CHECKS: [(&str, Check); 12] = [
    ("x-expires", expires),
    ("x-message-ttl", ttl),
    ("x-dead-letter-exchange", any_text),
    ("x-dead-letter-routing-key", dead_letter_key),
    ("x-max-length", not_negative),
    ("x-max-length-bytes", not_negative),
    ("x-max-priority", max_priority),
    ("x-overflow", overflow),
    ("x-queue-mode", mode),
    ("x-queue-version", version),
    ("x-single-active-consumer", claim),
    ("x-queue-type", any_text),
];

pub(super) fn all(table: &Table) -> Result<(), ArgumentError> {
    const EXCHANGE: &str = "x-dead-letter-exchange";
    if let Some(value) = table
        .get(EXCHANGE)
        .filter(|value| value.as_text().is_none())
    {
        return Err(ArgumentError::InvalidType {
            name: EXCHANGE,
            kind: value.type_name(),
        });
    }
    let is_quorum = kind(table)? == ArgumentKind::Quorum;
    if let Some(name) = OTHER_KINDS
        .into_iter()
        .find(|name| !is_quorum && table.get(name).is_some())
    {
        return Err(ArgumentError::OtherKind { name });
    }
    for (name, check) in CHECKS {
        if let Some(value) = table.get(name) {
            check(value, table).map_err(|reason| ArgumentError::Invalid { name, reason })?;
        }
    }
    Ok(())
}

#[derive(PartialEq)]
enum ArgumentKind {
    Classic,
    Quorum,
}

fn kind(table: &Table) -> Result<ArgumentKind, ArgumentError> {
    let Some(value) = table.get("x-queue-type") else {
        return Ok(ArgumentKind::Classic);
    };
    let reason = match value.as_text() {
        Some("classic") => return Ok(ArgumentKind::Classic),
        Some("quorum") => return Ok(ArgumentKind::Quorum),
        Some("stream") => return Err(ArgumentError::Stream),
        Some(other) => format!("\"unsupported queue type '{other}'\""),
        None => unacceptable(value),
    };
    Err(ArgumentError::Invalid {
        name: "x-queue-type",
        reason,
    })
}

fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn integer(value: &Value) -> Result<i64, String> {
    value
        .as_integer()
        .ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

fn at_least_zero(value: &Value) -> Result<u64, String> {
    let number = integer(value)?;
    u64::try_from(number).map_err(|_| format!("{{value_negative,{number}}}"))
}

fn not_negative(value: &Value, _: &Table) -> Result<(), String> {
    at_least_zero(value).map(drop)
}

fn ttl(value: &Value, _: &Table) -> Result<(), String> {
    match at_least_zero(value)? {
        number if number > TTL_LIMIT_MS => Err(format!("{{value_too_large,{number}}}")),
        _ => Ok(()),
    }
}

fn expires(value: &Value, table: &Table) -> Result<(), String> {
    match integer(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => ttl(value, table),
    }
}

fn max_priority(value: &Value, _: &Table) -> Result<(), String> {
    match at_least_zero(value)? {
        number if number > u64::from(u8::MAX) => Err(format!("{{max_value_exceeded,{number}}}")),
        _ => Ok(()),
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_text().ok_or_else(|| unacceptable(value))
}

fn any_text(value: &Value, _: &Table) -> Result<(), String> {
    text(value).map(drop)
}

fn dead_letter_key(value: &Value, table: &Table) -> Result<(), String> {
    text(value)?;
    match table.get("x-dead-letter-exchange") {
        Some(_) => Ok(()),
        None => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

fn overflow(value: &Value, _: &Table) -> Result<(), String> {
    match text(value)? {
        "drop-head" | "reject-publish" | "reject-publish-dlx" => Ok(()),
        _ => Err("invalid_overflow".to_owned()),
    }
}

fn mode(value: &Value, _: &Table) -> Result<(), String> {
    match text(value)? {
        "default" | "lazy" => Ok(()),
        other => Err(format!("\"unsupported queue mode '{other}'\"")),
    }
}

fn version(value: &Value, _: &Table) -> Result<(), String> {
    match at_least_zero(value)? {
        1 | 2 => Ok(()),
        other => Err(format!("\"unsupported queue version '{other}'\"")),
    }
}

fn claim(value: &Value, _: &Table) -> Result<(), String> {
    match value {
        Value::Bool(_) => Ok(()),
        _ => Err(unacceptable(value)),
    }
}
