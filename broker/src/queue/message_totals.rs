//! How much of a queue's messages there is. Depends on `queued`.

use super::queued::QueuedMessage;

/// Messages and the octets of their bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MessageTotals {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl MessageTotals {
    pub(crate) fn add(&mut self, entry: &QueuedMessage) {
        self.messages += 1;
        self.bytes += entry.message.body_len() as u64;
    }

    pub(crate) fn subtract(&mut self, entry: &QueuedMessage) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(entry.message.body_len() as u64);
    }
}
