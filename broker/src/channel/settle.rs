//! Ack, nack, reject, recover: deliveries leave the ledger and go back to their queues in runs. Relies on `ledger`.
//!
//! # Cost
//! One lock of the ledger a method and one of the queue a run.

use super::{Channel, Mode, Step};
use crate::fault::{Fault, ReplyCode};
use crate::ledger::{Delivery, UnknownTag, Which};
use crate::queue::Settling;
use crate::tap::{EXCERPT_BYTES, Seen, What};
use crate::turn::Turn;
use crate::wire::reply;

impl From<UnknownTag> for Fault {
    fn from(UnknownTag(tag): UnknownTag) -> Self {
        Self::precondition(format!("unknown delivery tag {tag}"))
    }
}

/// Whether a method has a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
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
    pub(super) fn ack(&mut self, tag: u64, multiple: bool, turn: &mut Turn) -> Result<Step, Fault> {
        self.settle(which(tag, multiple), Settling::Ack, turn)
    }

    pub(super) fn nack(
        &mut self,
        (tag, multiple): (u64, bool),
        requeue: bool,
        turn: &mut Turn,
    ) -> Result<Step, Fault> {
        let settling = if requeue {
            Settling::Requeue
        } else {
            Settling::Reject
        };
        self.settle(which(tag, multiple), settling, turn)
    }

    fn settle(&mut self, which: Which, settling: Settling, turn: &mut Turn) -> Result<Step, Fault> {
        let mut taken = std::mem::take(&mut self.taken);
        let known = self.ledger.take(which, &mut taken);
        if known.is_ok() {
            self.view.counters.settled.add_alone(taken.len() as u64);
            if let Mode::Transactional(transaction) = &mut self.mode {
                transaction.settle(taken.drain(..), settling);
            } else {
                self.hand_back(&mut taken, settling, turn)?;
            }
        }
        self.taken = taken;
        known?;
        Ok(Step::On)
    }

    /// Gives deliveries to their queues, those that follow each other together, and leaves `taken` empty.
    pub(super) fn hand_back(
        &mut self,
        taken: &mut Vec<Delivery>,
        settling: Settling,
        turn: &mut Turn,
    ) -> Result<(), Fault> {
        if self.around.realm.tap.is_open() {
            self.show_settled(taken, settling, turn);
        }
        let mut rest = taken.drain(..).peekable();
        while let Some(first) = rest.next() {
            let queue = std::sync::Arc::clone(&first.queue);
            let run = std::iter::once(first).chain(std::iter::from_fn(|| {
                rest.next_if(|next| std::sync::Arc::ptr_eq(&next.queue, &queue))
            }));
            queue.settle(run, settling, turn)?;
        }
        drop(rest);
        if self.ledger.limit() > 0 {
            self.pump_all(turn)?;
        }
        Ok(())
    }

    /// Credit that all consumers share has grown: any of their queues may go on.
    pub(super) fn pump_all(&self, turn: &mut Turn) -> Result<(), Fault> {
        for (queue, _) in self.consumers.values() {
            queue.pump(turn)?;
        }
        Ok(())
    }

    pub(super) fn recover(
        &mut self,
        requeue: bool,
        answer: Answer,
        turn: &mut Turn,
    ) -> Result<Step, Fault> {
        if !requeue {
            return Err(Fault::connection(
                ReplyCode::NotImplemented,
                "requeue=false",
            ));
        }
        let mut taken = Vec::new();
        self.ledger.take(Which::UpTo(0), &mut taken)?;
        self.hand_back(&mut taken, Settling::Requeue, turn)?;
        if answer == Answer::Expected {
            self.send(turn, |out, channel| reply::bare(out, channel, 60, 111));
        }
        Ok(Step::On)
    }

    /// Every open delivery returns to its queue: the channel is gone.
    pub(super) fn return_everything(&mut self, turn: &mut Turn) {
        let mut taken = Vec::new();
        let outcome = self
            .ledger
            .take(Which::UpTo(0), &mut taken)
            .map_err(Fault::from);
        let outcome = outcome.and_then(|()| self.hand_back(&mut taken, Settling::Requeue, turn));
        if let Err(fault) = outcome {
            tracing::debug!(%fault, "deliveries of a closed channel could not be returned");
        }
    }

    fn show_settled(&self, taken: &[Delivery], settling: Settling, turn: &Turn) {
        for delivery in taken {
            let content = delivery.entry.message.content();
            self.around.realm.tap.note(Seen {
                what: if settling == Settling::Ack {
                    What::Acked
                } else {
                    What::Returned
                },
                at_ms: turn.now_ms,
                vhost: (&**delivery.queue.vhost()).into(),
                exchange: content.exchange.into(),
                routing_key: content.routing_key.into(),
                queue: Some((&**delivery.queue.name()).into()),
                properties: content.properties.into(),
                excerpt: content.body[..content.body.len().min(EXCERPT_BYTES)].into(),
                body_bytes: content.body.len() as u64,
            });
        }
    }
}
