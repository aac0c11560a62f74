//! When a connection's reader yields to other tasks. Depends on `effects` and `broker_state`.

use std::sync::Arc;

use crate::broker_state::{BrokerState, BusyMark};
use crate::delivery::effects::Effects;

/// Yields after a whole budget of work, even if each single unit of work was short: a reader whose
/// socket always has data would never wait otherwise.
pub(super) struct YieldPolicy {
    busy: BusyMark,
    unyielded: u32,
    is_due: bool,
}

impl YieldPolicy {
    pub(super) fn new(broker: &Arc<BrokerState>) -> Self {
        Self {
            busy: BusyMark::new(broker),
            unyielded: 0,
            is_due: false,
        }
    }

    /// Counts the work of a unit of work that ends.
    pub(super) fn count(&mut self, effects: &Effects) {
        self.unyielded = self.unyielded.saturating_add(effects.spent());
        self.is_due = effects.is_spent() || self.unyielded >= effects.limit().steps();
    }

    pub(super) async fn yield_if_due(&mut self) {
        self.busy.set(self.is_due);
        if self.is_due {
            self.unyielded = 0;
            tokio::task::yield_now().await;
        }
    }
}
