//! Cancels consumers that have left their queue, in as many units of work as needed.

use std::sync::Arc;

use super::BrokerState;
use crate::queue::closing::CancelledConsumers;

impl BrokerState {
    /// Cancels the remaining consumers in a task of its own.
    pub(super) fn spawn_cancels(self: &Arc<Self>, mut cancelled: CancelledConsumers) {
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::task::yield_now().await;
                let mut effects = broker.begin_unit();
                let is_more = cancelled.cancel_some(&mut effects);
                broker.end_unit(effects);
                if !is_more {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::delivery::budget::FULL_STEPS;
    use crate::queue::consumer::{Consumer, Subscription};
    use crate::tests::{declare, opened};
    use crate::vhost::DeleteCondition;
    use crate::wire::content::ChannelFraming;
    use crate::wire::table::Table;

    fn consumer(number: u32) -> Arc<Consumer> {
        Arc::new(Consumer::new(Subscription {
            tag: number.to_string().into(),
            framing: ChannelFraming {
                channel: 1,
                frame_max: 4096,
            },
            outbox: Arc::default(),
            ledger: Arc::default(),
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            arguments: Table::new(),
            wants_cancel: true,
            connection: 1,
        }))
    }

    /// On the one thread of this test, others run between two units of work and at no other time.
    #[tokio::test]
    async fn the_consumers_of_a_deleted_queue_are_cancelled_in_many_units_of_work() {
        const CONSUMERS: u32 = 20_000;
        let (broker, _kept) = opened().await;
        let queue = declare(&broker, "q");
        let consumers: Vec<_> = (0..CONSUMERS).map(consumer).collect();
        for consumer in &consumers {
            let mut effects = broker.begin_unit();
            queue.subscribe(consumer, |_| {}, &mut effects).unwrap();
            broker.end_unit(effects);
        }
        let is_cancelled = |consumer: &&Arc<Consumer>| consumer.is_cancelled();
        let cancelled = || consumers.iter().filter(is_cancelled).count();
        let mut effects = broker.begin_unit();
        let vhost = broker.vhost("/").unwrap();
        let condition = DeleteCondition::default();
        vhost.delete_queue("q", condition, &mut effects).unwrap();
        broker.end_unit(effects);
        let mut before = 0;
        while before < consumers.len() {
            let now = cancelled();
            let at_once = now - before;
            assert!(at_once <= FULL_STEPS as usize, "{at_once} at once");
            before = now;
            tokio::task::yield_now().await;
        }
        let written = consumers
            .last()
            .unwrap()
            .subscription
            .outbox
            .pending_bytes();
        assert!(written > 0, "no frame was sent");
        broker.store.clone().close().unwrap();
    }
}
