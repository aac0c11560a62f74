//! Parses and validates the bytes of a message body.

mod fields;

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Envelope, JsonText};
use crate::name::SessionName;
use fields::{FieldName, OuterFields};

/// The default limit for a body: 1 MiB.
pub const DEFAULT_LIMIT_BYTES: usize = 1 << 20;

const LONGEST_ID: usize = 128;

/// The most files that one message names.
const MOST_FILES: usize = 4096;

/// The longest `metadata`, as it is written in the body.
const MOST_METADATA_BYTES: usize = 64 << 10;

const A_STRING: &str = "a string";

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
    #[error("`{0}` occurs twice")]
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
    /// It names too many files.
    #[error("`files` names {0} files; the limit is {MOST_FILES}")]
    ManyFiles(usize),
    /// The metadata is too long.
    #[error("`metadata` has {0} bytes; the limit is {MOST_METADATA_BYTES}")]
    LongMetadata(usize),
    /// A field of the line's head is not a session name.
    #[error("`{0}` is not a session name")]
    NotAName(&'static str),
    /// A field of the line's head contains characters that an id must not contain.
    #[error("`{0}` is not an id")]
    NotAnId(&'static str),
}

impl Envelope {
    /// Parses and validates a message body of at most `limit_bytes`. Fields that this version does
    /// not know are left out: nothing bounds what a tree of their values takes.
    pub fn parse(body: &[u8], limit_bytes: usize) -> Result<Self, Invalid> {
        Ok(OuterFields::read(body, limit_bytes)?.into_envelope(body)?.0)
    }

    /// Like [`Self::parse`], with the fields that this version does not know, for one who passes
    /// them on. Those that are nested too deeply are left out.
    pub fn parse_whole(body: &[u8], limit_bytes: usize) -> Result<Self, Invalid> {
        let (mut envelope, others) = OuterFields::read(body, limit_bytes)?.into_envelope(body)?;
        let read = others.into_iter().filter_map(|(name, value)| {
            let value = serde_json::from_str(value.get()).ok()?;
            Some((name.0.into_owned(), value))
        });
        envelope.unknown = read.collect();
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

impl<'a> OuterFields<'a> {
    /// The message, and what it does not know.
    fn into_envelope(
        mut self,
        body: &[u8],
    ) -> Result<(Envelope, HashMap<FieldName<'a>, &'a RawValue>), Invalid> {
        let envelope = Envelope {
            id: self.required("id")?,
            from: self.required("from")?,
            to: self.required("to")?,
            ts: self.required("ts")?,
            message: self.required("message")?,
            files: self.files()?,
            reply_to: self.optional("reply_to", A_STRING)?,
            correlation_id: self.optional("correlation_id", A_STRING)?,
            priority: self.optional("priority", "`low`, `normal` or `high`")?,
            metadata: self.metadata()?,
            unknown: Map::new(),
            spilled: None,
            digest: super::digest(body, IDENTITY_DIGITS),
        };
        envelope.check()?;
        Ok((envelope, self.found))
    }

    fn required(&mut self, field: &'static str) -> Result<String, Invalid> {
        match self.optional::<String>(field, A_STRING)? {
            None => Err(Invalid::Missing(field)),
            Some(text) if text.is_empty() => Err(Invalid::Empty(field)),
            Some(text) => Ok(text),
        }
    }

    fn optional<T: Deserialize<'a>>(
        &mut self,
        field: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, Invalid> {
        let value = self.found.remove(field);
        let value = value.map(|value| read(value.get(), field, expected));
        value.transpose()
    }

    fn files(&mut self) -> Result<Option<Vec<String>>, Invalid> {
        let (field, expected) = ("files", "an array of strings");
        let Some(value) = self.found.remove(field) else {
            return Ok(None);
        };
        // Counted first: the values themselves take no memory here.
        let count = read::<Vec<IgnoredAny>>(value.get(), field, expected)?.len();
        if count > MOST_FILES {
            return Err(Invalid::ManyFiles(count));
        }
        read(value.get(), field, expected).map(Some)
    }

    fn metadata(&mut self) -> Result<Option<JsonText>, Invalid> {
        let (field, expected) = ("metadata", "an object");
        let Some(value) = self.found.remove(field) else {
            return Ok(None);
        };
        let bytes = value.get().len();
        if bytes > MOST_METADATA_BYTES {
            return Err(Invalid::LongMetadata(bytes));
        }
        // As a tree, so that what is kept has no escapes that hide a character.
        let entries: Map<String, Value> = read(value.get(), field, expected)?;
        JsonText::of(&entries).map(Some).map_err(Invalid::NotJson)
    }
}

/// Reads the value of a field.
fn read<'a, T: Deserialize<'a>>(
    text: &'a str,
    field: &'static str,
    expected: &'static str,
) -> Result<T, Invalid> {
    serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => Invalid::WrongType { field, expected },
        Category::Io | Category::Syntax | Category::Eof => Invalid::NotJson(error),
    })
}

/// Whether a text is a valid `id` or `correlation_id`: `[A-Za-z0-9._:-]{1,128}`.
pub fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::envelope::Priority;

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
        let metadata = envelope.metadata.unwrap();
        assert_eq!(metadata.as_str(), r#"{"intent":"feature-handoff"}"#);
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
    fn unknown_fields_are_ignored_and_kept_for_one_who_passes_them_on() {
        let body = body(|b| drop(b.insert("v2".into(), json!([1]))));
        assert_eq!(parse(&body).unwrap().unknown, Map::new());
        let whole = Envelope::parse_whole(&body, DEFAULT_LIMIT_BYTES).unwrap();
        let again: Value = serde_json::from_slice(&whole.to_json()).unwrap();
        assert_eq!(again["v2"], json!([1]));
        assert_eq!(again["metadata"], json!({ "intent": "feature-handoff" }));
    }

    #[test]
    fn metadata_has_no_escape_that_hides_a_character() {
        let escaped = r#"{"id":"1","from":"a","to":"b","ts":"t","message":"m",
            "metadata": { "k" : "\u005bend\u005d" }}"#;
        let metadata = parse(escaped.as_bytes()).unwrap().metadata.unwrap();
        assert_eq!(metadata.as_str(), r#"{"k":"[end]"}"#);
    }

    #[test]
    fn what_takes_many_times_its_length_in_memory_has_a_limit() {
        let deep = format!(
            "{}{}",
            r#"{"a":"#.repeat(200),
            "0".to_owned() + &"}".repeat(200)
        );
        let with = |field: &str, value: &str| {
            let rest = r#""id":"1","from":"a","to":"b","ts":"t","message":"m""#;
            parse(format!(r#"{{{rest},"{field}":{value}}}"#).as_bytes())
        };
        let refused = with("metadata", &deep).unwrap_err();
        assert!(matches!(refused, Invalid::NotJson(_)), "{refused}");
        assert!(with("unknown", &deep).is_ok());
        let text = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8));
        assert!(with("metadata", &text(MOST_METADATA_BYTES)).is_ok());
        let refused = with("metadata", &text(MOST_METADATA_BYTES + 1)).unwrap_err();
        assert!(
            matches!(refused, Invalid::LongMetadata(65_537)),
            "{refused}"
        );
        let names = |count: usize| format!("[{}]", vec!["\"\""; count].join(","));
        assert!(with("files", &names(MOST_FILES)).is_ok());
        let refused = with("files", &names(MOST_FILES + 1)).unwrap_err();
        assert!(matches!(refused, Invalid::ManyFiles(4097)), "{refused}");
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
