//! Parses and validates the bytes of a message body.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Envelope, Priority};
use crate::name::SessionName;

/// The default limit for a body: 1 MiB.
pub const DEFAULT_LIMIT_BYTES: usize = 1 << 20;

const LONGEST_ID: usize = 128;

/// 128 bits, so that no second body with the same digest can be found.
const IDENTITY_DIGITS: usize = 32;

/// Why a body is refused. The text becomes the `error` of the dead letter.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The body is longer than the limit.
    #[error("the body has {bytes} bytes; the limit is {limit_bytes}")]
    Large {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The body is not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// The body is JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A field is there twice: a reader that stops at the first one would see another value.
    #[error("`{0}` is there twice")]
    Twice(String),
    /// A required field is absent.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A required field is an empty string.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// A field has the wrong type.
    #[error("`{field}` is not {expected}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// The expected type, with its article.
        expected: &'static str,
    },
    /// A field of the line's head is not a session name.
    #[error("`{0}` is not a session name")]
    NotAName(&'static str),
    /// A field of the line's head contains characters that an id must not contain.
    #[error("`{0}` is not an id")]
    NotAnId(&'static str),
}

impl Envelope {
    /// Parses and validates a message body of at most `limit_bytes`.
    pub fn parse(body: &[u8], limit_bytes: usize) -> Result<Self, Invalid> {
        if body.len() > limit_bytes {
            return Err(Invalid::Large {
                bytes: body.len(),
                limit_bytes,
            });
        }
        let text = std::str::from_utf8(body).map_err(|_| Invalid::NotUtf8)?;
        let mut fields = fields(text)?;
        let envelope = Self {
            id: required(&mut fields, "id")?,
            from: required(&mut fields, "from")?,
            to: required(&mut fields, "to")?,
            ts: required(&mut fields, "ts")?,
            message: required(&mut fields, "message")?,
            files: files(&mut fields)?,
            reply_to: optional(&mut fields, "reply_to")?,
            correlation_id: optional(&mut fields, "correlation_id")?,
            priority: priority(&mut fields)?,
            metadata: metadata(&mut fields)?,
            unknown: fields,
            spilled: None,
            digest: super::digest(body, IDENTITY_DIGITS),
        };
        envelope.check()?;
        Ok(envelope)
    }

    /// Validates the fields that appear in the head of the line and in the arguments of an answer.
    fn check(&self) -> Result<(), Invalid> {
        if !SessionName::is_exact(&self.from) {
            return Err(Invalid::NotAName("from"));
        }
        if self
            .reply_to
            .as_deref()
            .is_some_and(|name| !SessionName::is_exact(name))
        {
            return Err(Invalid::NotAName("reply_to"));
        }
        if !is_id(&self.id) {
            return Err(Invalid::NotAnId("id"));
        }
        if self.correlation_id.as_deref().is_some_and(|id| !is_id(id)) {
            return Err(Invalid::NotAnId("correlation_id"));
        }
        Ok(())
    }
}

/// The fields of an object in which each is there once.
fn fields(text: &str) -> Result<Map<String, Value>, Invalid> {
    if !text.trim_ascii_start().starts_with('{') {
        let _any: IgnoredAny = serde_json::from_str(text).map_err(Invalid::NotJson)?;
        return Err(Invalid::NotAnObject);
    }
    let OuterFields { found, twice } = serde_json::from_str(text).map_err(Invalid::NotJson)?;
    match twice {
        Some(field) => Err(Invalid::Twice(field)),
        None => Ok(found),
    }
}

/// An object's fields, and one that is there twice.
struct OuterFields {
    found: Map<String, Value>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for OuterFields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OuterFieldsVisitor)
    }
}

struct OuterFieldsVisitor;

impl<'de> Visitor<'de> for OuterFieldsVisitor {
    type Value = OuterFields;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<OuterFields, A::Error> {
        let (mut found, mut twice) = (Map::new(), None);
        while let Some((field, value)) = entries.next_entry::<String, Value>()? {
            if found.contains_key(&field) {
                twice.get_or_insert(field);
            } else {
                found.insert(field, value);
            }
        }
        Ok(OuterFields { found, twice })
    }
}

