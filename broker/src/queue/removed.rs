//! Messages that left their queue all at once, with a purge or its deletion, and end in pieces.
//! Relies on `level`.
//!
//! They leave in one short step under the queue's lock, whatever their number. What is left to do
//! for each, which is to note its end, to settle it in the store and to free it, is done in as many
//! units of work as that takes, without the lock.

use std::sync::Arc;

use super::Queue;
use super::level::PriorityLevel;
use super::state::QueueState;
use crate::delivery::effects::Effects;
use crate::observer::BrokerEnd;
use crate::persist::{Stopped, Ticket};

/// Messages of one level that only the store has. From `first` on, the store has no others of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredMessages {
    pub(crate) level: u8,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// The messages that a queue had in memory when it was purged or deleted.
#[derive(Debug)]
pub(crate) struct RemovedMessages {
    queue: Arc<Queue>,
    end: BrokerEnd,
    /// How many left, with those that only the store had.
    count: u64,
    /// The last one is next.
    levels: Vec<PriorityLevel>,
    ticket: Ticket,
}

impl RemovedMessages {
    /// Messages that end so and were `count` with those that only the store had. The queue must be
    /// locked.
    pub(super) fn new(
        queue: &Arc<Queue>,
        end: BrokerEnd,
        (count, levels): (u64, Vec<PriorityLevel>),
    ) -> Self {
        // Until they are settled, the store has them.
        queue.add_stored_original();
        Self {
            queue: Arc::clone(queue),
            end,
            count,
            levels,
            ticket: Ticket::NONE,
        }
    }

    /// How many messages left.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// When all of them are gone for good, once [`Self::end_some`] returned false.
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether any message was in memory.
    pub(super) fn has_messages(&self) -> bool {
        self.levels.iter().any(|level| level.count() > 0)
    }

    pub(super) fn settled_with(&mut self, ticket: Ticket) {
        self.ticket = self.ticket.max(ticket);
    }

    /// Ends as many messages as the budget allows. False when none is left.
    pub(crate) fn end_some(&mut self, effects: &mut Effects) -> Result<bool, Stopped> {
        while let Some(level) = self.levels.last_mut() {
            if effects.is_spent() && level.count() > 0 {
                return Ok(true);
            }
            let Some(entry) = level.pop_removed() else {
                self.levels.pop();
                continue;
            };
            effects.spend(1);
            effects.note_end(&self.queue, &entry.message, self.end);
            // A deleted queue leaves the store as a whole.
            if self.end == BrokerEnd::Purged {
                let settled =
                    QueueState::settle_in_store_and_confirm(&self.queue, &entry, effects)?;
                self.settled_with(settled);
            }
        }
        Ok(false)
    }
}

impl Drop for RemovedMessages {
    fn drop(&mut self) {
        self.queue.remove_stored_original();
    }
}
