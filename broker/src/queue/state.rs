//! The state behind a queue's lock, and steps that several operations share. Relies on `ready`,
//! `consumer` and `persist`.

use std::sync::Arc;

use super::arguments::QueueArguments;
use super::consumer::Consumers;
use super::counters::{Counters, QueueSnapshot};
use super::dead_letter::Reason;
use super::level::{LoadNeed, LoadRequest, QueueHead, UnloadRest};
use super::limits;
use super::message::Message;
use super::message_totals::MessageTotals;
use super::queued::{Persistence, QueuedMessage};
use super::ready::ReadyMessages;
use super::removed::RemovedMessages;
use super::{ConfirmMode, DRAINED, Disposition, Queue};
use crate::delivery::effects::{DeadLetter, Effects};
use crate::memory::{self, EntryCharge};
use crate::observer::BrokerEnd;
use crate::persist::{Settled, Stopped, Ticket, WindowBudget};

/// The pause after a failed read of a queue's messages.
const UNREADABLE_MS: u64 = 1000;

#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) ready: ReadyMessages,
    pub(crate) consumers: Consumers,
    pub(crate) counters: Counters,
    pub(crate) is_deleted: bool,
    /// A publisher waits until few messages are ready.
    pub(super) has_waiting_publisher: bool,
    /// When a client last used it, for `x-expires`.
    pub(crate) used_ms: u64,
    /// The deadline that was set at the clock, `u64::MAX` for none.
    pub(crate) armed_ms: u64,
    /// Whether a message may expire.
    pub(crate) may_expire: bool,
    pub(super) next_position: u64,
    /// Messages up to here were delivered before the broker started, by level.
    pub(super) delivered_before: Vec<Option<u64>>,
    delivered_now: Option<(u8, u64)>,
    unsettled: u64,
    unsettled_bytes: u64,
    /// Those of them that are not for the store.
    unsettled_transient: MessageTotals,
    /// Since when there are messages and consumers, and none of these takes any.
    stalled_from_ms: Option<u64>,
    /// How long that has been so before.
    stalled_ms: u64,
    /// The time until which the store is not read again; 0 if it has not failed.
    unreadable_until_ms: u64,
}

impl QueueState {
    pub(super) fn new(arguments: &QueueArguments, budget: Arc<WindowBudget>, now_ms: u64) -> Self {
        let consumers = if arguments.single_active_consumer {
            Consumers::single_active()
        } else {
            Consumers::default()
        };
        let max_priority = arguments.max_priority.unwrap_or(0);
        Self {
            ready: ReadyMessages::new(max_priority, arguments.message_ttl_ms, budget),
            consumers,
            counters: Counters::default(),
            is_deleted: false,
            has_waiting_publisher: false,
            used_ms: now_ms,
            armed_ms: u64::MAX,
            may_expire: arguments.message_ttl_ms.is_some() || arguments.expires_ms.is_some(),
            next_position: 1,
            delivered_before: vec![None; usize::from(max_priority) + 1],
            delivered_now: None,
            unsettled: 0,
            unsettled_bytes: 0,
            unsettled_transient: MessageTotals::default(),
            stalled_from_ms: None,
            stalled_ms: 0,
            unreadable_until_ms: 0,
        }
    }

    /// Whether more messages or bytes than these are ready.
    pub(super) fn is_above(&self, (messages, bytes): (u64, u64)) -> bool {
        self.ready.ready() > messages || self.ready.bytes() > bytes
    }

    /// Delivers messages until there are no more messages or no willing consumer. Returns the
    /// ticket of the last message that was appended to the store for this.
    pub(super) fn pump(
        &mut self,
        queue: &Arc<Queue>,
        effects: &mut Effects,
    ) -> Result<Option<Ticket>, Stopped> {
        let mut appended = None;
        while !self.ready.is_empty() && !self.is_deleted {
            if effects.is_overspent() {
                if !self.consumers.is_empty() {
                    effects.defer_pump(queue);
                }
                break;
            }
            if limits::expire(queue, self, effects, limits::Strictness::Past) {
                continue;
            }
            if matches!(self.ready.head(), QueueHead::InStore) {
                break;
            }
            let Some(consumer) = self.consumers.next_willing(queue, effects) else {
                break;
            };
            let Some(mut entry) = self.ready.pop() else {
                break;
            };
            let consumer = Arc::clone(consumer);
            effects.spend(1);
            self.counters.delivered += 1;
            if consumer.subscription.no_ack {
                Self::settle_in_store_and_confirm(queue, &entry, effects)?;
                entry.persistence = Persistence::Transient;
            } else {
                appended = Self::append(queue, &mut entry)?.or(appended);
                self.note_delivered(queue, &entry);
                self.count_unsettled(&entry);
            }
            consumer.deliver(queue, entry, effects);
        }
        if self.has_waiting_publisher && !self.is_above(DRAINED) {
            self.has_waiting_publisher = false;
            queue.drained.notify_waiters();
        }
        self.note_stall(effects);
        self.flush_delivered(queue);
        self.request_load(queue, LoadNeed::Soon, effects);
        limits::arm(queue, self, effects);
        Ok(appended)
    }

