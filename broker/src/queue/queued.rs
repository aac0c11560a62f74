//! One message in one queue. Relies on `message`, the confirms and the memory account.

use std::sync::Arc;

use super::message::Message;
use crate::delivery::confirms::Confirms;
use crate::memory::EntryCharge;
use crate::persist::Urgency;

/// What an entry takes beside its bytes, as windows count it; the account charges more (`memory`).
const WINDOW_ENTRY_BYTES: usize = 96;

/// One message in a queue.
#[derive(Debug)]
pub(crate) struct QueuedMessage {
    pub(crate) position: u64,
    pub(crate) message: Message,
    pub(crate) level: u8,
    pub(crate) redelivered: bool,
    pub(crate) persistence: Persistence,
    /// The publisher's open confirm, released early when this message is settled while its batch
    /// gathers.
    pub(crate) confirm: Option<(Arc<Confirms>, u64)>,
    pub(crate) _charge: EntryCharge,
}

/// What the store has to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Transient message or queue.
    Transient,
    /// To be appended unless it is consumed at once.
    ToAppend(Urgency),
    Appended,
}

impl QueuedMessage {
    /// What it takes in memory.
    pub(crate) fn footprint(&self) -> usize {
        self.message.footprint() + WINDOW_ENTRY_BYTES
    }

    /// The store has it not and will not have it.
    pub(crate) fn is_transient(&self) -> bool {
        self.persistence == Persistence::Transient
    }

    pub(super) fn waiting(&self) -> (u64, (Message, bool)) {
        (self.position, (self.message.clone(), self.redelivered))
    }
}
