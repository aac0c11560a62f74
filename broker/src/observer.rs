//! Reports messages that end in the broker to the surrounding program: their time to live passes,
//! or their queue overflows, is purged or is deleted. Depends on `wire`.
//!
//! The broker does not interpret messages. The program does, and selects the exchange whose
//! messages are reported.

use std::fmt::Debug;

use crate::wire::properties::Properties;
use crate::wire::table::Table;

/// How a message ended in the broker without being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerEnd {
    /// Its time to live passed.
    Expired,
    /// Its queue was full.
    Dropped,
    /// Its queue was purged.
    Purged,
    /// Its queue was deleted.
    Deleted,
}

/// A message that ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedMessage<'a> {
    /// The cause of its end.
    pub end: BrokerEnd,
    /// The queue in which it waited.
    pub queue: &'a str,
    /// The routing key that it was published with.
    pub routing_key: &'a [u8],
    /// Encoded properties: flags and values.
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

/// Receives messages that ended in the broker.
pub trait EndObserver: Debug + Send + Sync {
    /// The exchange whose messages are observed.
    fn exchange(&self) -> &'static str;

    /// About how long a body may be, in bytes. The ends of messages with longer ones may be left
    /// out: where only the store has such a message, it is not read for this.
    fn largest_body(&self) -> usize;

    /// Messages have ended, in this order. Called on a thread of its own, which may wait for the
    /// disk. While it waits, later messages are kept up to a limit, and counted beyond it. When the
    /// broker stops, it waits for this a second at most.
    fn ended(&self, messages: &[EndedMessage<'_>]);
}

impl EndedMessage<'_> {
    /// The user that published it, as the broker checked. A dead-lettered message keeps the name,
    /// but then the owner of another queue chose when and where it went.
    pub fn user(&self) -> Option<&str> {
        let properties = Properties::scan(self.properties).ok()?;
        let is_dead_letter = self.header("x-death").is_some();
        let user = properties.user_id.filter(|_| !is_dead_letter)?;
        std::str::from_utf8(user).ok()
    }

    /// The text of a header; empty where the header is no text.
    pub fn header(&self, name: &str) -> Option<String> {
        let properties = Properties::scan(self.properties).ok()?;
        let headers = Table::decode(properties.headers?).ok()?;
        let value = headers.get(name)?;
        Some(value.as_text().unwrap_or_default().to_owned())
    }
}
