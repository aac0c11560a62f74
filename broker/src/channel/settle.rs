//! Ack, nack, reject, recover: deliveries leave the ledger and go back to their queues in runs. Relies on `ledger`.
//!
//! # Cost
//! One lock of the ledger a method and one of the queue a run.

use super::{Channel, ChannelMode, Next};
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{Credit, UnknownTag, UnsettledDelivery, Which, credit_consumers};
use crate::fault::{Fault, ReplyCode};
use crate::memory;
use crate::queue::Disposition;
use crate::tap::{EXCERPT_BYTES, TapEvent, What};
use crate::wire::reply;

impl From<UnknownTag> for Fault {
    fn from(UnknownTag(tag): UnknownTag) -> Self {
        Self::precondition(format!("unknown delivery tag {tag}"))
    }
}

/// Whether a method has a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyMode {
    Expected,
    None,
}

fn which(tag: u64, multiple: bool) -> Which {
    if multiple {
        Which::UpTo(tag)
    } else {
        Which::One(tag)
    }
}

impl Channel {
    pub(super) fn ack(
        &mut self,
        tag: u64,
        multiple: bool,
        effects: &mut Effects,
    ) -> Result<Next, Fault> {
        self.settle(which(tag, multiple), Disposition::Ack, effects)
    }

    pub(super) fn nack(
        &mut self,
        (tag, multiple): (u64, bool),
        requeue: bool,
        effects: &mut Effects,
    ) -> Result<Next, Fault> {
        let disposition = if requeue {
            Disposition::Requeue
        } else {
            Disposition::Reject
        };
        self.settle(which(tag, multiple), disposition, effects)
    }

    fn settle(
        &mut self,
        which: Which,
        disposition: Disposition,
        effects: &mut Effects,
    ) -> Result<Next, Fault> {
        let mut taken = std::mem::take(&mut self.taken);
        let is_direct = !matches!(self.mode, ChannelMode::Transactional(_));
        let credit = if is_direct && self.ledger.limit() == 0 {
            Credit::Now
        } else {
            Credit::Later
        };
        let known = self.ledger.take(which, credit, &mut taken);
        if known.is_ok() {
            self.view.counters.settled.add_alone(taken.len() as u64);
            if let ChannelMode::Transactional(transaction) = &mut self.mode {
                transaction.settle(taken.drain(..), disposition);
            } else {
                self.hand_back(&mut taken, (disposition, credit), effects)?;
            }
        }
        self.taken = taken;
        known?;
        Ok(Next::On)
    }

    /// Gives deliveries to their queues, those that follow each other together, and leaves `taken` empty.
    ///
    /// Credit that all consumers share returns behind that: the queues ask for it in turn, not those that were settled first.
    pub(super) fn hand_back(
        &mut self,
        taken: &mut Vec<UnsettledDelivery>,
        (disposition, credit): (Disposition, Credit),
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let owed = match credit {
            Credit::Now => 0,
            Credit::Later => credit_consumers(taken),
        };
        if self.around.broker.tap.is_open() {
            self.show_settled(taken, disposition, effects);
        }
        let mut rest = taken.drain(..).peekable();
        while let Some(first) = rest.next() {
            let queue = std::sync::Arc::clone(&first.queue);
            let run = std::iter::once(first).chain(std::iter::from_fn(|| {
                rest.next_if(|next| std::sync::Arc::ptr_eq(&next.queue, &queue))
            }));
            queue.settle(run, disposition, effects)?;
        }
        drop(rest);
        if owed > 0 {
            self.ledger.repay(owed);
        }
        if self.ledger.limit() > 0 {
            self.pump_all(effects)?;
        }
        // What was settled makes room for other queues too.
        if memory::is_short() {
            self.outbox.pump_waiting(effects);
        }
        Ok(())
    }

    /// Credit that all consumers share has grown: any of their queues may go on, each first in its turn.
    pub(super) fn pump_all(&mut self, effects: &mut Effects) -> Result<(), Fault> {
        let count = self.consumers.len();
        self.first_pumped = self.first_pumped.wrapping_add(1);
        let first = self.first_pumped.checked_rem(count).unwrap_or(0);
        for (queue, _) in self.consumers.values().cycle().skip(first).take(count) {
            queue.pump(effects)?;
        }
        Ok(())
    }

    pub(super) fn recover(
        &mut self,
        requeue: bool,
        answer: ReplyMode,
        effects: &mut Effects,
    ) -> Result<Next, Fault> {
        if !requeue {
            return Err(Fault::connection(
                ReplyCode::NotImplemented,
                "requeue=false",
            ));
        }
        let mut taken = Vec::new();
        self.ledger.take(Which::UpTo(0), Credit::Now, &mut taken)?;
        self.hand_back(&mut taken, (Disposition::Requeue, Credit::Now), effects)?;
        if answer == ReplyMode::Expected {
            self.send(effects, |out, channel| reply::bare(out, channel, 60, 111));
        }
        Ok(Next::On)
    }

    /// Every open delivery returns to its queue: the channel is gone.
    pub(super) fn return_everything(&mut self, effects: &mut Effects) {
        let mut taken = Vec::new();
        let outcome = self
            .ledger
            .take(Which::UpTo(0), Credit::Now, &mut taken)
            .map_err(Fault::from);
        let outcome = outcome.and_then(|()| {
            self.hand_back(&mut taken, (Disposition::Requeue, Credit::Now), effects)
        });
        if let Err(fault) = outcome {
            tracing::debug!(%fault, "deliveries of a closed channel could not be returned");
        }
    }

    fn show_settled(
        &self,
        taken: &[UnsettledDelivery],
        disposition: Disposition,
        effects: &Effects,
    ) {
        for delivery in taken {
            let content = delivery.entry.message.content();
            self.around.broker.tap.note(TapEvent {
                what: if disposition == Disposition::Ack {
                    What::Acked
                } else {
                    What::Returned
                },
                at_ms: effects.now_ms,
                vhost: (&**delivery.queue.vhost()).into(),
                exchange: content.exchange.into(),
                routing_key: content.routing_key.into(),
                queue: Some((&**delivery.queue.name()).into()),
                routed: Box::default(),
                properties: content.properties.into(),
                excerpt: content.body[..content.body.len().min(EXCERPT_BYTES)].into(),
                body_bytes: content.body.len() as u64,
            });
        }
    }
}
