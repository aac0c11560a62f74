//! Ends the messages of purged and deleted queues, in as many units of work as needed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::BrokerState;
use crate::fault::{Fault, ReplyCode};
use crate::persist::{Stopped, Ticket};
use crate::queue::Queue;
use crate::queue::removed::RemovedMessages;

impl BrokerState {
    /// Purges a queue. Runs to the end even if the caller no longer waits.
    pub(crate) async fn purge(self: &Arc<Self>, queue: &Arc<Queue>) -> Result<Ticket, Fault> {
        let mut effects = self.begin_unit();
        let removed = queue.purge(&mut effects);
        self.end_unit(effects);
        let mut removed = removed?;
        let broker = Arc::clone(self);
        let purging = tokio::spawn(async move {
            while broker.end_removed(&mut removed)? {
                tokio::task::yield_now().await;
            }
            Ok(removed.ticket())
        });
        purging.await.unwrap_or_else(|_| {
            let reason = "a purge has failed";
            Err(Fault::connection(ReplyCode::InternalError, reason))
        })
    }

    /// Ends messages for one unit of work. False when none is left.
    fn end_removed(self: &Arc<Self>, removed: &mut RemovedMessages) -> Result<bool, Stopped> {
        let mut effects = self.begin_unit();
        let is_more = removed.end_some(&mut effects);
        self.end_unit(effects);
        is_more
    }

    /// Ends the messages of a deleted queue, in a task of its own.
    pub(super) fn spawn_end_of_removed(self: &Arc<Self>, mut removed: RemovedMessages) {
        self.freeing.fetch_add(1, Relaxed);
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            while matches!(broker.end_removed(&mut removed), Ok(true)) {
                tokio::task::yield_now().await;
            }
            broker.freeing.fetch_sub(1, Relaxed);
        });
    }

    /// Waits until the ends of all messages so far are recorded, for `limit` at most.
    pub(crate) async fn ends_recorded(&self, limit: Duration) {
        let Some(ends) = &self.ends else { return };
        let until = Instant::now() + limit;
        while self.freeing.load(Relaxed) > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = ends
            .recorded(until.saturating_duration_since(Instant::now()))
            .await;
        if left > 0 {
            tracing::warn!(
                left,
                "stopped before the ends of all messages were recorded"
            );
        }
    }
}

#[cfg(test)]
mod tests;
