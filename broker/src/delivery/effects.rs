//! Side effects of one unit of work: writers to wake, dead letters to route, queues to remove,
//! timers to set, confirms to release, ended messages to tell of. Depends on `confirms`, `ends`,
//! `outbox`, `queue`, `stats` and `budget`.
//!
//! A unit of work is one read of a connection, one expiry of the clock, or one call from outside.
//! Its effects are carried out after all locks are released, so a queue never locks another queue.
//!
//! A unit of work is short: what does not fit goes on in a later unit of work, so that
//! handshakes, heartbeats and the management API are served in between; `budget` says how short.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::delivery::budget::{FULL_STEPS, StepBudget};
use crate::delivery::confirms::Confirms;
use crate::delivery::ends::{EndedEntry, EndedMessages, Observed};
use crate::delivery::outbox::Outbox;
use crate::memory::{EntryCharge, LetterBytes};
use crate::observer::BrokerEnd;
use crate::queue::Queue;
use crate::queue::closing::CancelledConsumers;
use crate::queue::dead_letter::Reason;
use crate::queue::level::LoadRequest;
use crate::queue::message::Message;
use crate::queue::queued::QueuedMessage;
use crate::queue::removed::{RemovedMessages, StoredMessages};
use crate::stats::ExchangeCounters;

/// A message that left a queue without being consumed, from a queue with a dead-letter exchange.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) queue: Arc<Queue>,
    pub(crate) message: Message,
    pub(crate) reason: Reason,
    /// The level and position in the store that are settled once the message is dead-lettered.
    /// Until this is dropped, the queue counts the letter.
    stored: Option<(u8, u64)>,
    /// The generation of its vhost in which its route was found to be long. It was counted then.
    long_in: Option<u64>,
    _charge: EntryCharge,
    _bytes: LetterBytes,
}

impl DeadLetter {
    /// A message that has left `queue`. `stored` says where the store has it in that queue. The
    /// queue must be locked.
    pub(crate) fn new(
        queue: &Arc<Queue>,
        message: Message,
        reason: Reason,
        stored: Option<(u8, u64)>,
    ) -> Self {
        if stored.is_some() {
            queue.add_stored_original();
        }
        Self {
            queue: Arc::clone(queue),
            _bytes: LetterBytes::new(message.footprint()),
            message,
            reason,
            stored,
            long_in: None,
            _charge: EntryCharge::new(),
        }
    }

    /// Notes that its route is long, as of this generation of its vhost.
    pub(crate) fn set_long_in(&mut self, generation: u64) {
        self.long_in = Some(generation);
    }

    /// Whether its route is known to be long in this generation of its vhost.
    pub(crate) fn is_long_in(&self, generation: u64) -> bool {
        self.long_in == Some(generation)
    }

    /// Whether its exchange has counted it.
    pub(crate) fn is_counted(&self) -> bool {
        self.long_in.is_some()
    }

    /// Whether the store has the message in its queue.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// Settles the message in the store, once it has left its queue.
    pub(crate) fn settle(&self) {
        if let (Some((level, position)), Some(store)) = (self.stored, self.queue.store())
            && let Err(error) = store.settle(level, position)
        {
            tracing::debug!(
                queue = %self.queue.name(), %error,
                "the original of a dead letter could not be settled"
            );
        }
    }
}

impl Drop for DeadLetter {
    fn drop(&mut self) {
        if self.stored.is_some() {
            self.queue.remove_stored_original();
        }
    }
}

/// What one unit of work counted for an exchange: one locked addition for each run of messages
/// through one exchange, not for each message.
#[derive(Debug)]
struct ExchangeTally {
    counters: Arc<ExchangeCounters>,
    published: u64,
    routed: u64,
}

impl ExchangeTally {
    fn add(&mut self, queues: usize) {
        self.published += 1;
        self.routed += queues as u64;
    }
}

/// What a dead letter costs in advance, in steps.
pub(crate) const DEAD_LETTER_STEPS: u32 = 4;
/// What it costs to delete a queue, in steps.
pub(crate) const REMOVAL_STEPS: u32 = 32;
/// Steps before the first look at the clock, from which the time is counted. A unit of work with
/// fewer is short enough, and most are.
const FIRST_LOOK: u32 = 16;
/// Steps between two looks.
const LOOK_EVERY: u32 = 64;

