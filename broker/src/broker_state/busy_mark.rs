//! Counts the connections that have work left over: their units of work become shorter.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::BrokerState;

/// Marks a connection that has work left over from its last unit of work. It counts while the mark
/// is set, until this is dropped.
#[derive(Debug)]
pub(crate) struct BusyMark {
    broker: Arc<BrokerState>,
    is_set: bool,
}

impl BusyMark {
    pub(crate) fn new(broker: &Arc<BrokerState>) -> Self {
        Self {
            broker: Arc::clone(broker),
            is_set: false,
        }
    }

    pub(crate) fn set(&mut self, is_busy: bool) {
        match (self.is_set, is_busy) {
            (false, true) => self.broker.busy.fetch_add(1, Relaxed),
            (true, false) => self.broker.busy.fetch_sub(1, Relaxed),
            _ => return,
        };
        self.is_set = is_busy;
    }
}

impl Drop for BusyMark {
    fn drop(&mut self) {
        self.set(false);
    }
}