    /// Makes a message the newest entry of the queue.
    pub(super) fn entry(
        &mut self,
        queue: &Queue,
        message: &Message,
        confirm_mode: ConfirmMode<'_>,
    ) -> QueuedMessage {
        let position = self.next_position;
        self.next_position += 1;
        self.may_expire |= message.has_ttl();
        let is_kept = queue.store.is_some() && message.is_persistent();
        let confirm = match confirm_mode {
            ConfirmMode::Confirm(confirms, tag) if is_kept => Some((Arc::clone(confirms), tag)),
            _ => None,
        };
        QueuedMessage {
            position,
            message: message.clone(),
            level: message.priority().min(self.ready.max_priority()),
            redelivered: false,
            persistence: if is_kept {
                Persistence::ToAppend(confirm_mode.urgency())
            } else {
                Persistence::Transient
            },
            confirm,
            _charge: EntryCharge::new(),
        }
    }

    /// Appends a message to the store unless that is done or not wanted. Returns the ticket of the
    /// append.
    pub(super) fn append(
        queue: &Queue,
        entry: &mut QueuedMessage,
    ) -> Result<Option<Ticket>, Stopped> {
        let (Persistence::ToAppend(urgency), Some(store)) = (entry.persistence, &queue.store)
        else {
            return Ok(None);
        };
        let ticket = store.append(entry.level, entry.position, entry.message.stored(), urgency)?;
        entry.persistence = Persistence::Appended;
        Ok(Some(ticket))
    }

    /// Like [`Self::append`], for the newest message of a level, if it is still ready.
    pub(super) fn append_last(
        &mut self,
        queue: &Queue,
        level: u8,
    ) -> Result<Option<Ticket>, Stopped> {
        match self.ready.last_due(level) {
            Some(entry) => Self::append(queue, entry),
            None => Ok(None),
        }
    }

    /// Counts a message that was delivered and is not settled.
    pub(super) fn count_unsettled(&mut self, entry: &QueuedMessage) {
        self.unsettled += 1;
        self.unsettled_bytes += entry.message.body_len() as u64;
        if entry.is_transient() {
            self.unsettled_transient.add(entry);
        }
    }

    /// Ends a delivery that [`QueueState::count_unsettled`] counted.
    pub(super) fn settle(
        &mut self,
        queue: &Arc<Queue>,
        mut entry: QueuedMessage,
        disposition: Disposition,
        effects: &mut Effects,
    ) -> Result<(), Stopped> {
        self.unsettled = self.unsettled.saturating_sub(1);
        self.unsettled_bytes = self
            .unsettled_bytes
            .saturating_sub(entry.message.body_len() as u64);
        if entry.is_transient() {
            self.unsettled_transient.subtract(&entry);
        }
        if self.is_deleted {
            // The client that has the message decides its end, unless it requeues it.
            if disposition == Disposition::Requeue {
                effects.note_end(queue, &entry.message, BrokerEnd::Deleted);
            }
            return Ok(());
        }
        match disposition {
            Disposition::Ack => {
                self.counters.acked += 1;
                Self::settle_in_store_and_confirm(queue, &entry, effects).map(drop)
            }
            Disposition::Reject => {
                self.counters.rejected += 1;
                Self::discard(queue, entry, Reason::Rejected, effects);
                Ok(())
            }
            Disposition::Requeue => {
                self.counters.requeued += 1;
                entry.redelivered = true;
                self.ready.put_back(entry);
                Ok(())
            }
        }
    }

