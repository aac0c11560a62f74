//! The message that sessions exchange: validation, JSON and one-line form. No I/O.
//!
//! Every received message passes [`Envelope::parse`]; a refused one becomes a dead letter with the
//! [`Invalid`] as its reason. A message reaches an agent's input only in the form of
//! [`Envelope::to_line`] (`line`).

mod forgery;
mod json_text;
mod line;
mod parse;

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use ulid::Ulid;

pub use crate::clean::LineBreaks;
pub use forgery::disarm;
pub use json_text::JsonText;
pub use line::DeliveryMark;
pub use parse::{DEFAULT_LIMIT_BYTES, Invalid, is_id};

use crate::name::SessionName;

/// One message between sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Envelope {
    /// A ULID from cbroker; any `[A-Za-z0-9._:-]{1,128}` from other tools.
    pub id: String,
    /// The claimed sender. It is not verified.
    pub from: String,
    /// The recipient's session name.
    pub to: String,
    /// The time of sending: RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// The text.
    pub message: String,
    /// Absolute paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// The session to send answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The id of the message that this one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Information only; the order of messages does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// An object of strings from `--meta`; any JSON object from other tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<JsonText>,
    /// Fields that this version does not know. Only [`Envelope::parse_whole`] keeps them, for a
    /// reader who passes them on.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
    /// If the text was moved to a file, the first hex digits of its SHA-256. Never sent or
    /// received.
    #[serde(skip)]
    pub spilled: Option<String>,
    /// Hex digits of the SHA-256 of the received body; empty if the message was not received.
    #[serde(skip)]
    pub digest: String,
}

/// The priority that the sender gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// AMQP priority 1.
    Low,
    /// AMQP priority 5.
    Normal,
    /// AMQP priority 9.
    High,
}

impl Priority {
    /// Returns the corresponding AMQP priority.
    pub fn number(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::Normal => 5,
            Self::High => 9,
        }
    }
}

impl Envelope {
    /// Creates a message without optional fields. The caller supplies time and id.
    pub fn new(
        id: Ulid,
        at: DateTime<Utc>,
        from: &SessionName,
        to: &SessionName,
        message: String,
    ) -> Self {
        Self {
            id: id.to_string(),
            from: from.to_string(),
            to: to.to_string(),
            ts: timestamp(at),
            message,
            files: None,
            reply_to: None,
            correlation_id: None,
            priority: None,
            metadata: None,
            unknown: Map::new(),
            spilled: None,
            digest: String::new(),
        }
    }

    /// Returns the claimed time of sending, if `ts` is a valid time.
    pub fn sent(&self) -> Option<DateTime<Utc>> {
        let at = DateTime::parse_from_rfc3339(&self.ts).ok()?;
        Some(at.to_utc())
    }

    /// Returns a key that identifies the message: its id, sender and content. The id alone can be
    /// reused.
    pub fn identity(&self) -> String {
        format!("{} {} {}", self.id, self.from, self.digest)
    }

    /// Returns the number of bytes of the texts that others wrote: the message, its files and its
    /// metadata.
    pub fn text_bytes(&self) -> usize {
        let files: usize = self.files.iter().flatten().map(String::len).sum();
        let metadata = self.metadata.as_ref().map_or("", JsonText::as_str);
        self.message.len() + files + metadata.len()
    }

    /// Encodes the message body.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialising strings, maps with string keys and JSON values to memory cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Returns the first `digits` hexadecimal digits of the SHA-256.
pub fn digest(bytes: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _infallible = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

/// Formats a time as in `ts`: RFC 3339 in UTC with milliseconds and `Z`.
pub fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