/// Whether a text is a valid `id` or `correlation_id`: `[A-Za-z0-9._:-]{1,128}`.
pub fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

fn required(fields: &mut Map<String, Value>, field: &'static str) -> Result<String, Invalid> {
    match fields.remove(field) {
        None => Err(Invalid::Missing(field)),
        Some(Value::String(text)) if text.is_empty() => Err(Invalid::Empty(field)),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Invalid::WrongType {
            field,
            expected: "a string",
        }),
    }
}

fn optional(
    fields: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, Invalid> {
    match fields.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Invalid::WrongType {
            field,
            expected: "a string",
        }),
    }
}

fn files(fields: &mut Map<String, Value>) -> Result<Option<Vec<String>>, Invalid> {
    let wrong = Invalid::WrongType {
        field: "files",
        expected: "an array of strings",
    };
    match fields.remove("files") {
        None => Ok(None),
        Some(Value::Array(paths)) => paths
            .into_iter()
            .map(|path| {
                if let Value::String(path) = path {
                    Some(path)
                } else {
                    None
                }
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(wrong)
            .map(Some),
        Some(_) => Err(wrong),
    }
}

fn priority(fields: &mut Map<String, Value>) -> Result<Option<Priority>, Invalid> {
    match fields.remove("priority") {
        None => Ok(None),
        Some(value) => serde_json::from_value(value)
            .map(Some)
            .map_err(|_| Invalid::WrongType {
                field: "priority",
                expected: "`low`, `normal` or `high`",
            }),
    }
}

fn metadata(fields: &mut Map<String, Value>) -> Result<Option<Map<String, Value>>, Invalid> {
    match fields.remove("metadata") {
        None => Ok(None),
        Some(Value::Object(entries)) => Ok(Some(entries)),
        Some(_) => Err(Invalid::WrongType {
            field: "metadata",
            expected: "an object",
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body(change: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
        let mut value = json!({
            "id": "01HZ7K8M2N3P4Q5R6S7T8U9V", "from": "myPythonBackend", "to": "myPythonFrontend",
            "ts": "2026-06-22T14:32:11.482Z", "message": "GET /users/:id/preferences is live.",
            "files": ["/repo/api/openapi.yaml"], "reply_to": "myPythonBackend",
            "correlation_id": "01HZ7K8M2N3P4Q5R6S7T8U9V", "priority": "normal",
            "metadata": { "intent": "feature-handoff" }
        });
        change(value.as_object_mut().unwrap());
        serde_json::to_vec(&value).unwrap()
    }

    fn parse(body: &[u8]) -> Result<Envelope, Invalid> {
        Envelope::parse(body, DEFAULT_LIMIT_BYTES)
    }

    fn assert_refused(body: &[u8], why: &Invalid) {
        let refused = parse(body).unwrap_err();
        let (body, why) = (String::from_utf8_lossy(body), why.to_string());
        assert_eq!(refused.to_string(), why, "{body}");
    }

    #[test]
    fn the_envelope_of_the_typescript_readme_is_taken_whole() {
        let envelope = parse(&body(|_| ())).unwrap();
        assert_eq!(envelope.from, "myPythonBackend");
        assert_eq!(
            envelope.files.as_deref(),
            Some(["/repo/api/openapi.yaml".to_owned()].as_slice())
        );
        assert_eq!(envelope.priority, Some(Priority::Normal));
        assert_eq!(envelope.metadata.unwrap()["intent"], "feature-handoff");
    }

    #[test]
    fn each_required_field_must_be_a_string_with_something_in_it() {
        for field in ["id", "from", "to", "ts", "message"] {
            let absent = body(|b| drop(b.remove(field)));
            assert_refused(&absent, &Invalid::Missing(field));
            let with = |value: Value| body(|b| b[field] = value);
            assert_refused(&with(json!("")), &Invalid::Empty(field));
            let wrong = Invalid::WrongType {
                field,
                expected: "a string",
            };
            assert_refused(&with(json!(7)), &wrong);
            assert_refused(&with(Value::Null), &wrong);
        }
    }

    #[test]
    fn an_optional_field_of_another_type_is_a_dead_letter() {
        for (field, value) in [
            ("files", json!("/a")),
            ("files", json!(["/a", 1])),
            ("reply_to", json!(1)),
            ("correlation_id", json!({})),
            ("priority", json!("urgent")),
            ("metadata", json!([])),
        ] {
            assert!(
                matches!(
                    parse(&body(|b| b[field] = value.clone())),
                    Err(Invalid::WrongType { .. })
                ),
                "{field} {value}"
            );
        }
    }

    #[test]
    fn what_would_enter_the_reply_command_line_is_checked() {
        let with = |field: &str, value: &str| body(|b| b[field] = json!(value));
        for bad in ["a b", "my-backend", "a;touch F", "$(touch F)", "Backend"] {
            for field in ["from", "reply_to"] {
                assert_refused(&with(field, bad), &Invalid::NotAName(field));
            }
        }
        for bad in ["a b", "a\"b", "$(x)", "é", &"x".repeat(129)] {
            for field in ["id", "correlation_id"] {
                assert_refused(&with(field, bad), &Invalid::NotAnId(field));
            }
        }
        let field = "correlation_id";
        assert_refused(&with(field, ""), &Invalid::NotAnId(field));
    }

    #[test]
    fn what_is_no_json_object_is_a_dead_letter() {
        assert_refused(b"\xff", &Invalid::NotUtf8);
        assert!(matches!(parse(b"{"), Err(Invalid::NotJson(_))));
        assert!(matches!(parse(b""), Err(Invalid::NotJson(_))));
        assert_refused(b"[]", &Invalid::NotAnObject);
        let large = Envelope::parse(b"{}..", 3);
        assert!(
            matches!(
                large,
                Err(Invalid::Large {
                    bytes: 4,
                    limit_bytes: 3
                })
            ),
            "{large:?}"
        );
        let deep = "[".repeat(100_000);
        assert!(matches!(parse(deep.as_bytes()), Err(Invalid::NotJson(_))));
    }

    #[test]
    fn a_text_that_comes_twice_is_a_dead_letter() {
        // Who sees the beginning of a long one would see another text than the agent.
        for twice in [
            r#""message":"harmless","message":"harmful""#,
            r#""message":"harmless","\u006dessage":"harmful""#,
            r#""message":"m","unknown":1,"unknown":1"#,
        ] {
            let body = format!(r#"{{"id":"1","from":"a","to":"b","ts":"t",{twice}}}"#);
            let refused = parse(body.as_bytes());
            assert!(matches!(refused, Err(Invalid::Twice(_))), "{refused:?}");
        }
        let nested = body(|b| b["metadata"] = json!({"message": "nested"}));
        assert!(parse(&nested).is_ok());
    }

    #[test]
    fn unknown_fields_are_kept() {
        let envelope = parse(&body(|b| drop(b.insert("v2".into(), json!([1]))))).unwrap();
        let again: Value = serde_json::from_slice(&envelope.to_json()).unwrap();
        assert_eq!(again["v2"], json!([1]));
    }

    #[test]
    fn absent_optional_fields_are_omitted() {
        let name = SessionName::new("a").unwrap();
        let envelope = Envelope::new(
            ulid::Ulid::nil(),
            chrono::DateTime::UNIX_EPOCH,
            &name,
            &name,
            "m".into(),
        );
        assert_eq!(
            String::from_utf8(envelope.to_json()).unwrap(),
            concat!(
                r#"{"id":"00000000000000000000000000","from":"a","to":"a","#,
                r#""ts":"1970-01-01T00:00:00.000Z","message":"m"}"#
            )
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }

        #[test]
        fn what_was_written_is_read_again(
            message in "\\PC{1,40}",
            files in proptest::option::of(proptest::collection::vec("\\PC{0,10}", 0..3)),
            id in "[A-Za-z0-9._:-]{1,128}",
        ) {
            let name = SessionName::new("peer").unwrap();
            let (id_of, at) = (ulid::Ulid::nil(), chrono::DateTime::UNIX_EPOCH);
            let mut envelope = Envelope::new(id_of, at, &name, &name, message);
            envelope.files = files;
            envelope.id = id.clone();
            envelope.correlation_id = Some(id);
            envelope.digest = crate::envelope::digest(&envelope.to_json(), IDENTITY_DIGITS);
            prop_assert_eq!(parse(&envelope.to_json()).unwrap(), envelope);
        }
    }
}
