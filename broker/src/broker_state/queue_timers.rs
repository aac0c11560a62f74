//! Handles the timers of queues: messages that expire, and queues that are not used. Depends on
//! `clock` and `vhost`.

use std::sync::{Arc, Weak};

use super::BrokerState;
use crate::delivery::effects::{Effects, REMOVAL_STEPS};
use crate::queue::Queue;
use crate::vhost::DeleteCondition;

impl BrokerState {
    /// Handles the timers of queues for as long as the broker runs.
    pub(crate) async fn run_clock(self: Arc<Self>) {
        loop {
            let due = self.clock.next_due().await;
            let mut effects = self.begin_unit();
            for queue in due.iter().filter_map(Weak::upgrade) {
                self.on_time(&queue, &mut effects);
                if effects.is_spent() {
                    self.end_unit(effects);
                    tokio::task::yield_now().await;
                    effects = self.begin_unit();
                }
            }
            self.end_unit(effects);
        }
    }

    fn on_time(&self, queue: &Arc<Queue>, effects: &mut Effects) {
        effects.spend(1);
        match queue.on_time(effects) {
            Ok(true) => {
                effects.spend(REMOVAL_STEPS);
                // It may be used again by now.
                let condition = DeleteCondition {
                    expired: true,
                    ..DeleteCondition::default()
                };
                if let Some(vhost) = self.vhost(queue.vhost())
                    && let Err(fault) = vhost.remove_queue(queue, condition, effects)
                {
                    tracing::warn!(queue = %queue.name(), %fault, "cannot delete an expired queue");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(queue = %queue.name(), %error, "skipped this queue"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::opened;
    use crate::vhost::Declare;
    use crate::wire::table::{Table, Value};

    #[tokio::test]
    async fn a_look_at_a_queue_counts_and_its_deletion_counts_more() {
        let (broker, _kept) = opened().await;
        let mut arguments = Table::new();
        arguments.set("x-expires", Value::Int(1_000));
        let declare = Declare {
            arguments,
            ..Declare::transient("q")
        };
        let vhost = broker.vhost("/").unwrap();
        let declared = vhost.declare_queue(declare, &mut Effects::new(1_000));
        let queue = declared.unwrap().unwrap().queue;
        let mut early = Effects::new(1_500);
        broker.on_time(&queue, &mut early);
        assert!((1..REMOVAL_STEPS).contains(&early.spent()));
        assert!(vhost.queue("q").is_some());
        assert!(queue.touch(&mut Effects::new(2_400)), "a declare just then");
        let condition = DeleteCondition {
            expired: true,
            ..DeleteCondition::default()
        };
        let kept = vhost.remove_queue(&queue, condition, &mut Effects::new(2_500));
        assert!(kept.is_ok() && vhost.queue("q").is_some());
        let mut late = Effects::new(3_500);
        broker.on_time(&queue, &mut late);
        assert!(late.spent() > REMOVAL_STEPS);
        assert!(vhost.queue("q").is_none());
        broker.store.clone().close().unwrap();
    }
}
