//! Queue arguments: those of every session's queue, and those that another broker reports.

use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::{Map, Value};

use super::MAX_LENGTH;

const MAX_LENGTH_KEY: &str = "x-max-length";

/// What a queue is declared with.
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
            table.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl));
        }
        let length = i64::from(MAX_LENGTH);
        table.insert(MAX_LENGTH_KEY.into(), AMQPValue::LongLongInt(length));
        table.insert(
            "x-overflow".into(),
            AMQPValue::LongString("drop-head".into()),
        );
        Self(table)
    }

    /// Reads them as a management API reports them.
    pub fn from_json(arguments: &Map<String, Value>) -> Self {
        Self(table(arguments))
    }

    /// How many messages the queue takes; `None` where nothing bounds it.
    pub fn max_length(&self) -> Option<u32> {
        match self.0.inner().get(MAX_LENGTH_KEY)? {
            AMQPValue::LongLongInt(length) => Some(u32::try_from(*length).unwrap_or(u32::MAX)),
            _ => None,
        }
    }
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
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_api_tells_is_what_was_declared() {
        let told =
            json!({ "x-message-ttl": 60_000, "x-max-length": 1000, "x-overflow": "drop-head" });
        let told =
            DeclareArguments::from_json(told.as_object().into_iter().next().unwrap_or(&Map::new()));
        assert_eq!(told, DeclareArguments::of_session(Some(60_000)));
        assert_eq!(told.max_length(), Some(1000));
        assert_eq!(DeclareArguments::from_json(&Map::new()).max_length(), None);
    }
}
