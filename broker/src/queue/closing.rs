//! The end of a queue: it is closed if the conditions of its deletion hold, and emptied later.
//! Relies on `state`.

use std::sync::Arc;

use super::consumer::Consumer;
use super::removed::RemovedMessages;
use super::{Queue, limits};
use crate::delivery::effects::Effects;
use crate::observer::BrokerEnd;

/// What must be true of a queue at the moment at which it is closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CloseCondition {
    /// It has no consumers.
    pub(crate) unused: bool,
    /// It has no ready messages.
    pub(crate) empty: bool,
    /// It was unused for as long as its `x-expires` says.
    pub(crate) expired: bool,
}

/// The condition that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeptQueue {
    InUse,
    NotEmpty,
    NotExpired,
}

/// What a queue had when it was closed.
#[derive(Debug)]
pub(crate) struct ClosedQueue {
    pub(crate) ready: u64,
    pub(crate) consumers: Vec<Arc<Consumer>>,
}

impl Queue {
    /// Closes the queue if the conditions hold: from then on it takes neither messages nor
    /// consumers, and gives no messages away. [`Queue::remove_ready`] must follow.
    pub(crate) fn close_if(
        &self,
        condition: CloseCondition,
        now_ms: u64,
    ) -> Result<ClosedQueue, KeptQueue> {
        self.with(|state| {
            if condition.unused && !state.consumers.is_empty() {
                return Err(KeptQueue::InUse);
            }
            if condition.empty && !state.ready.is_empty() {
                return Err(KeptQueue::NotEmpty);
            }
            let arguments = &self.identity.arguments;
            if condition.expired && !limits::has_expired(state, arguments, now_ms) {
                return Err(KeptQueue::NotExpired);
            }
            state.is_deleted = true;
            Ok(ClosedQueue {
                ready: state.ready.ready(),
                consumers: state.consumers.take_all(),
            })
        })
    }

    /// Takes the ready messages out of a closed queue, before the store forgets it.
    pub(crate) fn remove_ready(self: &Arc<Self>, effects: &mut Effects) -> RemovedMessages {
        self.with(|state| {
            for in_store in state.ready.in_store() {
                effects.note_stored_end(self, in_store, BrokerEnd::Deleted);
            }
            RemovedMessages::new(self, BrokerEnd::Deleted, state.ready.take_all())
        })
    }
}
