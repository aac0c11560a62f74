//! The fields of a body, each with the text of its value.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::Invalid;

/// So much of the name of a field is part of an error.
const SHOWN_NAME: usize = 64;

/// The name of a field, without its escapes.
#[derive(PartialEq, Eq, Hash, Deserialize)]
pub(super) struct FieldName<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl Borrow<str> for FieldName<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The fields of an object, each with the text of its value.
pub(super) struct OuterFields<'a> {
    pub(super) found: HashMap<FieldName<'a>, &'a RawValue>,
    /// One that is there twice.
    twice: Option<String>,
}

impl<'a> OuterFields<'a> {
    /// Reads an object in which each field is there once.
    pub(super) fn read(body: &'a [u8], limit_bytes: usize) -> Result<Self, Invalid> {
        if body.len() > limit_bytes {
            return Err(Invalid::Large {
                bytes: body.len(),
                limit_bytes,
            });
        }
        let text = std::str::from_utf8(body).map_err(|_| Invalid::NotUtf8)?;
        if !text.trim_ascii_start().starts_with('{') {
            let _any: IgnoredAny = serde_json::from_str(text).map_err(Invalid::NotJson)?;
            return Err(Invalid::NotAnObject);
        }
        let fields: Self = serde_json::from_str(text).map_err(Invalid::NotJson)?;
        match fields.twice {
            Some(field) => Err(Invalid::Twice(field)),
            None => Ok(fields),
        }
    }
}

impl<'de> Deserialize<'de> for OuterFields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OuterFieldsVisitor)
    }
}

struct OuterFieldsVisitor;

impl<'de> Visitor<'de> for OuterFieldsVisitor {
    type Value = OuterFields<'de>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut twice) = (HashMap::new(), None);
        while let Some((field, value)) = entries.next_entry::<FieldName<'de>, &RawValue>()? {
            match found.entry(field) {
                Entry::Occupied(entry) => {
                    let name = entry.key().0.chars();
                    twice.get_or_insert_with(|| name.take(SHOWN_NAME).collect());
                }
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
            }
        }
        Ok(OuterFields { found, twice })
    }
}
