//! When a connection's reader lets others go first. Depends on `effects` and `broker_state`.

use std::sync::Arc;

use crate::broker_state::{BrokerState, BusyMark};
use crate::delivery::effects::Effects;

/// Lets others go first after a whole budget of work, also where no single unit of work was that
/// long: a socket that always has more never makes the reader wait.
pub(super) struct Manners {
    busy: BusyMark,
    unyielded: u32,
    is_due: bool,
}

impl Manners {
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

    pub(super) async fn let_others_go_first(&mut self) {
        self.busy.set(self.is_due);
        if self.is_due {
            self.unyielded = 0;
            tokio::task::yield_now().await;
        }
    }
}