/// The collected effects of the current unit of work. `BrokerState::end_unit` must carry them out.
#[derive(Debug)]
pub(crate) struct Effects {
    /// The time, read once for the whole unit of work.
    pub(crate) now_ms: u64,
    writers_to_wake: Vec<Arc<Outbox>>,
    pub(crate) dead_letters: VecDeque<DeadLetter>,
    /// Auto-delete queues whose last consumer left.
    pub(crate) unused_queues: Vec<Arc<Queue>>,
    /// Queues that need a timer, with its deadline.
    pub(crate) timers: Vec<(u64, Weak<Queue>)>,
    /// Queues whose next messages must be loaded from the store.
    pub(crate) loads: Vec<(Arc<Queue>, LoadRequest)>,
    /// A queue that its consumers do not keep empty. Its publisher should pause for a moment.
    pub(crate) growing_queue: Option<Arc<Queue>>,
    /// Channels with confirms that may be due.
    pub(crate) confirms: Vec<Arc<Confirms>>,
    /// Messages through one exchange that are not in its counters yet.
    tally: Option<ExchangeTally>,
    /// Queues with messages for consumers that this budget was too small for.
    pub(crate) unpumped: Vec<Arc<Queue>>,
    /// Vhosts that still have bindings from or to deleted queues or exchanges.
    pub(crate) detaching: Vec<Arc<str>>,
    /// Whether a message that was published stays in memory; `None` if none was.
    stays_in_memory: Option<bool>,
    /// Publishes to queues.
    published: u32,
    /// Which messages are observed.
    observed: Option<Observed>,
    /// Those of them that ended without being delivered.
    pub(crate) ended: Vec<EndedEntry>,
    /// Messages of deleted queues that this budget was too small for.
    pub(crate) removed: Vec<RemovedMessages>,
    /// Consumers to cancel that this budget was too small for.
    pub(crate) cancelled: Vec<CancelledConsumers>,
    /// Values that take long to free; they are freed outside the unit of work.
    pub(crate) garbage: Vec<Box<dyn Any + Send>>,
    /// Settles are made outside of any transaction or move (`QueueStore::settle_alone`).
    pub(crate) settles_alone: bool,
    limit: StepBudget,
    /// The work done so far, in units of one cheap step.
    spent: u32,
    /// When the clock is read next, in these units.
    look_at: u32,
    /// When the clock was first read.
    since: Option<Instant>,
    is_late: bool,
    /// `basic.cancel` frames for the consumers of the client that deletes their queue. They follow
    /// its `delete-ok`, as in RabbitMQ.
    pub(crate) cancels_after_delete: Vec<u8>,
}

