//! Offers a message to its queues. A publish to many queues stops when its budget is spent and
//! continues in the next unit of work, before anything else of its connection, so that each queue
//! gets a channel's messages in order.
//!
//! # Cost
//! Each queue gets a clone of the message: one reference count more, and nothing is allocated.

use std::sync::Arc;

use super::routes::TargetQueues;
use super::settle::Settle;
use super::topology::{Purge, QueueDeletion};
use super::transaction::Commit;
use super::{Channel, ClosingFrame, FrameResult};
use crate::delivery::confirms::{Confirms, RouteOutcome};
use crate::delivery::effects::Effects;
use crate::fault::Fault;
use crate::persist::Ticket;
use crate::queue::message::Message;
use crate::queue::{ConfirmMode, PublishResult};
use crate::vhost::{ONE_OF_MANY_STEPS, REPLY_TO_PREFIX, Vhost, copy_steps};

/// How the publisher learns what became of its message.
#[derive(Debug)]
pub(super) enum PublishReply {
    Never,
    /// A commit waits for the ticket. The queues were looked up at the publish; a queue that was
    /// deleted and declared again since then is looked up again in this vhost, by its name.
    ByCommit(Arc<Vhost>),
    ByConfirm(Arc<Confirms>, u64),
}

#[derive(Debug)]
pub(super) struct FanOut {
    message: Message,
    targets: TargetQueues,
    /// The first queue that has not been offered the message.
    next: usize,
    is_mandatory: bool,
    reply: PublishReply,
    outcome: RouteOutcome,
    was_taken: bool,
}

/// Work of a channel that its budget was too small for.
#[derive(Debug)]
pub(super) enum Continuation {
    Publish(FanOut),
    Commit(Box<Commit>),
    Settle(Settle),
    Purge(Purge),
    QueueDeletion(QueueDeletion),
    Close(ClosingFrame),
}

impl FanOut {
    pub(super) fn new(
        message: Message,
        targets: TargetQueues,
        is_mandatory: bool,
        reply: PublishReply,
    ) -> Self {
        Self {
            message,
            targets,
            next: 0,
            is_mandatory,
            reply,
            outcome: RouteOutcome::Ticket(Ticket::NONE),
            was_taken: false,
        }
    }

    /// Offers the message to the next queues; true when all have been offered it.
    fn offer_to_queues(&mut self, effects: &mut Effects) -> Result<bool, Fault> {
        let is_alone = self.targets.len() == 1;
        let confirm_mode = match &self.reply {
            PublishReply::Never => ConfirmMode::Nothing,
            PublishReply::ByConfirm(confirms, tag) if is_alone => {
                ConfirmMode::Confirm(confirms, *tag)
            }
            PublishReply::ByCommit(_) | PublishReply::ByConfirm(..) => ConfirmMode::Ticket,
        };
        while let Some(queue) = self.targets.get(self.next) {
            if !is_alone {
                if effects.is_spent() {
                    return Ok(false);
                }
                effects.spend(ONE_OF_MANY_STEPS);
            }
            self.next += 1;
            let mut outcome = queue.publish(&self.message, confirm_mode, effects)?;
            if outcome == PublishResult::Gone
                && let PublishReply::ByCommit(vhost) = &self.reply
                && let Some(newer) = vhost.queue(queue.name())
            {
                outcome = newer.publish(&self.message, confirm_mode, effects)?;
            }
            if !is_alone {
                // Publishers wait for the store's backlog between two units of work.
                effects.spend(copy_steps(queue, &self.message));
            }
            self.was_taken |= outcome != PublishResult::Gone;
            match (outcome, self.outcome) {
                (PublishResult::Kept(ticket), RouteOutcome::Ticket(before)) => {
                    self.outcome = RouteOutcome::Ticket(before.max(ticket));
                }
                (PublishResult::Refused, _) => self.outcome = RouteOutcome::Refused,
                _ => {}
            }
        }
        Ok(true)
    }
}

