//! Adding and removing a queue's consumers. Relies on `state`.

use std::sync::Arc;

use super::consumer::Consumer;
use super::{Queue, QueueState, SubscribeResult, limits};
use crate::delivery::effects::Effects;
use crate::lock::lock;
use crate::persist::Stopped;

impl Queue {
    /// Adds a consumer, if it may be added. `greet` sends its `consume-ok`, before the first
    /// delivery.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        consumer: &Arc<Consumer>,
        greet: impl FnOnce(&mut Effects),
        effects: &mut Effects,
    ) -> Result<SubscribeResult, Stopped> {
        let mut state = lock(&self.state);
        if state.is_deleted {
            return Ok(SubscribeResult::Gone);
        }
        let is_exclusive = consumer.subscription.exclusive;
        if state.consumers.has_exclusive() || (is_exclusive && !state.consumers.is_empty()) {
            return Ok(SubscribeResult::InExclusiveUse);
        }
        state.consumers.add(Arc::clone(consumer));
        greet(effects);
        state.used_ms = effects.now_ms;
        state.pump(self, effects)?;
        Ok(SubscribeResult::Added)
    }

    /// Takes a consumer out; its open deliveries stay in the ledger.
    pub(crate) fn unsubscribe(
        self: &Arc<Self>,
        consumer: &Arc<Consumer>,
        effects: &mut Effects,
    ) -> Result<(), Stopped> {
        let mut state = lock(&self.state);
        if !state.consumers.remove(consumer) {
            return Ok(());
        }
        self.after_removal(&mut state, effects)
    }

    /// Takes out all consumers that `is_meant` says, in one pass.
    pub(crate) fn unsubscribe_all(
        self: &Arc<Self>,
        is_meant: impl Fn(&Consumer) -> bool,
        effects: &mut Effects,
    ) -> Vec<Arc<Consumer>> {
        let mut state = lock(&self.state);
        let removed = state.consumers.remove_all(is_meant);
        if !removed.is_empty()
            && let Err(error) = self.after_removal(&mut state, effects)
        {
            tracing::debug!(queue = %self.name(), %error, "not delivered");
        }
        removed
    }

    /// Lets the remaining consumers go on after others were removed.
    fn after_removal(
        self: &Arc<Self>,
        state: &mut QueueState,
        effects: &mut Effects,
    ) -> Result<(), Stopped> {
        state.used_ms = effects.now_ms;
        if state.consumers.is_empty() {
            if self.identity.auto_delete && !state.is_deleted {
                effects.unused_queues.push(Arc::clone(self));
            }
            limits::arm(self, state, effects);
        }
        state.pump(self, effects).map(drop)
    }
}
