//! The message that sessions exchange: its rules, its JSON, its one-line form. No I/O.
//!
//! [`Envelope::parse`] is the only door for what arrives; what it refuses is a dead letter with the [`Invalid`] as its
//! reason. [`Envelope::to_line`] is the only form in which a message may reach an agent's input (`line`).

mod forgery;
mod line;
mod parse;

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use ulid::Ulid;

pub use crate::clean::Breaks;
pub use line::Mark;
pub use parse::{DEFAULT_LIMIT_BYTES, Invalid, is_id};

use crate::name::SessionName;

/// One message between sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Envelope {
    /// A ULID from our own sender; any `[A-Za-z0-9._:-]{1,128}` from others.
    pub id: String,
    /// Who says it was sent by them. A claim, not a proof.
    pub from: String,
    /// The session that it was sent to.
    pub to: String,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    /// The text.
    pub message: String,
    /// Absolute paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// The session to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The id of the message that this one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Information only; it does not reorder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Strings from `--meta`; any JSON object from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// Fields that this version does not know: kept and ignored.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
    /// The first hex digits of the SHA-256 of a text that was moved to a file; never from the wire.
    #[serde(skip)]
    pub spilled: Option<String>,
    /// Hexadecimal digits of the SHA-256 of the body as it arrived; empty in a message that did not arrive.
    #[serde(skip)]
    pub digest: String,
}

/// How urgent the sender finds it.
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
    /// The AMQP property that mirrors it.
    pub fn number(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::Normal => 5,
            Self::High => 9,
        }
    }
}

impl Envelope {
    /// A new message without its optional fields. Time and id come from the caller.
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

    /// When its sender says that it was sent, where that is a time.
    pub fn sent(&self) -> Option<DateTime<Utc>> {
        let at = DateTime::parse_from_rfc3339(&self.ts).ok()?;
        Some(at.to_utc())
    }

    /// What makes it this message and no other: its id, its sender and what it says. An id alone may be used again.
    pub fn identity(&self) -> String {
        format!("{} {} {}", self.id, self.from, self.digest)
    }

    /// The bytes of the message body.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialising strings, maps with string keys and JSON values into memory has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The first hexadecimal digits of a SHA-256.
pub fn digest(bytes: &[u8], digits: usize) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _infallible = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

/// RFC 3339 in UTC with milliseconds and `Z`, as `ts` has it.
pub fn timestamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
