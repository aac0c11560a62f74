//! Tells the surrounding program which messages end in the broker: their time to live passes, their
//! queue is full, or somebody purges or deletes it. Depends on `wire`.
//!
//! The broker knows no message's meaning. The program reads it, and says for which exchange it
//! wants to be told.

use std::fmt::Debug;

use crate::wire::properties::Properties;
use crate::wire::table::Table;

/// How a message ended in the broker, that no client took.
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
    /// How.
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

/// Who is told.
pub trait EndObserver: Debug + Send + Sync {
    /// The exchange whose messages are observed.
    fn exchange(&self) -> &'static str;

    /// Messages have ended, in this order. Called on a thread of its own, which may wait for the
    /// disk. While it waits, later messages are kept up to a limit, and counted beyond it.
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