impl Channel {
    /// Offers a publish to its queues as far as the budget allows, and records what its confirm
    /// waits for once all have been offered it.
    pub(super) fn fan_out(
        &mut self,
        mut publish: FanOut,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        effects.spend(1);
        if !self.offer_and_return(&mut publish, effects)? {
            self.continuation = Some(Continuation::Publish(publish));
            return Ok(FrameResult::Unfinished);
        }
        if let PublishReply::ByConfirm(confirms, tag) = &publish.reply {
            confirms.set(*tag, publish.outcome, effects);
        }
        Ok(FrameResult::Done)
    }

    /// Offers the message to more queues. After the last one, returns a mandatory message that no
    /// queue took to its publisher. True when all have been offered it.
    fn offer_and_return(
        &mut self,
        publish: &mut FanOut,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        if publish.next == 0 && self.context.broker.tap.is_open() {
            self.note_in_tap(&publish.message, &publish.targets, effects);
        }
        if !publish.offer_to_queues(effects)? {
            return Ok(false);
        }
        let was_routed = publish.was_taken || self.hand_to_replier(&publish.message, effects);
        if !was_routed && publish.is_mandatory {
            self.view.counters.returned.add_alone(1);
            self.outbox.add(effects, |frames| {
                frames.no_route(self.framing, &publish.message);
            });
        }
        Ok(true)
    }

    /// Like [`Self::offer_and_return`], for a publish of a transaction. Returns what its commit
    /// must wait for, once all queues have been offered the message.
    pub(super) fn advance_commit(
        &mut self,
        publish: &mut FanOut,
        effects: &mut Effects,
    ) -> Result<Option<RouteOutcome>, Fault> {
        effects.spend(1);
        Ok(self
            .offer_and_return(publish, effects)?
            .then_some(publish.outcome))
    }

    /// Whether a publish continues in the next unit of work.
    pub(crate) fn is_publishing(&self) -> bool {
        matches!(self.continuation, Some(Continuation::Publish(_)))
    }

    /// Whether work has begun that may have to wait for room in the store, and for which the store
    /// does not wait.
    pub(crate) fn may_wait_for_room(&self) -> bool {
        match self.continuation {
            Some(Continuation::Publish(_)) => true,
            Some(Continuation::Commit(_)) => !self.is_commit_awaited(),
            _ => false,
        }
    }

    /// Continues the work for which the last unit of work had no budget.
    pub(crate) fn continue_work(&mut self, effects: &mut Effects) -> Result<FrameResult, Fault> {
        match self.continuation.take() {
            None => Ok(FrameResult::Done),
            Some(Continuation::Publish(publish)) => self.fan_out(publish, effects),
            Some(Continuation::Commit(commit)) => self.commit(commit, effects),
            Some(Continuation::Settle(settle)) => self.continue_settle(settle, effects),
            Some(Continuation::Purge(purge)) => self.continue_purge(purge, effects),
            Some(Continuation::QueueDeletion(deletion)) => {
                Ok(self.continue_queue_deletion(deletion, effects))
            }
            Some(Continuation::Close(last)) => Ok(self.end(last, effects)),
        }
    }

    /// The channel ends: the publish, commit or settle that has begun is finished. True when
    /// nothing is left to do, false when the budget is spent.
    pub(crate) fn finish_work(&mut self, effects: &mut Effects) -> bool {
        while let Some(continuation) = self.continuation.take_if(|_| !effects.is_spent()) {
            // The caller sends the closing frame.
            if matches!(continuation, Continuation::Close(_)) {
                continue;
            }
            self.continuation = Some(continuation);
            if let Err(fault) = self.continue_work(effects) {
                tracing::debug!(%fault, "unfinished work of a closed channel failed");
            }
        }
        self.continuation.is_none()
    }

