//! What is done while memory is short so that no client stops the others for good: alarms, grants
//! for blocked publishers, and the end of the connection with most unfinished publishes.

use std::sync::Arc;

use super::BrokerState;
use crate::fault::{Fault, ReplyCode};
use crate::memory::{self, HoldingKind};
use crate::registry::ConnectionHandle;
use crate::time::now_ms;

impl BrokerState {
    /// Raises the memory alarms if the account has reached their limits.
    pub(crate) fn look_at_memory(self: &Arc<Self>) {
        if self.memory_watch.is_full() {
            self.set_memory_high(true);
        }
        if memory::is_transient_full() {
            self.alarms.set_transient_high(true);
        }
    }

    /// Raises or ends the memory alarms for the given resident memory. Returns true when it is
    /// worth looking again soon.
    pub(crate) fn watch_memory(self: &Arc<Self>, resident: u64) -> bool {
        let alarms = self.alarm_state();
        let seen = self
            .memory_watch
            .assess(resident, alarms.is_memory_high, now_ms());
        if seen.is_over != alarms.is_memory_high {
            self.set_memory_high(seen.is_over);
        }
        let is_raised = self.alarm_state().is_memory_high;
        self.memory_watch.log_alarm(resident, is_raised, now_ms());
        let is_transient_high = if alarms.is_transient_high {
            memory::is_transient_still_full()
        } else {
            memory::is_transient_full()
        };
        self.alarms.set_transient_high(is_transient_high);
        if seen.is_over && memory::is_much_unfinished() && self.memory_watch.may_end_one(now_ms()) {
            self.end_most_unfinished();
        }
        seen.is_soon_again || is_transient_high
    }

    /// Ends the connection that holds most in publishes that are not whole. Their rest may never
    /// come, and until then nothing frees them.
    fn end_most_unfinished(&self) {
        let unfinished =
            |connection: &Arc<ConnectionHandle>| connection.holdings.bytes(HoldingKind::Unfinished);
        if let Some(connection) = self.connections().iter().max_by_key(|one| unfinished(one)) {
            let reason = format!(
                "memory is short, and unfinished publishes of all connections hold more than {} \
                 bytes, most of them on this one",
                memory::unfinished_limit()
            );
            connection.end(Fault::connection(ReplyCode::ResourceError, reason));
        }
    }

    /// Gives grants to blocked publishers for as long as the broker runs.
    pub(crate) async fn run_publisher_grants(self: Arc<Self>) {
        let grants = Arc::clone(&self.publisher_grants);
        let limit = self.memory_watch.limit();
        grants
            .run(limit, move || self.alarm_state().is_memory_alone())
            .await;
    }
}
