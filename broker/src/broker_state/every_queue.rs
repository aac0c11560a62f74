//! Work on every queue when memory becomes short or is free again, in as many units of work as
//! needed.

use std::sync::Arc;

use super::BrokerState;
use crate::delivery::effects::Effects;
use crate::memory;
use crate::queue::Queue;
use crate::time::now_ms;

/// The cost of visiting a queue, in steps.
const VISIT: u32 = 8;

impl BrokerState {
    /// Raises or ends the alarm about memory. What the queues do about it follows in units of work
    /// of its own.
    pub(crate) fn set_memory_high(self: &Arc<Self>, is_high: bool) {
        if !self.alarms.set_memory_high(is_high) {
            return;
        }
        self.memory_watch.note_change(now_ms());
        memory::set_alarm(is_high);
        if is_high {
            crate::block::pool::empty();
        }
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            if is_high {
                broker.unload_queues().await;
            } else {
                broker.pump_queues().await;
            }
        });
    }

    /// Unloads unconsumed stored messages while memory is short. Repeated, because a message that
    /// is not yet durable or not yet requeued may be so a moment later.
    pub(crate) async fn unload_queues(self: &Arc<Self>) {
        if memory::is_short() {
            self.for_each_queue(Queue::unload).await;
        }
    }

    /// Delivers messages that waited for the end of the memory alarm.
    async fn pump_queues(self: &Arc<Self>) {
        let pump = |queue: &Arc<Queue>, effects: &mut Effects| {
            if let Err(error) = queue.pump(effects) {
                tracing::debug!(queue = %queue.name(), %error, "skipped this queue");
            }
        };
        self.for_each_queue(pump).await;
    }

    /// Does this to every queue, in as many units of work as that takes.
    async fn for_each_queue(self: &Arc<Self>, act: impl Fn(&Arc<Queue>, &mut Effects)) {
        let mut effects = self.begin_unit();
        for queue in self.vhosts().iter().flat_map(|vhost| vhost.queues()) {
            act(&queue, &mut effects);
            effects.spend(VISIT);
            if effects.is_spent() {
                self.end_unit(effects);
                tokio::task::yield_now().await;
                effects = self.begin_unit();
            }
        }
        self.end_unit(effects);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::delivery::budget::FULL_STEPS;
    use crate::tests::{declare, opened};

    /// On the one thread of this test, others run between two units of work and at no other time.
    #[tokio::test]
    async fn thousands_of_queues_are_visited_in_many_units_of_work() {
        const QUEUES: u32 = 5_000;
        let (broker, _kept) = opened().await;
        for number in 0..QUEUES {
            declare(&broker, &format!("q{number}"));
        }
        let visited = Arc::<AtomicU32>::default();
        let seen = Arc::clone(&visited);
        let other = tokio::spawn(async move {
            let mut most = 0;
            let mut before = 0;
            while before < QUEUES {
                let now = seen.load(Relaxed);
                most = most.max(now - before);
                before = now;
                tokio::task::yield_now().await;
            }
            most
        });
        let count = |_: &Arc<Queue>, _: &mut Effects| {
            visited.fetch_add(1, Relaxed);
        };
        broker.for_each_queue(count).await;
        let most = other.await.unwrap();
        assert!(most <= FULL_STEPS / VISIT, "{most} in one unit of work");
        broker.store.clone().close().unwrap();
    }
}
