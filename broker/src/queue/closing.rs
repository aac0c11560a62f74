//! The end of a queue: it is closed if the conditions of its deletion hold, its consumers are
//! cancelled, and it is emptied later. Relies on `state`.

use std::sync::Arc;

use super::consumer::Consumer;
use super::removed::RemovedMessages;
use super::{Queue, limits};
use crate::delivery::effects::Effects;
use crate::observer::BrokerEnd;
use crate::wire::reply;

/// The cost of cancelling a consumer, in steps: it wakes a writer of its own.
const CANCEL: u32 = 4;

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

/// Consumers that have left their queue and are still to be cancelled.
#[derive(Debug, Default)]
pub(crate) struct CancelledConsumers {
    consumers: std::vec::IntoIter<Arc<Consumer>>,
    /// The connection that deleted the queue.
    deleter: Option<u64>,
}

impl CancelledConsumers {
    pub(crate) fn new(consumers: Vec<Arc<Consumer>>, deleter: Option<u64>) -> Self {
        Self {
            consumers: consumers.into_iter(),
            deleter,
        }
    }

    /// Cancels as many consumers as the budget allows, and at least one. Those of the deleter are
    /// cancelled after the reply to its delete. False when none is left.
    pub(crate) fn cancel_some(&mut self, effects: &mut Effects) -> bool {
        for consumer in self.consumers.by_ref() {
            effects.spend(CANCEL);
            cancel(&consumer, self.deleter, effects);
            if effects.is_spent() {
                return self.consumers.len() > 0;
            }
        }
        false
    }
}

fn cancel(consumer: &Consumer, deleter: Option<u64>, effects: &mut Effects) {
    consumer.mark_cancelled();
    let subscription = &consumer.subscription;
    if !subscription.wants_cancel {
        return;
    }
    let (channel, tag) = (subscription.framing.channel, &subscription.tag);
    if deleter == Some(subscription.connection) {
        reply::cancel(&mut effects.cancels_after_delete, channel, tag);
    } else {
        subscription
            .outbox
            .write(effects, |out| reply::cancel(out, channel, tag));
    }
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