    /// Delivers a message to a direct reply address, which is not a queue. Returns false if it is
    /// not addressed to one.
    fn hand_to_replier(&self, message: &Message, effects: &mut Effects) -> bool {
        let content = message.content();
        if !content.exchange.is_empty()
            || !content.routing_key.starts_with(REPLY_TO_PREFIX.as_bytes())
        {
            return false;
        }
        let address = std::str::from_utf8(content.routing_key).unwrap_or_default();
        self.context.vhost.reply(address, message, effects)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::delivery::budget::StepBudget;
    use crate::queue::Queue;
    use crate::queue::closing::CloseCondition;
    use crate::queue::message::MessageFacts;
    use crate::tests::{declare, opened};
    use crate::vhost::DeleteCondition;

    fn to(targets: Vec<Arc<Queue>>) -> FanOut {
        let message = Message::transient((b"", b"q"), b"x");
        FanOut::new(message, targets.into(), true, PublishReply::Never)
    }

    #[test]
    fn a_message_that_one_queue_took_is_routed_though_another_was_deleted() {
        let (open, deleted) = (Queue::plain(), Queue::plain());
        deleted.close_if(CloseCondition::default(), 0).unwrap();
        for targets in [
            vec![open.clone(), deleted.clone()],
            vec![deleted.clone(), open.clone()],
        ] {
            let mut fan_out = to(targets);
            assert!(fan_out.offer_to_queues(&mut Effects::new(0)).unwrap());
            assert!(fan_out.was_taken);
        }
        let mut lost = to(vec![deleted]);
        assert!(lost.offer_to_queues(&mut Effects::new(0)).unwrap());
        assert!(!lost.was_taken);
    }

    /// Its name led to the deleted queue, and the message was lost.
    #[tokio::test]
    async fn a_commit_finds_a_queue_that_was_declared_again_since_the_publish() {
        let (broker, _kept) = opened().await;
        let vhost = broker.vhost("/").unwrap();
        let older = declare(&broker, "q");
        let mut effects = broker.begin_unit();
        let condition = DeleteCondition::default();
        vhost.delete_queue("q", condition, &mut effects).unwrap();
        broker.end_unit(effects);
        let newer = declare(&broker, "q");
        let mut fan_out = FanOut {
            reply: PublishReply::ByCommit(vhost),
            ..to(vec![older])
        };
        assert!(fan_out.offer_to_queues(&mut Effects::new(0)).unwrap());
        assert!(fan_out.was_taken);
        assert_eq!(newer.counts().0, 1);
        broker.store.clone().close().unwrap();
    }

    /// The store of each queue gets a copy, and its backlog is looked at between units of work.
    #[tokio::test]
    async fn a_large_message_goes_to_one_durable_queue_in_each_unit_of_work() {
        let (broker, _kept) = opened().await;
        let limit = StepBudget::shared_by(u32::MAX);
        // A copy of 4 KiB is one step.
        let body = vec![7; 4096 * limit.steps() as usize];
        let facts = MessageFacts {
            persistent: true,
            ..Message::transient((b"", b""), b"").facts()
        };
        let content = Message::transient((b"", b"q"), &body);
        let message = Message::assemble(content.content(), facts);
        let queues: Vec<_> = ["a", "b", "c"].map(|name| declare(&broker, name)).into();
        let mut fan_out = FanOut::new(message, queues.into(), true, PublishReply::Never);
        for next in 1..3 {
            let mut effects = Effects::new(0).with_limit(limit);
            assert!(!fan_out.offer_to_queues(&mut effects).unwrap());
            assert_eq!(fan_out.next, next);
        }
        let mut effects = Effects::new(0).with_limit(limit);
        assert!(fan_out.offer_to_queues(&mut effects).unwrap());
        broker.store.clone().close().unwrap();
    }

    #[test]
    fn thousands_of_queues_take_more_than_one_unit_of_work_and_get_one_copy_each() {
        let queues: Vec<_> = (0..5_000).map(|_| Queue::plain()).collect();
        let mut fan_out = to(queues.clone());
        let mut units = 1;
        while !fan_out.offer_to_queues(&mut Effects::new(0)).unwrap() {
            units += 1;
        }
        assert!(units > 1, "it was one unit of work");
        assert!(queues.iter().all(|queue| queue.counts().0 == 1));
    }
}
