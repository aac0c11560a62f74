//! Ack, nack, reject, recover: deliveries leave the ledger and are settled with their queues in
//! runs. Relies on `ledger`. A settle of very many goes on in the next unit of work, before
//! anything else of its connection.
//!
//! # Cost
//! One lock of the ledger for each 1,024 deliveries, and one of the queue a run.

use std::sync::Arc;

use super::fan_out::Continuation;
use super::{Channel, ChannelMode, FrameResult};
use crate::delivery::effects::Effects;
use crate::delivery::ledger::{
    Credit, DeliveryTags, UnknownTag, UnsettledDelivery, credit_consumers,
};
use crate::fault::{Fault, ReplyCode};
use crate::memory;
use crate::queue::{Disposition, Queue};
use crate::tap::{TapEvent, TapEventKind};
use crate::wire::method_id::MethodId;
use crate::wire::reply;

/// The most deliveries that one step settles. If a method names more, the unit of work may end in
/// between.
pub(super) const AT_ONCE: usize = 1024;
/// The capacity that a channel keeps between two settles.
const KEPT_TAKEN: usize = 64;
/// The number of queues that are pumped for one step of the budget, beyond the cost of their
/// deliveries.
const PUMPS_A_STEP: usize = 4;

/// A settle that may take more than one unit of work. Its last tag bounds it, so deliveries that
/// are made meanwhile do not belong to it.
#[derive(Debug)]
pub(super) struct Settle {
    rest: Option<DeliveryTags>,
    disposition: Disposition,
    then: SettleReply,
}

/// What follows when everything was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SettleReply {
    Nothing,
    /// The reply to `basic.recover`, which settles at once in a transaction too.
    Recovered(ReplyMode),
}

impl From<UnknownTag> for Fault {
    fn from(unknown: UnknownTag) -> Self {
        Self::precondition(unknown.to_string())
    }
}

/// Whether a method has a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyMode {
    Expected,
    None,
}

fn delivery_tags(tag: u64, multiple: bool) -> DeliveryTags {
    if multiple {
        DeliveryTags::UpTo(tag)
    } else {
        DeliveryTags::One(tag)
    }
}

/// The cost of settling these, in steps. Even none costs a step.
fn steps(taken: &[UnsettledDelivery]) -> u32 {
    u32::try_from(taken.len().max(1)).unwrap_or(u32::MAX)
}

impl Channel {
    pub(super) fn ack(
        &mut self,
        tag: u64,
        multiple: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        self.settle(delivery_tags(tag, multiple), Disposition::Ack, effects)
    }

    pub(super) fn nack(
        &mut self,
        (tag, multiple): (u64, bool),
        requeue: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let disposition = if requeue {
            Disposition::Requeue
        } else {
            Disposition::Reject
        };
        self.settle(delivery_tags(tag, multiple), disposition, effects)
    }

    fn settle(
        &mut self,
        tags: DeliveryTags,
        disposition: Disposition,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let settle = Settle {
            rest: Some(tags),
            disposition,
            then: SettleReply::Nothing,
        };
        self.continue_settle(settle, effects)
    }

