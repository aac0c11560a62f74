//! Parses the JSON of requests, and refuses what is invalid. Relies on `refusal`.

use std::fmt;

use axum::body::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::refusal::ApiError;

/// Parses a JSON body. The content type is ignored, because tools omit it.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, ApiError> {
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    if !is_object || serde_json::from_slice::<IgnoredAny>(body).is_err() {
        return Err(ApiError::bad("not_json"));
    }
    interpret(&mut serde_json::Deserializer::from_slice(body))
}

/// Deserializes JSON; errors become refusals of the API.
pub(super) fn interpret<'de, T, D>(json: D) -> Result<T, ApiError>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
    D::Error: fmt::Display,
{
    serde_path_to_error::deserialize(json).map_err(|error| {
        let field = error.path().to_string();
        explained(&field, &error.into_inner().to_string())
    })
}

/// As [`read`], for bodies that may be left out.
pub(super) fn read_or_default<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, ApiError> {
    if body.trim_ascii().is_empty() {
        Ok(T::default())
    } else {
        read(body)
    }
}

/// The error about a field, in RabbitMQ's words if it has some. The parser's own texts name types
/// of this program.
fn explained(field: &str, message: &str) -> ApiError {
    if let Some((missing, _)) = message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'))
    {
        return ApiError::bad(format!("[{{key_missing,{missing}}}]"));
    }
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(text, _)| text);
    match message.strip_prefix(OWN_WORDS).map(serde_json::from_str) {
        Some(Ok(Value::String(text))) => ApiError::bad(text),
        Some(Ok(reason)) => ApiError::bad_value(reason),
        _ => ApiError::bad(format!("{field}: a value of another type is needed")),
    }
}

/// The prefix of our own reasons, as JSON, among the parser's messages.
const OWN_WORDS: &str = "reason ";

/// A reason for a refusal, from within a parser.
pub(super) fn custom_error<E: serde::de::Error>(reason: &Value) -> E {
    E::custom(format!("{OWN_WORDS}{reason}"))
}

/// A routing key. As in AMQP it has at most 255 bytes, because the work of a topic exchange grows
/// with the words of keys and patterns.
pub(super) fn routing_key<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let key = String::deserialize(from)?;
    if key.len() > LONGEST_KEY {
        return Err(custom_error(&json!(KEY_TOO_LONG)));
    }
    Ok(key)
}

const LONGEST_KEY: usize = 255;
const KEY_TOO_LONG: &str = "a routing key has at most 255 bytes";

/// Checks a key that was read already as [`routing_key`] does.
pub(super) fn check_routing_key(key: &str) -> Result<(), ApiError> {
    if key.len() > LONGEST_KEY {
        return Err(ApiError::bad(KEY_TOO_LONG));
    }
    Ok(())
}

/// An integer as a number or as a text: tools send both.
pub(super) fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let value = from.deserialize_any(Brief)?;
    let number = match &value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| custom_error(&json!(["not_integer", value])))
}

/// A boolean, also as a text: `rabbitmqadmin` and old tools send it so.
pub(super) fn claim<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match from.deserialize_any(Brief)? {
        Value::Bool(claim) => Ok(claim),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        other => Err(custom_error(&json!(["not_boolean", other]))),
    }
}

/// The longest text that a refusal quotes, in bytes.
const QUOTED_BYTES: usize = 64;

/// The part of a value that a refusal quotes.
pub(super) fn quoted(value: &Value) -> Value {
    match value {
        Value::String(text) => shortened(text),
        Value::Array(_) => json!("[…]"),
        Value::Object(_) => json!("{…}"),
        other => other.clone(),
    }
}

fn shortened(text: &str) -> Value {
    let end = text.floor_char_boundary(QUOTED_BYTES);
    if end == text.len() {
        json!(text)
    } else {
        json!(format!("{}…", &text[..end]))
    }
}

/// Reads a value that should be short. Of a longer one it keeps only what [`quoted`] shows.
struct Brief;

impl<'de> Visitor<'de> for Brief {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a short value")
    }

    fn visit_bool<E>(self, claim: bool) -> Result<Value, E> {
        Ok(json!(claim))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(json!(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(json!(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(json!(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(shortened(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(quoted(&json!([])))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(quoted(&json!({})))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use axum::body::Bytes;
    use axum::response::IntoResponse;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::{claim, integer, read};

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only whether it can be read counts")]
    struct TestBody {
        #[serde(deserialize_with = "integer")]
        count: i64,
        #[serde(default, deserialize_with = "claim")]
        durable: bool,
        #[serde(default)]
        inner: Vec<JsonError>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only whether it can be read counts")]
    struct JsonError {
        name: String,
    }

    async fn reason(json: &str) -> Value {
        let refusal = read::<TestBody>(&Bytes::copy_from_slice(json.as_bytes())).unwrap_err();
        let body = refusal.into_response().into_body();
        let body = axum::body::to_bytes(body, 10_000).await.unwrap();
        let told: Value = serde_json::from_slice(&body).unwrap();
        told["reason"].clone()
    }

    #[tokio::test]
    async fn a_refusal_names_the_field_and_no_type_of_this_program() {
        for (json, told) in [
            ("[1]", json!("not_json")),
            ("{", json!("not_json")),
            ("{}", json!("[{key_missing,count}]")),
            (r#"{"count":"x"}"#, json!(["not_integer", "x"])),
            (r#"{"count":1.5}"#, json!(["not_integer", 1.5])),
            (
                r#"{"count":1,"durable":null}"#,
                json!(["not_boolean", null]),
            ),
            (
                r#"{"count":1,"durable":[{"a":["b"]}]}"#,
                json!(["not_boolean", "[…]"]),
            ),
            (
                &format!(r#"{{"count":"{}5"}}"#, "0".repeat(64)),
                json!(["not_integer", format!("{}…", "0".repeat(64))]),
            ),
            (
                r#"{"count":1,"durable":"a at line 1"}"#,
                json!(["not_boolean", "a at line 1"]),
            ),
            (
                r#"{"count":1,"inner":[{"name":"a"},{"name":5}]}"#,
                json!("inner[1].name: a value of another type is needed"),
            ),
            (
                r#"{"count":1,"inner":5}"#,
                json!("inner: a value of another type is needed"),
            ),
        ] {
            assert_eq!(reason(json).await, told, "{json}");
        }
        for json in [r#"{"count":"7"}"#, r#"{"count":7,"durable":"true"}"#] {
            assert!(read::<TestBody>(&Bytes::copy_from_slice(json.as_bytes())).is_ok());
        }
    }
}