    /// Settles the message in the store, for good with the returned ticket, and releases a confirm
    /// that waited for its commit.
    pub(super) fn settle_in_store_and_confirm(
        queue: &Queue,
        entry: &QueuedMessage,
        effects: &mut Effects,
    ) -> Result<Ticket, Stopped> {
        let settled = match (entry.persistence, &queue.store) {
            (Persistence::Appended, Some(store)) if effects.settles_alone => {
                store.settle_alone(entry.level, entry.position)?
            }
            (Persistence::Appended, Some(store)) => store.settle(entry.level, entry.position)?,
            (Persistence::ToAppend(_), _) => Settled::Elided,
            _ => Settled::Recorded(Ticket::NONE),
        };
        if let (Settled::Elided, Some((confirms, tag))) = (settled, &entry.confirm) {
            confirms.settled(*tag, effects);
        }
        Ok(match settled {
            Settled::Recorded(ticket) => ticket,
            Settled::Elided => Ticket::NONE,
        })
    }

    /// Removes a message unconsumed: it becomes a dead letter if the queue has a dead-letter
    /// exchange, and is dropped otherwise.
    pub(super) fn discard(
        queue: &Arc<Queue>,
        entry: QueuedMessage,
        reason: Reason,
        effects: &mut Effects,
    ) {
        if queue.identity.arguments.dead_letters.is_some() {
            let stored = (entry.persistence == Persistence::Appended)
                .then_some((entry.level, entry.position));
            effects.add_dead_letter(DeadLetter::new(queue, entry.message, reason, stored));
            return;
        }
        effects.note_discarded(queue, &entry.message, reason);
        if Self::settle_in_store_and_confirm(queue, &entry, effects).is_err() {
            // The store logs that it has stopped, and the next publish is refused because of it.
            tracing::debug!(queue = %queue.name(), "a discarded message could not be settled");
        }
    }

    /// Notes that a kept message reached a client, so that its redelivered flag survives a crash.
    pub(super) fn note_delivered(&mut self, queue: &Queue, entry: &QueuedMessage) {
        self.counters.redelivered += u64::from(entry.redelivered);
        if entry.persistence != Persistence::Appended || entry.redelivered {
            return;
        }
        if self
            .delivered_now
            .is_some_and(|(level, _)| level != entry.level)
        {
            self.flush_delivered(queue);
        }
        self.delivered_now = Some((entry.level, entry.position));
    }

    /// Tells the store what [`QueueState::note_delivered`] collected.
    pub(super) fn flush_delivered(&mut self, queue: &Queue) {
        if let (Some((level, through)), Some(store)) = (self.delivered_now.take(), &queue.store) {
            store.delivered(level, through);
        }
    }

    /// Asks for the next slice when the queue is running out of messages in memory.
    pub(super) fn request_load(
        &mut self,
        queue: &Arc<Queue>,
        need: LoadNeed,
        effects: &mut Effects,
    ) {
        if !self.ready.has_gap() || self.is_unreadable(effects) {
            return;
        }
        let wanted = match need {
            LoadNeed::Now => self.ready.next_load(need),
            LoadNeed::Soon => self.next_load_soon(queue, effects.now_ms),
        };
        if let Some(wanted) = wanted {
            effects.loads.push((Arc::clone(queue), wanted));
        }
    }

    /// Expired messages must be removed, and the next expiry must be known. Other messages are read
    /// only for consumers.
    fn next_load_soon(&mut self, queue: &Arc<Queue>, now_ms: u64) -> Option<LoadRequest> {
        let due = self.ready.due_load(now_ms);
        if due.is_some() || !self.is_load_due(queue) {
            return due;
        }
        self.ready.next_load(LoadNeed::Soon)
    }

    /// Whether the next slice is read for consumers. While memory is short, only where one takes
    /// messages at once.
    fn is_load_due(&self, queue: &Arc<Queue>) -> bool {
        if memory::is_short() {
            matches!(self.ready.head(), QueueHead::InStore) && self.consumers.has_willing(queue)
        } else {
            !self.consumers.is_empty()
        }
    }

    /// Looks at a load again when it begins: memory may be short by now. `None` when it is
    /// not made; the queue asks again when it is pumped.
    pub(super) fn confirm_load(
        &mut self,
        queue: &Arc<Queue>,
        wanted: LoadRequest,
        now_ms: u64,
    ) -> Option<LoadRequest> {
        let is_made = wanted.need == LoadNeed::Now
            || self.ready.is_due_in_store(wanted.level, now_ms)
            || self.is_load_due(queue);
        if is_made {
            return Some(self.ready.narrowed(wanted));
        }
        self.ready.load_failed(wanted);
        None
    }

