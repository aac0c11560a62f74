//! Queue arguments: those of every session's queue, and those that another broker reports.

use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Map, Value};

use super::MAX_LENGTH;

/// The names of arguments in a policy, which have no prefix `x-`.
const LENGTH: &str = "max-length";
const BYTES: &str = "max-length-bytes";
const TTL: &str = "message-ttl";

/// The arguments of a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclareArguments(pub(super) FieldTable);

impl DeclareArguments {
    /// Those of every session's queue, exactly. Only a queue that another program declared has no
    /// TTL.
    pub fn of_session(ttl_ms: Option<u64>) -> Self {
        let mut table = FieldTable::default();
        // amqplib writes integers in the smallest signed type that holds them; brokers compare
        // values.
        if let Some(ttl_ms) = ttl_ms {
            let ttl = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
            table.insert(argument(TTL), AMQPValue::LongLongInt(ttl));
        }
        let length = i64::from(MAX_LENGTH);
        table.insert(argument(LENGTH), AMQPValue::LongLongInt(length));
        table.insert(
            "x-overflow".into(),
            AMQPValue::LongString("drop-head".into()),
        );
        Self(table)
    }

    /// Reads arguments as a management API reports them.
    pub fn from_json(arguments: &Map<String, Value>) -> Self {
        Self(table(arguments))
    }

    /// The bounds of a queue with these arguments.
    pub fn bounds(&self) -> QueueBounds {
        let number = |name: &str| match self.0.inner().get(argument(name).as_str())? {
            AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        QueueBounds::read(number)
    }
}

/// How much a queue keeps, and how long; `None` where nothing bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// The most messages.
    pub messages: Option<u64>,
    /// The most bytes of their bodies.
    pub bytes: Option<u64>,
    /// The longest time that a message waits, in milliseconds.
    pub ttl_ms: Option<u64>,
}

impl QueueBounds {
    /// Reads what a policy of a broker's operator defines.
    pub fn of_policy(definition: &Map<String, Value>) -> Self {
        Self::read(|name| definition.get(name)?.as_u64())
    }

    fn read(number: impl Fn(&str) -> Option<u64>) -> Self {
        Self {
            messages: number(LENGTH),
            bytes: number(BYTES),
            ttl_ms: number(TTL),
        }
    }

    /// The bounds of a queue to which both of these apply.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let smaller = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            messages: smaller(self.messages, other.messages),
            bytes: smaller(self.bytes, other.bytes),
            ttl_ms: smaller(self.ttl_ms, other.ttl_ms),
        }
    }
}

/// The name of a queue's argument.
fn argument(name: &str) -> ShortString {
    format!("x-{name}").into()
}

fn table(object: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in object {
        table.insert(key.as_str().into(), field(value));
    }
    table
}

fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => number.as_i64().map_or_else(
            || AMQPValue::Double(number.as_f64().unwrap_or_default()),
            AMQPValue::LongLongInt,
        ),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let mut array = FieldArray::default();
            for value in values {
                array.push(field(value));
            }
            AMQPValue::FieldArray(array)
        }
        Value::Object(object) => AMQPValue::FieldTable(table(object)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_api_tells_is_what_was_declared() {
        let told =
            json!({ "x-message-ttl": 60_000, "x-max-length": 1000, "x-overflow": "drop-head" });
        let told = DeclareArguments::from_json(told.as_object().unwrap());
        assert_eq!(told, DeclareArguments::of_session(Some(60_000)));
        let bounds = told.bounds();
        assert_eq!((bounds.messages, bounds.bytes), (Some(1000), None));
        assert_eq!(bounds.ttl_ms, Some(60_000));
        let unbounded = DeclareArguments::from_json(&Map::new()).bounds();
        assert_eq!(unbounded.and(bounds), bounds);
    }

    #[test]
    fn of_a_policy_and_arguments_the_smaller_bound_holds() {
        let policy = json!({ "max-length": 3, "max-length-bytes": 10, "ha-mode": "all" });
        let policy = QueueBounds::of_policy(policy.as_object().unwrap());
        let both = DeclareArguments::of_session(Some(60_000))
            .bounds()
            .and(policy);
        assert_eq!((both.messages, both.bytes), (Some(3), Some(10)));
        assert_eq!(both.ttl_ms, Some(60_000));
    }
}