impl Effects {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            now_ms,
            writers_to_wake: Vec::new(),
            dead_letters: VecDeque::new(),
            unused_queues: Vec::new(),
            timers: Vec::new(),
            loads: Vec::new(),
            growing_queue: None,
            confirms: Vec::new(),
            tally: None,
            unpumped: Vec::new(),
            detaching: Vec::new(),
            stays_in_memory: None,
            published: 0,
            observed: None,
            ended: Vec::new(),
            removed: Vec::new(),
            cancelled: Vec::new(),
            garbage: Vec::new(),
            settles_alone: false,
            limit: StepBudget::FULL,
            spent: 0,
            look_at: FIRST_LOOK,
            since: None,
            is_late: false,
            cancels_after_delete: Vec::new(),
        }
    }

    /// Sets how much the unit of work may do.
    pub(crate) fn with_limit(mut self, limit: StepBudget) -> Self {
        self.limit = limit;
        self
    }

    /// Sets which messages are observed.
    pub(crate) fn with_observed(mut self, observed: Option<Observed>) -> Self {
        self.observed = observed;
        self
    }

    /// Notes how a message of this queue ended, where it is observed.
    pub(crate) fn note_end(&mut self, queue: &Queue, message: &Message, end: BrokerEnd) {
        let Some(observed) = self.observed else {
            return;
        };
        let is_long = message.footprint() > observed.limit.message_bytes;
        if !is_long && message.content().exchange == observed.exchange.as_bytes() {
            self.ended.push(EndedEntry {
                queue: Arc::clone(queue.name()),
                end,
                messages: EndedMessages::InMemory(message.clone()),
            });
        }
    }

    /// Notes the end of a message that left its queue for this reason and is in no other.
    pub(crate) fn note_discarded(&mut self, queue: &Queue, message: &Message, reason: Reason) {
        match reason {
            Reason::Expired => self.note_end(queue, message, BrokerEnd::Expired),
            Reason::MaxLength => self.note_end(queue, message, BrokerEnd::Dropped),
            // The consumer that rejected it reports the reason.
            Reason::Rejected => {}
        }
    }

    /// Notes how messages end that only the store has, before they are settled. They are read
    /// later.
    pub(crate) fn note_stored_end(&mut self, queue: &Queue, gone: StoredMessages, end: BrokerEnd) {
        let (Some(observed), Some(store)) = (self.observed, queue.store()) else {
            return;
        };
        // A store that has stopped logs it.
        if let Ok(plan) = store.plan_read(gone.level, gone.first, observed.limit) {
            self.ended.push(EndedEntry {
                queue: Arc::clone(queue.name()),
                end,
                messages: EndedMessages::InStore(plan, gone.count),
            });
        }
    }

    /// Counts a message that an exchange routed to this many queues.
    pub(crate) fn count(&mut self, counters: &Arc<ExchangeCounters>, queues: usize) {
        match &mut self.tally {
            Some(tally) if Arc::ptr_eq(&tally.counters, counters) => tally.add(queues),
            _ => {
                self.settle_tally();
                let tally = self.tally.insert(ExchangeTally {
                    counters: Arc::clone(counters),
                    published: 0,
                    routed: 0,
                });
                tally.add(queues);
            }
        }
    }

    /// Adds these counts to the exchange's counters.
    pub(crate) fn settle_tally(&mut self) {
        if let Some(tally) = self.tally.take() {
            tally.counters.published.add(tally.published);
            tally.counters.routed.add(tally.routed);
        }
    }

    /// Counts work. One unit is a cheap step, such as one delivery.
    pub(crate) fn spend(&mut self, units: u32) {
        self.spent = self.spent.saturating_add(units);
        if self.spent >= self.look_at {
            self.look_at_clock();
        }
    }

    #[cold]
    fn look_at_clock(&mut self) {
        let now = Instant::now();
        self.look_at = self.spent.saturating_add(LOOK_EVERY);
        self.is_late |= now.duration_since(*self.since.get_or_insert(now)) >= self.limit.time();
    }

    /// Whether the budget is used up, so that the rest should be left to a later unit of
    /// work.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_late || self.spent >= self.limit.steps()
    }

    /// Whether a single step has used twice the largest budget, as in a queue with very many
    /// consumers or with very many messages that expire at once. Such a step stops in its middle.
    /// Other steps end first, and the unit of work ends after them.
    pub(crate) fn is_overspent(&self) -> bool {
        self.spent >= 2 * FULL_STEPS
    }

    /// The work done so far.
    pub(crate) fn spent(&self) -> u32 {
        self.spent
    }

    pub(crate) fn limit(&self) -> StepBudget {
        self.limit
    }

    /// Whether any work was done.
    pub(crate) fn has_spent(&self) -> bool {
        self.spent > 0
    }

    /// Notes a publish to a queue, and whether the message waits there in memory alone.
    pub(crate) fn note_published(&mut self, stays: bool) {
        self.published = self.published.saturating_add(1);
        self.stays_in_memory = Some(stays || self.stays_in_memory == Some(true));
    }

    /// Runs `publish`. Returns its result, and whether a message that it published waits in memory
    /// alone.
    pub(crate) fn noting_stay<R>(&mut self, publish: impl FnOnce(&mut Self) -> R) -> (R, bool) {
        let before = self.stays_in_memory.take();
        let result = publish(self);
        let stays = self.stays_in_memory == Some(true);
        self.stays_in_memory = match before {
            Some(true) => before,
            _ => self.stays_in_memory.or(before),
        };
        (result, stays)
    }

    /// Publishes to queues, each queue counted.
    pub(crate) fn published(&self) -> u32 {
        self.published
    }

    /// Whether any message that was published waits in memory alone; `None` if none was published.
    pub(crate) fn stays_in_memory(&self) -> Option<bool> {
        self.stays_in_memory
    }

    pub(crate) fn note_growing_queue(&mut self, queue: &Arc<Queue>) {
        if self.growing_queue.is_none() {
            self.growing_queue = Some(Arc::clone(queue));
        }
    }

    /// Adds a dead letter. Its cost counts at once, so that a unit of work does not collect more of
    /// them than it can route at its end.
    pub(crate) fn add_dead_letter(&mut self, letter: DeadLetter) {
        self.spend(DEAD_LETTER_STEPS);
        self.dead_letters.push_back(letter);
    }

    /// Takes the oldest dead letter.
    pub(crate) fn next_dead_letter(&mut self) -> Option<DeadLetter> {
        self.dead_letters.pop_front()
    }

    /// Whether dead letters or queue removals are still to be carried out.
    pub(crate) fn has_unfinished(&self) -> bool {
        !self.dead_letters.is_empty() || !self.unused_queues.is_empty()
    }

    /// Leaves the remaining deliveries of a queue to a later unit of work.
    pub(crate) fn defer_pump(&mut self, queue: &Arc<Queue>) {
        let is_last = |last: &Arc<Queue>| Arc::ptr_eq(last, queue);
        if !self.unpumped.last().is_some_and(is_last) {
            self.unpumped.push(Arc::clone(queue));
        }
    }

    /// Cancels consumers: here as far as the budget allows, the others in later units of work.
    pub(crate) fn cancel(&mut self, mut consumers: CancelledConsumers) {
        if consumers.cancel_some(self) {
            self.cancelled.push(consumers);
        }
    }

    /// Frees messages: here where they are few, else outside the unit of work.
    pub(crate) fn free(&mut self, messages: Vec<QueuedMessage>) {
        if messages.len() > FULL_STEPS as usize {
            self.free_later(messages);
        }
    }

    /// Frees what takes long to free outside the unit of work.
    pub(crate) fn free_later(&mut self, garbage: impl Any + Send) {
        self.garbage.push(Box::new(garbage));
    }

    pub(crate) fn wake_later(&mut self, outbox: &Arc<Outbox>) {
        self.writers_to_wake.push(Arc::clone(outbox));
    }

    /// Wakes the writer of every outbox that was written to.
    pub(crate) fn wake_writers(&mut self) {
        for outbox in self.writers_to_wake.drain(..) {
            outbox.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_work_among_many_is_spent_earlier() {
        let limit = StepBudget::shared_by(100);
        let mut effects = Effects::new(0).with_limit(limit);
        effects.spend(limit.steps() - 1);
        assert!(!effects.is_spent());
        effects.spend(1);
        assert!(effects.is_spent() && !effects.is_overspent());
    }
}
