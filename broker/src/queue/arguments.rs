//! The `x-…` arguments of `queue.declare`: read, checked and compared as RabbitMQ 3.10 does, with
//! its texts.
//!
//! Unknown arguments are kept and mean nothing. `x-queue-type=quorum` is an ordinary durable queue
//! that also accepts the arguments which only quorum queues or streams have (they are kept and mean
//! nothing either); `stream` is refused. Relies on field tables alone.

use crate::wire::table::{NAME_LIMIT, Table, Value};

mod check;
#[cfg(test)]
mod tests;

pub use check::InvalidValue;

/// The longest `x-expires` and `x-message-ttl`, milliseconds: ten years, as in RabbitMQ.
pub const TTL_LIMIT_MS: u64 = 315_360_000_000;

/// The arguments whose values must agree when a queue is declared again, in the order in which
/// RabbitMQ compares them.
const COMPARED: [&str; 20] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
];

/// What a queue does with a message that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest goes.
    #[default]
    DropHead,
    /// The new one is refused; a confirming publisher gets a nack.
    RejectPublish,
    /// The new one is refused and goes to the dead letters.
    RejectPublishDlx,
}

impl Overflow {
    /// The behaviour that `x-overflow` names.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "drop-head" => Some(Self::DropHead),
            "reject-publish" => Some(Self::RejectPublish),
            "reject-publish-dlx" => Some(Self::RejectPublishDlx),
            _ => None,
        }
    }
}

/// Where dead letters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// The name of an exchange; empty for the default one.
    pub exchange: String,
    /// Replaces the message's own routing keys.
    pub routing_key: Option<String>,
}

/// What the arguments of a queue ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueArguments {
    /// `x-message-ttl`
    pub message_ttl_ms: Option<u64>,
    /// `x-expires`
    pub expires_ms: Option<u64>,
    /// `x-max-length`: how many ready messages it keeps.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`: how many bytes of ready bodies it keeps.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`
    pub overflow: Overflow,
    /// `x-dead-letter-exchange` and `x-dead-letter-routing-key`
    pub dead_letters: Option<DeadLetters>,
    /// `x-max-priority`
    pub max_priority: Option<u8>,
    /// `x-single-active-consumer`
    pub single_active_consumer: bool,
}

impl QueueArguments {
    /// Reads the arguments of a declare.
    pub fn parse(table: &Table) -> Result<Self, ArgumentError> {
        let arguments = Self::parse_stored(table)?;
        check::new_queue(table)?;
        Ok(arguments)
    }

    /// Reads the arguments of a queue in the store, which an older version may have accepted, or in
    /// definitions, which may be those of RabbitMQ. A routing key for dead letters that is too long
    /// for one is cut between two characters, because consumers may decode keys as UTF-8.
    pub fn parse_stored(table: &Table) -> Result<Self, ArgumentError> {
        check::check_all(table)?;
        let text = |name| table.get(name).and_then(Value::as_text).map(str::to_owned);
        let number = |name| {
            table
                .get(name)
                .and_then(Value::as_integer)
                .and_then(|number| u64::try_from(number).ok())
        };
        Ok(Self {
            message_ttl_ms: number("x-message-ttl"),
            expires_ms: number("x-expires"),
            max_length: number("x-max-length"),
            max_length_bytes: number("x-max-length-bytes"),
            overflow: table
                .get("x-overflow")
                .and_then(Value::as_text)
                .and_then(Overflow::from_name)
                .unwrap_or_default(),
            dead_letters: text("x-dead-letter-exchange").map(|exchange| DeadLetters {
                exchange,
                routing_key: text("x-dead-letter-routing-key").map(|mut key| {
                    key.truncate(key.floor_char_boundary(NAME_LIMIT));
                    key
                }),
            }),
            max_priority: number("x-max-priority").and_then(|number| u8::try_from(number).ok()),
            single_active_consumer: table.get("x-single-active-consumer")
                == Some(&Value::Bool(true)),
        })
    }

    /// Whether `received` may declare again a queue that has the arguments `current`. Only the
    /// arguments in [`COMPARED`] are compared; the error names the first that differs.
    pub fn check_equivalent(current: &Table, received: &Table) -> Result<(), ArgumentError> {
        for name in COMPARED {
            if name == "x-queue-type" && is_classic(current) && is_classic(received) {
                continue;
            }
            if let Some(difference) = received.difference(current, name) {
                return Err(ArgumentError::Inequivalent { name, difference });
            }
        }
        Ok(())
    }
}

/// A queue without a type is a classic one.
fn is_classic(table: &Table) -> bool {
    table
        .get("x-queue-type")
        .is_none_or(|kind| kind.as_text() == Some("classic"))
}

/// Why arguments are refused. All are 406 `PRECONDITION_FAILED` but [`ArgumentError::Stream`],
/// which is 540 `NOT_IMPLEMENTED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentError {
    /// A value that the argument cannot have.
    Invalid {
        /// The argument.
        name: &'static str,
        /// What is wrong with it.
        reason: InvalidValue,
    },
    /// A type that the argument cannot have, noticed before the others are.
    InvalidType {
        /// The argument.
        name: &'static str,
        /// The type that it had.
        kind: &'static str,
    },
    /// An argument that only other kinds of queue know.
    OtherKind {
        /// The argument.
        name: &'static str,
    },
    /// A queue of this name exists with another value.
    Inequivalent {
        /// The argument.
        name: &'static str,
        /// `received … but current is …`
        difference: String,
    },
    /// Streams are left to LavinMQ.
    Stream,
}

impl ArgumentError {
    /// The text for the client, without the name of the reply code.
    pub fn text(&self, queue: &str, vhost: &str) -> String {
        let place = format!("queue '{queue}' in vhost '{vhost}'");
        match self {
            Self::Invalid { name, reason } => format!("invalid arg '{name}' for {place}: {reason}"),
            Self::InvalidType { name, kind } => {
                format!("invalid type '{kind}' for arg '{name}' in {place}")
            }
            Self::OtherKind { name } => {
                format!("invalid arg '{name}' for {place} of queue type rabbit_classic_queue")
            }
            Self::Inequivalent { name, difference } => {
                format!("inequivalent arg '{name}' for {place}: {difference}")
            }
            Self::Stream => format!("queue type 'stream' of {place} is not supported"),
        }
    }
}
