//! Converts field tables to JSON and back, as RabbitMQ's management plugin does. Depends on field
//! tables.
//!
//! From JSON, integers become 64-bit integers and fractions become doubles. `null` is refused,
//! because a table cannot hold it. To JSON, invalid UTF-8 is shown with replacement characters, and
//! numbers that JSON does not have become text.

use serde_json::{Map, Number, Value as Json, json};

use super::refusal::ApiError;
use crate::wire::table::{DEPTH_LIMIT, ShortString, Table, Value};

/// Converts a table to an object. Of duplicate names, the last one is shown.
pub(super) fn table_to_json(table: &Table) -> Json {
    let entries = table
        .iter()
        .map(|(name, value)| (name.to_text().into_owned(), value_to_json(value)));
    Json::Object(entries.collect())
}

fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Bool(claim) => json!(claim),
        Value::LongString(bytes) | Value::Binary(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Timestamp(seconds) => json!(seconds),
        Value::Decimal { scale, unscaled } => {
            json!(f64::from(*unscaled) / 10_f64.powi(i32::from(*scale)))
        }
        Value::Array(values) => values.iter().map(value_to_json).collect(),
        Value::Table(table) => table_to_json(table),
        Value::Void => Json::Null,
        other => match (other.as_integer(), other.as_float()) {
            (Some(number), _) => json!(number),
            (None, Some(number)) => {
                Number::from_f64(number).map_or_else(|| json!(number.to_string()), Json::Number)
            }
            (None, None) => Json::Null,
        },
    }
}

/// Converts an object to a table. A missing object gives an empty table.
pub(super) fn table_from_json(json: Option<&Json>) -> Result<Table, ApiError> {
    match json {
        None => Ok(Table::new()),
        Some(Json::Object(entries)) => entries_from_json(entries, 1),
        Some(Json::Array(empty)) if empty.is_empty() => Ok(Table::new()),
        Some(_) => Err(ApiError::bad("arguments must be an object")),
    }
}

fn entries_from_json(entries: &Map<String, Json>, depth: usize) -> Result<Table, ApiError> {
    if depth > DEPTH_LIMIT {
        return Err(ApiError::bad("arguments nest too deeply"));
    }
    let entry = |(name, value): (&String, &Json)| {
        let key = ShortString::new(name)
            .ok_or_else(|| ApiError::bad("a name is longer than 255 bytes"))?;
        Ok((key, value_from_json(value, depth)?))
    };
    entries.iter().map(entry).collect()
}

fn value_from_json(json: &Json, depth: usize) -> Result<Value, ApiError> {
    Ok(match json {
        Json::Null => return Err(ApiError::bad("null_not_allowed")),
        Json::Bool(claim) => Value::Bool(*claim),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Long(whole),
            None => Value::Double(number.as_f64().unwrap_or_default().to_bits()),
        },
        Json::String(text) => Value::text(text),
        Json::Array(_) if depth >= DEPTH_LIMIT => {
            return Err(ApiError::bad("arguments nest too deeply"));
        }
        Json::Array(values) => Value::Array(
            values
                .iter()
                .map(|value| value_from_json(value, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Json::Object(entries) => Value::Table(entries_from_json(entries, depth + 1)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use serde_json::json;

    use super::{table_from_json, table_to_json};
    use crate::wire::table::{Table, Value};

    #[test]
    fn json_survives_the_way_through_a_table() {
        let object = json!({ "a": 1, "b": [1, "x", true, 1.5, { "z": -1 }], "c": {}, "d": "ä" });
        let table = table_from_json(Some(&object)).unwrap();
        assert_eq!(table_to_json(&table), object);
        assert_eq!(table.get("a"), Some(&Value::Long(1)));
    }

    #[test]
    fn what_json_cannot_say_is_shown_as_well_as_it_can() {
        let mut table = Table::new();
        table.set("bytes", Value::Binary([0xff, b'a'][..].into()));
        table.set("nan", Value::Double(f64::NAN.to_bits()));
        table.set("void", Value::Void);
        table.set(
            "decimal",
            Value::Decimal {
                scale: 2,
                unscaled: 150,
            },
        );
        let shown = json!({ "bytes": "\u{fffd}a", "nan": "NaN", "void": null, "decimal": 1.5 });
        assert_eq!(table_to_json(&table), shown);
    }

    #[test]
    fn what_a_table_cannot_hold_is_refused() {
        for bad in [
            json!({ "a": null }),
            json!([1]),
            json!("x"),
            json!({ "n".repeat(256): 1 }),
        ] {
            assert!(table_from_json(Some(&bad)).is_err(), "{bad}");
        }
        let mut deep = json!(1);
        for _ in 0..40 {
            deep = json!([deep]);
        }
        assert!(table_from_json(Some(&json!({ "a": deep }))).is_err());
        assert_eq!(table_from_json(None), Ok(Table::new()));
    }
}
