//! One message, its properties and payload, as JSON and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::inspect::Message;
use crate::management::amqp_json::{table_from_json, table_to_json};
use crate::management::reading::custom_error;
use crate::management::refusal::ApiError;
use crate::wire::properties::Properties;
use crate::wire::table::Table;

/// How a payload is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::management) enum Encoding {
    /// As text where it is UTF-8.
    #[default]
    Auto,
    /// Always as base64.
    Base64,
}

impl<'de> Deserialize<'de> for Encoding {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)?.as_str() {
            Some("auto") => Ok(Self::Auto),
            Some("base64") => Ok(Self::Base64),
            _ => Err(custom_error(&json!(
                "Unsupported encoding. Please use auto or base64."
            ))),
        }
    }
}

/// A payload as a text of JSON. It is written where it is wanted: a large one would have several
/// copies as a value.
pub(in crate::management) enum ShownPayload<'m> {
    String(&'m str),
    Base64(&'m [u8]),
}

impl ShownPayload<'_> {
    /// Its length in JSON, with the quotation marks.
    pub(in crate::management) fn json_len(&self) -> usize {
        let inner: usize = match self {
            Self::String(text) => text.bytes().map(escaped_len).sum(),
            Self::Base64(bytes) => bytes.len().div_ceil(3) * 4,
        };
        inner + 2
    }

    /// Appends it as JSON.
    pub(in crate::management) fn write(&self, to: &mut Vec<u8>) -> Result<(), ApiError> {
        let failed = |error: &dyn std::fmt::Display| ApiError::failed(error.to_string());
        match self {
            Self::String(text) => serde_json::to_writer(to, text).map_err(|error| failed(&error)),
            Self::Base64(bytes) => {
                to.push(b'"');
                let start = to.len();
                to.resize(start + bytes.len().div_ceil(3) * 4, 0);
                let written = STANDARD.encode_slice(bytes, &mut to[start..]);
                written.map_err(|error| failed(&error))?;
                to.push(b'"');
                Ok(())
            }
        }
    }
}

/// How many bytes a byte of a text has in JSON.
fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// A message without its payload, and at most `limit_bytes` of that.
pub(in crate::management) fn message(
    message: &Message,
    encoding: Encoding,
    limit_bytes: Option<usize>,
) -> (Value, ShownPayload<'_>) {
    let content = message.content();
    let cut = &content.body[..content.body.len().min(limit_bytes.unwrap_or(usize::MAX))];
    let (payload, encoding) = match std::str::from_utf8(cut) {
        Ok(text) if encoding == Encoding::Auto => (ShownPayload::String(text), "string"),
        _ => (ShownPayload::Base64(cut), "base64"),
    };
    let rest = json!({
        "payload_bytes": content.body.len(),
        "redelivered": false,
        "exchange": String::from_utf8_lossy(content.exchange),
        "routing_key": String::from_utf8_lossy(content.routing_key),
        "properties": properties(content.properties),
        "payload_encoding": encoding,
    });
    (rest, payload)
}

/// The properties that are set.
pub(in crate::management) fn properties(raw: &[u8]) -> Value {
    let Ok(found) = Properties::scan(raw) else {
        return json!({});
    };
    let mut shown = Map::new();
    for (name, value) in [
        ("content_type", found.content_type),
        ("content_encoding", found.content_encoding),
        ("correlation_id", found.correlation_id),
        ("reply_to", found.reply_to),
        ("expiration", found.expiration),
        ("message_id", found.message_id),
        ("type", found.kind),
        ("user_id", found.user_id),
        ("app_id", found.app_id),
        ("cluster_id", found.cluster_id),
    ] {
        if let Some(bytes) = value {
            shown.insert(name.to_owned(), json!(String::from_utf8_lossy(bytes)));
        }
    }
    for (name, value) in [
        ("delivery_mode", found.delivery_mode),
        ("priority", found.priority),
    ] {
        if let Some(number) = value {
            shown.insert(name.to_owned(), json!(number));
        }
    }
    if let Some(seconds) = found.timestamp {
        shown.insert("timestamp".to_owned(), json!(seconds));
    }
    if let Some(headers) = found.headers.and_then(|raw| Table::decode(raw).ok()) {
        shown.insert("headers".to_owned(), table_to_json(&headers));
    }
    Value::Object(shown)
}

/// Converts JSON to raw property flags and values. `user_id` must be the caller's own.
pub(in crate::management) fn properties_from_json(
    json: &Value,
    caller: &str,
) -> Result<Vec<u8>, ApiError> {
    let text = |name: &str| match json.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= 255 => Ok(Some(text.as_bytes())),
        Some(_) => Err(ApiError::bad(format!(
            "{name} must be a text of at most 255 bytes"
        ))),
    };
    let octet = |name: &str| match json.get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64().and_then(|number| u8::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::bad(format!("{name} must be a number below 256"))),
        },
    };
    let headers = match json.get("headers") {
        None => None,
        some => Some(table_from_json(some)?.to_bytes()),
    };
    let user_id = text("user_id")?;
    if user_id.is_some_and(|user| user != caller.as_bytes()) {
        return Err(ApiError::bad(
            "user_id must be the name of the user who publishes",
        ));
    }
    let expiration = text("expiration")?;
    if expiration.is_some_and(|text| text.is_empty() || !text.iter().all(u8::is_ascii_digit)) {
        return Err(ApiError::bad("invalid expiration"));
    }
    let mut raw = Vec::new();
    Properties {
        content_type: text("content_type")?,
        content_encoding: text("content_encoding")?,
        headers: headers.as_deref(),
        delivery_mode: octet("delivery_mode")?,
        priority: octet("priority")?,
        correlation_id: text("correlation_id")?,
        reply_to: text("reply_to")?,
        expiration,
        message_id: text("message_id")?,
        timestamp: json.get("timestamp").and_then(Value::as_u64),
        kind: text("type")?,
        user_id,
        app_id: text("app_id")?,
        cluster_id: text("cluster_id")?,
    }
    .encode(&mut raw);
    Ok(raw)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use serde_json::json;

    use super::{properties, properties_from_json};

    #[test]
    fn every_property_survives_the_way_there_and_back() {
        let all = json!({
            "content_type": "text/plain", "content_encoding": "gzip", "headers": { "a": 1 },
            "delivery_mode": 2, "priority": 5, "correlation_id": "c", "reply_to": "r",
            "expiration": "100", "message_id": "m",
            "timestamp": 7, "type": "t", "user_id": "ada", "app_id": "p", "cluster_id": "k",
        });
        assert_eq!(properties(&properties_from_json(&all, "ada").unwrap()), all);
        assert_eq!(
            properties(&properties_from_json(&json!({}), "ada").unwrap()),
            json!({})
        );
    }

    #[test]
    fn what_amqp_would_refuse_is_refused() {
        for bad in [
            json!({ "user_id": "bob" }),
            json!({ "expiration": "soon" }),
            json!({ "priority": 256 }),
            json!({ "type": 7 }),
        ] {
            assert!(properties_from_json(&bad, "ada").is_err(), "{bad}");
        }
    }
}
