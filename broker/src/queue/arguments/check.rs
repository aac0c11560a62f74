//! The rule for each argument of `queue.declare`, in RabbitMQ's order, with its Erlang terms as
//! reasons.

use super::{ArgumentError, Overflow, TTL_LIMIT_MS};
use crate::wire::table::{NAME_LIMIT, Table, Value};

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

/// What is wrong with the value of an argument. Displayed as RabbitMQ's Erlang term.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// The type is wrong; holds its name.
    #[error("{{unacceptable_type,{0}}}")]
    Type(&'static str),
    /// It is not an integer; holds the name of its type.
    #[error("\"expected integer, got {0}\"")]
    NotInteger(&'static str),
    /// It must not be negative.
    #[error("{{value_negative,{0}}}")]
    Negative(i64),
    /// It must not be zero.
    #[error("{{value_zero,0}}")]
    Zero,
    /// It is above [`TTL_LIMIT_MS`].
    #[error("{{value_too_large,{0}}}")]
    TooLarge(u64),
    /// It is above the highest priority.
    #[error("{{max_value_exceeded,{0}}}")]
    TooHigh(u64),
    /// A routing key for dead letters is longer than a routing key can be.
    #[error("\"longer than {NAME_LIMIT} bytes\"")]
    KeyTooLong,
    /// A routing key for dead letters has no exchange.
    #[error("routing_key_but_no_dlx_defined")]
    KeyWithoutExchange,
    /// No such `x-overflow`.
    #[error("invalid_overflow")]
    Overflow,
    /// No such `x-queue-mode`, `x-queue-version` or `x-queue-type`.
    #[error("\"unsupported queue {what} '{value}'\"")]
    Unsupported {
        /// `mode`, `version` or `type`.
        what: &'static str,
        /// The value.
        value: String,
    },
}

impl InvalidValue {
    fn unsupported(what: &'static str, value: &dyn ToString) -> Self {
        Self::Unsupported {
            what,
            value: value.to_string(),
        }
    }
}

type Check = fn(&Value, &Table) -> Result<(), InvalidValue>;

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
    ("x-single-active-consumer", boolean),
    ("x-queue-type", any_text),
];

pub(super) fn check_all(table: &Table) -> Result<(), ArgumentError> {
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
    let is_quorum = queue_type(table)? == QueueType::Quorum;
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

/// Checks what neither RabbitMQ nor older versions check. Neither a start nor an import calls this,
/// because the store and the definitions of others may hold such queues.
pub(super) fn new_queue(table: &Table) -> Result<(), ArgumentError> {
    const KEY: &str = "x-dead-letter-routing-key";
    let key = table.get(KEY).and_then(Value::as_text);
    if key.is_some_and(|key| key.len() > NAME_LIMIT) {
        return Err(ArgumentError::Invalid {
            name: KEY,
            reason: InvalidValue::KeyTooLong,
        });
    }
    Ok(())
}

#[derive(PartialEq)]
enum QueueType {
    Classic,
    Quorum,
}

fn queue_type(table: &Table) -> Result<QueueType, ArgumentError> {
    let Some(value) = table.get("x-queue-type") else {
        return Ok(QueueType::Classic);
    };
    let reason = match value.as_text() {
        Some("classic") => return Ok(QueueType::Classic),
        Some("quorum") => return Ok(QueueType::Quorum),
        Some("stream") => return Err(ArgumentError::Stream),
        Some(other) => InvalidValue::unsupported("type", &other),
        None => unacceptable(value),
    };
    Err(ArgumentError::Invalid {
        name: "x-queue-type",
        reason,
    })
}

fn unacceptable(value: &Value) -> InvalidValue {
    InvalidValue::Type(value.type_name())
}

fn integer(value: &Value) -> Result<i64, InvalidValue> {
    value
        .as_integer()
        .ok_or_else(|| InvalidValue::NotInteger(value.type_name()))
}

fn at_least_zero(value: &Value) -> Result<u64, InvalidValue> {
    let number = integer(value)?;
    u64::try_from(number).map_err(|_| InvalidValue::Negative(number))
}

fn not_negative(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    at_least_zero(value).map(drop)
}

fn ttl(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    match at_least_zero(value)? {
        number if number > TTL_LIMIT_MS => Err(InvalidValue::TooLarge(number)),
        _ => Ok(()),
    }
}

fn expires(value: &Value, table: &Table) -> Result<(), InvalidValue> {
    match integer(value)? {
        0 => Err(InvalidValue::Zero),
        _ => ttl(value, table),
    }
}

fn max_priority(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    match at_least_zero(value)? {
        number if number > u64::from(u8::MAX) => Err(InvalidValue::TooHigh(number)),
        _ => Ok(()),
    }
}

fn text(value: &Value) -> Result<&str, InvalidValue> {
    value.as_text().ok_or_else(|| unacceptable(value))
}

fn any_text(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    text(value).map(drop)
}

fn dead_letter_key(value: &Value, table: &Table) -> Result<(), InvalidValue> {
    text(value)?;
    match table.get("x-dead-letter-exchange") {
        Some(_) => Ok(()),
        None => Err(InvalidValue::KeyWithoutExchange),
    }
}

fn overflow(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    let name = Overflow::from_name(text(value)?);
    name.map(|_| ()).ok_or(InvalidValue::Overflow)
}

fn mode(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    match text(value)? {
        "default" | "lazy" => Ok(()),
        other => Err(InvalidValue::unsupported("mode", &other)),
    }
}

fn version(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    match at_least_zero(value)? {
        1 | 2 => Ok(()),
        other => Err(InvalidValue::unsupported("version", &other)),
    }
}

fn boolean(value: &Value, _: &Table) -> Result<(), InvalidValue> {
    match value {
        Value::Bool(_) => Ok(()),
        _ => Err(unacceptable(value)),
    }
}
