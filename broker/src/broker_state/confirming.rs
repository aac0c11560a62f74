//! Releases confirms: those of one unit of work at its end, and those that wait for the store when
//! it is durable that far, over as many units of work as needed. Relies on `delivery/confirms.rs`.

use std::sync::Arc;

use super::BrokerState;
use crate::delivery::confirms::{Confirms, UnsentConfirms};
use crate::delivery::effects::Effects;
use crate::wakeup::Wakeup;

/// What it costs to release the confirms of a channel, in steps: it wakes a writer.
const RELEASE_STEPS: u32 = 4;

impl BrokerState {
    /// Releases confirms for as long as the broker runs.
    pub(crate) async fn run_confirms(self: Arc<Self>, durable: Wakeup) {
        let mut progress = self.alarms.progress(durable);
        loop {
            progress.made().await;
            self.release_due().await;
        }
    }

    /// Releases the confirms of a channel that are due, and lists it where others wait.
    pub(super) fn release_confirms(&self, confirms: &Arc<Confirms>, effects: &mut Effects) {
        if let UnsentConfirms::MustBeListed(ticket) =
            confirms.release(self.store.durable(), effects)
        {
            self.awaiting.add(ticket, confirms);
            // The store may have got there between the two lines: then no wakeup would follow.
            let durable = self.store.durable();
            if ticket <= durable {
                confirms.release(durable, effects);
            }
        }
    }

    /// Releases every confirm that the store's progress has made due.
    async fn release_due(self: &Arc<Self>) {
        loop {
            let mut effects = self.begin_unit();
            let is_done = self.release_some(&mut effects);
            self.end_unit(effects);
            if is_done {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Releases due confirms as far as the budget allows. True when no more are due.
    fn release_some(&self, effects: &mut Effects) -> bool {
        let durable = self.store.durable();
        while !effects.is_spent() {
            let Some(confirms) = self.awaiting.take_due(durable) else {
                return true;
            };
            effects.spend(RELEASE_STEPS);
            // A channel that waits for more is listed under a later ticket, so this loop ends. If
            // the store has progressed meanwhile, it announces that, and this task runs again.
            if let UnsentConfirms::MustBeListed(ticket) = confirms.release_listed(durable, effects)
            {
                self.awaiting.add(ticket, &confirms);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::delivery::confirms::RouteOutcome;
    use crate::delivery::outbox::Outbox;
    use crate::persist::Ticket;
    use crate::persist::definition::{Definition, VhostDefinition};
    use crate::tests::opened;

    /// The ticket of a change that is handed to the store.
    fn saved(broker: &BrokerState) -> Ticket {
        let definition = VhostDefinition {
            name: "other".to_owned(),
            description: String::new(),
            tags: Vec::new(),
        };
        broker
            .definitions
            .save(&Definition::Vhost(definition))
            .unwrap()
    }

    /// On the one thread of this test, others run between two units of work and at no other time.
    #[tokio::test]
    async fn the_confirms_of_very_many_channels_go_in_many_units_of_work() {
        const CHANNELS: usize = 20_000;
        let (broker, (wakeup, _folder)) = opened().await;
        let ticket = saved(&broker);
        let channels: Vec<_> = (0..CHANNELS)
            .map(|_| Arc::new(Confirms::new(Arc::<Outbox>::default(), 1, Arc::default())))
            .collect();
        let mut effects = Effects::new(0);
        for confirms in &channels {
            let tag = confirms.open(&mut effects);
            confirms.set(tag, RouteOutcome::Ticket(ticket), &mut effects);
            let left = confirms.release(Ticket::NONE, &mut effects);
            assert_eq!(left, UnsentConfirms::MustBeListed(ticket));
            broker.awaiting.add(ticket, confirms);
        }
        assert!(broker.awaiting.take_due(Ticket::NONE).is_none());
        assert!(broker.durable(ticket).await);
        let left = || {
            channels
                .iter()
                .filter(|confirms| confirms.len() > 0)
                .count()
        };
        assert_eq!(left(), CHANNELS);
        let running = tokio::spawn(Arc::clone(&broker).run_confirms(wakeup));
        let mut units = 0;
        while left() == CHANNELS {
            tokio::task::yield_now().await;
        }
        while left() > 0 {
            units += 1;
            tokio::task::yield_now().await;
        }
        assert!(units > 1, "it was one unit of work");
        running.abort();
        broker.store.clone().close().unwrap();
    }

    /// A large body is written beside the log, and its ticket is far ahead. If it is consumed and
    /// settled meanwhile, the confirms behind it wait for the log alone.
    #[tokio::test]
    async fn a_confirm_behind_one_of_a_large_body_waits_for_its_own_ticket() {
        let (broker, _store) = opened().await;
        let near = saved(&broker);
        assert!(broker.durable(near).await);
        let far = saved(&broker);
        assert!(near < far);
        let confirms = Arc::new(Confirms::new(Arc::default(), 1, Arc::default()));
        let mut effects = Effects::new(0);
        let tags = [far, near].map(|ticket| {
            let tag = confirms.open(&mut effects);
            confirms.set(tag, RouteOutcome::Ticket(ticket), &mut effects);
            tag
        });
        let release = || confirms.release(Ticket::NONE, &mut Effects::new(0));
        assert_eq!(release(), UnsentConfirms::MustBeListed(far));
        assert_eq!(release(), UnsentConfirms::AlreadyListed);
        confirms.settled(tags[0], &mut effects);
        assert_eq!(release(), UnsentConfirms::MustBeListed(near));
        assert_eq!(release(), UnsentConfirms::AlreadyListed);
        assert_eq!(
            confirms.release_listed(near, &mut effects),
            UnsentConfirms::NoneWaitForStore
        );
        broker.store.clone().close().unwrap();
    }
}