    /// Unloads messages that the store has. If a consumer takes messages, each level keeps its head
    /// in memory.
    pub(super) fn unload(&mut self, queue: &Arc<Queue>, effects: &mut Effects) {
        if self.is_deleted {
            return;
        }
        let rest = if self.consumers.has_willing(queue) {
            UnloadRest::Head
        } else {
            UnloadRest::Nothing
        };
        let has_unready_stored = self.has_unready_stored(queue);
        for (level, before) in (0..).zip(&mut self.delivered_before) {
            let given_back = self.ready.unload(level, rest, has_unready_stored, effects);
            *before = (*before).max(given_back);
        }
    }

    /// While memory is short, unloads messages that were read and that no consumer takes.
    pub(super) fn unload_unwanted(&mut self, queue: &Arc<Queue>, effects: &mut Effects) {
        if self.ready.is_scarce() && !self.consumers.has_willing(queue) {
            self.unload(queue, effects);
        }
    }

    /// Whether the store has messages of this queue that are not ready: in clients' hands, or dead
    /// letters on their way.
    fn has_unready_stored(&self, queue: &Queue) -> bool {
        self.unsettled > 0 || queue.has_stored_originals()
    }

    /// Removes every ready message; those in clients' hands and dead letters on their way stay.
    pub(super) fn purge(
        &mut self,
        queue: &Arc<Queue>,
        effects: &mut Effects,
    ) -> Result<RemovedMessages, Stopped> {
        let end = BrokerEnd::Purged;
        if self.is_deleted {
            return Ok(RemovedMessages::new(queue, end, (0, Vec::new())));
        }
        let in_store = self.ready.in_store();
        let has_unready_stored = self.has_unready_stored(queue);
        let mut removed = RemovedMessages::new(queue, end, self.ready.take_all());
        if let Some(store) = &queue.store {
            let last = self.next_position.saturating_sub(1);
            for gone in in_store {
                effects.note_stored_end(queue, gone, end);
                removed.settled_with(if has_unready_stored || removed.has_messages() {
                    store.settle_all(gone.level, gone.first, last)?
                } else {
                    store.purge(gone.level, last)?
                });
            }
        }
        limits::arm(queue, self, effects);
        Ok(removed)
    }

    /// Records a failed read of the store, which is repeated after [`UNREADABLE_MS`].
    pub(super) fn set_unreadable(&mut self, queue: &Arc<Queue>, effects: &mut Effects) {
        self.unreadable_until_ms = effects.now_ms + UNREADABLE_MS;
        limits::arm(queue, self, effects);
    }

    /// The time at which the store may be read again, if it has just failed.
    pub(super) fn unreadable_until(&self, effects: &Effects) -> Option<u64> {
        Some(self.unreadable_until_ms).filter(|until_ms| *until_ms > effects.now_ms)
    }

    /// True while the store is not read because a read has just failed.
    pub(super) fn is_unreadable(&self, effects: &Effects) -> bool {
        self.unreadable_until(effects).is_some()
    }

    /// Records whether messages wait because no consumer takes them.
    pub(super) fn note_stall(&mut self, effects: &Effects) {
        let is_stalled = !self.ready.is_empty() && !self.consumers.is_empty();
        match self.stalled_from_ms {
            None if is_stalled => self.stalled_from_ms = Some(effects.now_ms),
            Some(from) if !is_stalled => {
                self.stalled_ms += effects.now_ms.saturating_sub(from);
                self.stalled_from_ms = None;
            }
            _ => {}
        }
    }

    pub(super) fn snapshot(&self) -> QueueSnapshot {
        let (transient, held) = (self.ready.transient(), self.unsettled_transient);
        let all = self.ready.ready() + self.unsettled;
        let all_bytes = self.ready.bytes() + self.unsettled_bytes;
        let stalled_now = self
            .stalled_from_ms
            .map_or(0, |from| crate::time::now_ms().saturating_sub(from));
        QueueSnapshot {
            persistent: all.saturating_sub(transient.messages + held.messages),
            persistent_bytes: all_bytes.saturating_sub(transient.bytes + held.bytes),
            stalled_ms: self.stalled_ms + stalled_now,
            ready: self.ready.ready(),
            unsettled: self.unsettled,
            ready_bytes: self.ready.bytes(),
            unsettled_bytes: self.unsettled_bytes,
            consumers: self.consumers.len(),
            counters: self.counters,
        }
    }
}

#[cfg(test)]
mod tests;