    /// Settles as far as the budget allows.
    pub(super) fn continue_settle(
        &mut self,
        mut settle: Settle,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        while let Some(tags) = settle.rest {
            settle.rest = self.settle_some(tags, &settle, effects)?;
            if settle.rest.is_some() && effects.is_spent() {
                self.continuation = Some(Continuation::Settle(settle));
                return Ok(FrameResult::Unfinished);
            }
        }
        if settle.then == SettleReply::Recovered(ReplyMode::Expected) {
            self.send(effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::BASIC_RECOVER_OK);
            });
        }
        Ok(FrameResult::Done)
    }

    fn settle_some(
        &mut self,
        tags: DeliveryTags,
        settle: &Settle,
        effects: &mut Effects,
    ) -> Result<Option<DeliveryTags>, Fault> {
        let is_recovery = settle.then != SettleReply::Nothing;
        let is_direct = is_recovery || !matches!(self.mode, ChannelMode::Transactional(_));
        let credit = if is_recovery || (is_direct && self.ledger.limit() == 0) {
            Credit::Now
        } else {
            Credit::Later
        };
        let mut taken = std::mem::take(&mut self.taken);
        let known = self.ledger.take(tags, credit, AT_ONCE, &mut taken);
        if known.is_ok() {
            if !is_recovery {
                self.view.counters.settled.add_alone(taken.len() as u64);
            }
            match &mut self.mode {
                ChannelMode::Transactional(transaction) if !is_direct => {
                    effects.spend(steps(&taken));
                    transaction.settle(taken.drain(..), settle.disposition);
                }
                _ => {
                    effects.settles_alone = true;
                    let result =
                        self.settle_in_queues(&mut taken, (settle.disposition, credit), effects);
                    effects.settles_alone = false;
                    result?;
                }
            }
        }
        if taken.capacity() <= KEPT_TAKEN {
            self.taken = taken;
        }
        Ok(known?)
    }

    /// Settles deliveries with their queues, one call for each run of the same queue, and empties
    /// `taken`.
    ///
    /// Credit that all consumers of the channel share is returned last: then the queues take it
    /// round-robin, and those that were settled first have no advantage.
    pub(super) fn settle_in_queues(
        &mut self,
        taken: &mut Vec<UnsettledDelivery>,
        (disposition, credit): (Disposition, Credit),
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let owed = match credit {
            Credit::Now => 0,
            Credit::Later => credit_consumers(taken),
        };
        effects.spend(steps(taken));
        if self.context.broker.tap.is_open() {
            self.note_settled_in_tap(taken, disposition, effects);
        }
        let mut rest = taken.drain(..).peekable();
        while let Some(first) = rest.next() {
            let queue = Arc::clone(&first.queue);
            let run = std::iter::once(first).chain(std::iter::from_fn(|| {
                rest.next_if(|next| Arc::ptr_eq(&next.queue, &queue))
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
        // The settled deliveries make room for other queues too.
        if memory::is_short() && self.outbox.pump_waiting(self.outbox.waiting(), effects) > 0 {
            memory::note_waiting();
        }
        Ok(())
    }

    /// Shared credit has grown, so each of these queues may deliver. The first queue rotates with
    /// each call.
    pub(super) fn pump_all(&mut self, effects: &mut Effects) -> Result<(), Fault> {
        let count = self.consumers.len();
        self.first_pumped = self.first_pumped.wrapping_add(1);
        let first = self.first_pumped.checked_rem(count).unwrap_or(0);
        effects.spend(u32::try_from(count / PUMPS_A_STEP).unwrap_or(u32::MAX));
        let mut pumped: Option<&Arc<Queue>> = None;
        for (queue, _) in self.consumers.values().cycle().skip(first).take(count) {
            // Most channels consume from one queue, and one pump serves all its consumers.
            if !pumped.is_some_and(|last| Arc::ptr_eq(last, queue)) {
                queue.pump(effects)?;
                pumped = Some(queue);
            }
        }
        Ok(())
    }

    pub(super) fn recover(
        &mut self,
        requeue: bool,
        reply: ReplyMode,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if !requeue {
            return Err(Fault::connection(
                ReplyCode::NotImplemented,
                "requeue=false",
            ));
        }
        let settle = Settle {
            rest: Some(DeliveryTags::UpTo(0)),
            disposition: Disposition::Requeue,
            then: SettleReply::Recovered(reply),
        };
        self.continue_settle(settle, effects)
    }

    /// Requeues the unsettled deliveries of a closing channel. True when none are left, false when
    /// the budget is spent.
    pub(super) fn requeue_unsettled(&mut self, effects: &mut Effects) -> bool {
        let mut taken = Vec::new();
        loop {
            if effects.is_spent() {
                return false;
            }
            let rest = self
                .ledger
                .take(DeliveryTags::UpTo(0), Credit::Now, AT_ONCE, &mut taken);
            let requeue = (Disposition::Requeue, Credit::Now);
            if let Err(fault) = self.settle_in_queues(&mut taken, requeue, effects) {
                tracing::debug!(%fault, "deliveries of a closed channel could not be requeued");
            }
            if !rest.is_ok_and(|rest| rest.is_some()) {
                return true;
            }
        }
    }

    fn note_settled_in_tap(
        &self,
        taken: &[UnsettledDelivery],
        disposition: Disposition,
        effects: &Effects,
    ) {
        for delivery in taken {
            let what = match disposition {
                Disposition::Ack if delivery.consumer.is_none() => TapEventKind::Taken,
                Disposition::Ack => TapEventKind::Acked,
                Disposition::Reject => TapEventKind::Rejected,
                Disposition::Requeue => TapEventKind::Returned,
            };
            let (queue, content) = (&delivery.queue, delivery.entry.message.content());
            let broker = &self.context.broker;
            broker.tap.note(TapEvent {
                queue: Some(broker.tap_queue(queue)),
                ..TapEvent::new(what, effects.now_ms, queue.vhost(), content)
            });
        }
    }
}
