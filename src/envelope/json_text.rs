//! JSON that is kept as the text that it is: a tree of its values takes up to a hundred times as
//! much memory.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// A JSON value as compact text.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// Writes a value as text.
    ///
    /// # Errors
    /// The value has keys that are not strings, or it cannot be written for a reason of its own.
    pub fn of(value: &impl Serialize) -> serde_json::Result<Self> {
        to_raw_value(value).map(Self)
    }

    /// The text, in one line.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
