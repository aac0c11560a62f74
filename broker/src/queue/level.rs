//! The ready messages of one priority, most of a long queue's bodies left in the store. Relies on
//! `queued` and `persist` (the budget).
//!
//! A level is, from its head on: messages that came back, a window in memory, and a gap whose
//! messages lie in the store alone, followed by transient messages that arrived since the gap
//! opened. A gap is closed slice by slice, by reads that happen without the queue's lock.
//!
//! While memory is short, a queue without takers keeps nothing of what the store has, but
//! the time at which the first of it expires.

use std::collections::{BTreeMap, VecDeque};

use super::message::Message;
use super::queued::{Persistence, QueuedMessage};
use super::removed::StoredMessages;
use crate::delivery::effects::Effects;
use crate::memory;
use crate::persist::WindowBudget;

#[cfg(test)]
mod tests;

/// Bodies kept in memory per level; beyond it persistent messages are left to the store.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Below this the next slice is read before anybody waits for it.
const REFILL_BYTES: usize = 2 * 1024 * 1024;
/// What every level may keep, however little is left for all.
const LEAST_BYTES: usize = 64 * 1024;
/// Messages that are looked at for one step of the budget of a unit of work.
const LOOKS_A_STEP: u32 = 16;

/// What a browse found in a part of a level.
#[derive(Debug)]
pub(crate) struct BrowsedPart {
    pub(crate) level: u8,
    /// By position: the message, and whether it was delivered before.
    pub(crate) seen: BTreeMap<u64, (Message, bool)>,
    /// From here on the store has messages that are not in memory.
    pub(crate) gap: Option<u64>,
}

/// When the first message expires that only the store has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum GapDeadline {
    /// It must be read to know.
    #[default]
    Unknown,
    Never,
    At(u64),
}

impl GapDeadline {
    fn of(entry: &QueuedMessage, queue_ttl_ms: Option<u64>) -> Self {
        let deadline_ms = entry.message.deadline_ms(queue_ttl_ms);
        deadline_ms.map_or(Self::Never, Self::At)
    }
}

/// Messages that are in the store only.
#[derive(Debug, Default)]
struct Gap {
    count: u64,
    bytes: u64,
    /// Where the next slice begins.
    next: u64,
    /// When the message there expires.
    deadline: GapDeadline,
    /// Grows when what a running read will bring is no longer wanted.
    epoch: u64,
    is_loading: bool,
}

/// What a read of the store is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadRequest {
    pub(crate) level: u8,
    pub(crate) from: u64,
    pub(crate) epoch: u64,
    pub(crate) limit_bytes: usize,
    pub(crate) need: LoadNeed,
}

impl LoadRequest {
    pub(super) fn narrowed(self, budget: &WindowBudget) -> Self {
        let most = if is_scarce(budget) {
            LEAST_BYTES
        } else {
            usize::MAX
        };
        Self {
            limit_bytes: self.limit_bytes.min(most),
            ..self
        }
    }
}

/// What a read of the store brought.
#[derive(Debug, Default)]
pub(crate) struct LoadedSlice {
    pub(super) messages: Vec<QueuedMessage>,
    /// The last position that was read; `None` where the store has nothing from the wanted one on.
    pub(super) through: Option<u64>,
    /// How many messages up to there cannot be decoded.
    pub(super) undecodable: u64,
}

impl LoadedSlice {
    /// What could be decoded of `count` messages that were read up to the position `through`.
    pub(super) fn new(messages: Vec<QueuedMessage>, count: usize, through: Option<u64>) -> Self {
        Self {
            undecodable: (count - messages.len()) as u64,
            through,
            messages,
        }
    }
}

/// Messages that were counted and that a read did not find in the store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MissingMessages {
    pub(super) count: u64,
    /// Bytes of bodies, of undecodable messages too.
    pub(super) bytes: u64,
}

/// How much a load from the store is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadNeed {
    /// A consumer waits for the next message.
    Now,
    /// The queue is running out of messages in memory.
    Soon,
}

/// What an unloaded level keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnloadRest {
    /// [`LEAST_BYTES`], for consumers that take them soon.
    Head,
    Nothing,
}

/// Whether memory is not plenty, or the windows of all queues together are as large as they may be.
pub(super) fn is_scarce(budget: &WindowBudget) -> bool {
    budget.is_spent() || memory::level() > memory::MemoryLevel::Calm
}

#[derive(Debug, Default)]
pub(super) struct PriorityLevel {
    /// What the queue lets each of its messages live at most.
    ttl_ms: Option<u64>,
    returned: BTreeMap<u64, QueuedMessage>,
    head: VecDeque<QueuedMessage>,
    head_bytes: usize,
    /// What the budget was last told of `head_bytes`.
    reported_bytes: usize,
    /// The last position that was taken from here.
    taken_through: u64,
    gap: Gap,
    tail: VecDeque<QueuedMessage>,
}

/// What is at the head of the queue.
pub(crate) enum QueueHead<'a> {
    Message(&'a QueuedMessage),
    /// The next message lies in the store and is being read, or should be.
    InStore,
    Empty,
}

impl PriorityLevel {
    pub(super) fn new(ttl_ms: Option<u64>) -> Self {
        Self {
            ttl_ms,
            ..Self::default()
        }
    }

    /// Takes over what was found in the store when the broker started.
    pub(super) fn recovered(&mut self, first: u64, count: u64, bytes: u64) {
        (self.gap.next, self.gap.count, self.gap.bytes) = (first, count, bytes);
    }

    pub(super) fn count(&self) -> u64 {
        (self.returned.len() + self.head.len() + self.tail.len()) as u64 + self.gap.count
    }

    pub(super) fn front(&self) -> QueueHead<'_> {
        let returned = self.returned.first_key_value().map(|(_, entry)| entry);
        match (returned, self.head.front()) {
            (Some(returned), Some(head)) => {
                QueueHead::Message(if returned.position < head.position {
                    returned
                } else {
                    head
                })
            }
            (Some(entry), None) | (None, Some(entry)) => QueueHead::Message(entry),
            (None, None) if self.gap.count > 0 => QueueHead::InStore,
            (None, None) => QueueHead::Empty,
        }
    }

    pub(super) fn pop(&mut self) -> Option<QueuedMessage> {
        let entry = self.pop_first()?;
        self.taken_through = self.taken_through.max(entry.position);
        Some(entry)
    }

    fn pop_first(&mut self) -> Option<QueuedMessage> {
        let is_returned = match (self.returned.first_key_value(), self.head.front()) {
            (Some((&position, _)), Some(head)) => position < head.position,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_returned {
            return self.returned.pop_first().map(|(_, entry)| entry);
        }
        let entry = self.head.pop_front()?;
        self.head_bytes -= entry.footprint();
        memory::give_back_room(&mut self.head);
        Some(entry)
    }

    /// Adds a message at the end; `keep_in_memory` where there are consumers.
    pub(super) fn push(
        &mut self,
        entry: QueuedMessage,
        keep_in_memory: bool,
        budget: &WindowBudget,
    ) {
        let is_kept = entry.persistence == Persistence::Appended;
        let is_full = self.head_bytes >= WINDOW_BYTES
            || (self.head_bytes >= LEAST_BYTES && budget.is_spent())
            || (!keep_in_memory && is_scarce(budget));
        if is_kept && (self.gap.count > 0 || is_full) {
            if self.gap.count == 0 {
                self.gap.next = entry.position;
                self.gap.deadline = GapDeadline::of(&entry, self.ttl_ms);
            }
            self.gap.count += 1;
            self.gap.bytes += entry.message.body_len() as u64;
        } else if self.gap.count > 0 {
            self.tail.push_back(entry);
        } else {
            self.head_bytes += entry.footprint();
            self.head.push_back(entry);
        }
    }

    /// Leaves what is in memory to the store, where the store has all of it. Returns the last
    /// position of it that a client has had.
    ///
    /// While clients hold messages of the queue, or dead letters of it are on their way, messages
    /// that were loaded before stay in memory: the store would return the missing ones again.
    pub(super) fn unload(
        &mut self,
        rest: UnloadRest,
        has_unready_stored: bool,
        effects: &mut Effects,
    ) -> Option<u64> {
        let least = match rest {
            UnloadRest::Head => LEAST_BYTES,
            UnloadRest::Nothing => 0,
        };
        let first_free = if has_unready_stored {
            self.taken_through + 1
        } else {
            0
        };
        let returned = self.returned.range(first_free..).map(|(_, entry)| entry);
        let mut free = returned.chain(
            self.head
                .iter()
                .filter(|entry| entry.position >= first_free),
        );
        let mut count = 0;
        let bytes = free.try_fold(0, |bytes, entry| {
            count += 1;
            (entry.persistence == Persistence::Appended).then(|| bytes + entry.footprint())
        });
        effects.spend(count / LOOKS_A_STEP);
        if bytes.is_none_or(|bytes| bytes <= 2 * least) {
            return None;
        }
        let mut all: Vec<_> = std::mem::take(&mut self.returned).into_values().collect();
        all.extend(std::mem::take(&mut self.head));
        all.sort_unstable_by_key(|entry| entry.position);
        self.head_bytes = 0;
        let mut kept = 0;
        while kept < all.len() && (self.head_bytes < least || all[kept].position < first_free) {
            self.head_bytes += all[kept].footprint();
            kept += 1;
        }
        let dropped = all.split_off(kept);
        self.head.extend(all);
        let first = dropped.first()?;
        // A read that is under way would bring what comes behind these.
        self.gap.epoch += 1;
        self.gap.is_loading = false;
        self.gap.next = first.position;
        self.gap.deadline = GapDeadline::of(first, self.ttl_ms);
        self.gap.count += dropped.len() as u64;
        self.gap.bytes += dropped
            .iter()
            .map(|entry| entry.message.body_len() as u64)
            .sum::<u64>();
        let given_back = dropped.iter().filter(|entry| entry.redelivered);
        let last = given_back.map(|entry| entry.position).max();
        effects.spend(u32::try_from(dropped.len()).unwrap_or(u32::MAX));
        effects.free(dropped);
        last
    }

    pub(super) fn report(&mut self, budget: &WindowBudget) {
        budget.report(&mut self.reported_bytes, self.head_bytes);
    }

    /// Whether the next message must be read now, because it has expired or because it is not known
    /// when it does.
    pub(super) fn is_due_in_store(&self, now_ms: u64) -> bool {
        matches!(self.front(), QueueHead::InStore)
            && match self.gap.deadline {
                GapDeadline::Unknown => true,
                GapDeadline::Never => false,
                GapDeadline::At(deadline_ms) => deadline_ms <= now_ms,
            }
    }

    /// When the next message expires, where it lies in the store.
    pub(super) fn deadline_in_store_ms(&self) -> Option<u64> {
        match (self.front(), self.gap.deadline) {
            (QueueHead::InStore, GapDeadline::At(deadline_ms)) => Some(deadline_ms),
            _ => None,
        }
    }

    /// The read that should be made now; at most one is under way.
    pub(super) fn next_load(
        &mut self,
        level: u8,
        need: LoadNeed,
        budget: &WindowBudget,
    ) -> Option<LoadRequest> {
        // Many queues that are read at once share what all may keep.
        let (refill, limit_bytes) = if is_scarce(budget) {
            (LEAST_BYTES, LEAST_BYTES)
        } else {
            (REFILL_BYTES, WINDOW_BYTES / 4)
        };
        if self.gap.count == 0 || self.gap.is_loading || self.head_bytes >= refill {
            return None;
        }
        self.gap.is_loading = true;
        Some(LoadRequest {
            level,
            from: self.gap.next,
            epoch: self.gap.epoch,
            limit_bytes,
            need,
        })
    }

    /// Takes what a read brought. `None` when it is no longer wanted, else what was counted and is
    /// not in the store.
    pub(super) fn fill(
        &mut self,
        wanted: LoadRequest,
        slice: LoadedSlice,
    ) -> Option<MissingMessages> {
        if !self.is_wanted(wanted) {
            return None;
        }
        self.gap.is_loading = false;
        let mut missing = MissingMessages::default();
        match slice.through {
            Some(through) => {
                self.gap.next = through + 1;
                self.gap.deadline = GapDeadline::Unknown;
            }
            // The store has nothing after all: the count was wrong, and waiting for it would stall
            // the line.
            None => missing.count = std::mem::take(&mut self.gap.count),
        }
        self.gap.count = self.gap.count.saturating_sub(slice.undecodable);
        for entry in slice.messages {
            self.gap.count = self.gap.count.saturating_sub(1);
            self.gap.bytes = self
                .gap
                .bytes
                .saturating_sub(entry.message.body_len() as u64);
            self.move_tail(entry.position);
            self.head_bytes += entry.footprint();
            self.head.push_back(entry);
        }
        if self.gap.count == 0 {
            missing.bytes = std::mem::take(&mut self.gap.bytes);
            self.move_tail(u64::MAX);
        }
        Some(missing)
    }

    /// A read failed or is not made; another may be.
    pub(super) fn load_failed(&mut self, wanted: LoadRequest) {
        if self.is_wanted(wanted) {
            self.gap.is_loading = false;
        }
    }

    /// Whether the messages that a read is to bring are still to be read.
    pub(super) fn is_wanted(&self, wanted: LoadRequest) -> bool {
        self.gap.epoch == wanted.epoch
    }

    /// Puts a message back at its place.
    pub(super) fn put_back(&mut self, entry: QueuedMessage) {
        self.returned.insert(entry.position, entry);
    }

    /// The newest message in memory when it still waits for the store.
    pub(super) fn last_due(&mut self) -> Option<&mut QueuedMessage> {
        let is_due =
            |entry: &&mut QueuedMessage| matches!(entry.persistence, Persistence::ToAppend(_));
        self.head.back_mut().filter(is_due)
    }

    /// Whether there are messages that only the store has.
    pub(super) fn has_gap(&self) -> bool {
        self.gap.count > 0
    }

    /// The messages that only the store has, if there are any.
    pub(super) fn in_store(&self, level: u8) -> Option<StoredMessages> {
        self.has_gap().then_some(StoredMessages {
            level,
            first: self.gap.next,
            count: self.gap.count,
        })
    }

    /// Empties the level. Returns what was in memory, of which [`Self::pop_removed`] takes one
    /// after the other.
    pub(super) fn take_all(&mut self, budget: &WindowBudget) -> Self {
        let mut emptied = Self {
            ttl_ms: self.ttl_ms,
            taken_through: self.taken_through,
            ..Self::default()
        };
        emptied.gap.epoch = self.gap.epoch + 1;
        let mut removed = std::mem::replace(self, emptied);
        removed.gap = Gap::default();
        budget.report(&mut removed.reported_bytes, 0);
        removed
    }

    /// Takes the next message of what [`Self::take_all`] returned.
    pub(super) fn pop_removed(&mut self) -> Option<QueuedMessage> {
        let first = self.pop_first();
        first.or_else(|| {
            memory::give_back_room(&mut self.tail);
            self.tail.pop_front()
        })
    }

    pub(super) fn browsed_part(&self, level: u8, from: u64, count: usize) -> BrowsedPart {
        let in_order = |ready: &VecDeque<QueuedMessage>| {
            let start = ready.partition_point(|entry| entry.position < from);
            let part = ready.range(start..).take(count).map(QueuedMessage::waiting);
            part.collect::<Vec<_>>()
        };
        let mut seen: BTreeMap<_, _> = in_order(&self.head).into_iter().collect();
        seen.extend(in_order(&self.tail));
        let returned = self.returned.range(from..).take(count);
        seen.extend(returned.map(|(_, entry)| entry.waiting()));
        BrowsedPart {
            level,
            seen,
            gap: (self.gap.count > 0).then(|| self.gap.next.max(from)),
        }
    }

    fn move_tail(&mut self, before: u64) {
        while self
            .tail
            .front()
            .is_some_and(|entry| entry.position < before)
        {
            if let Some(entry) = self.tail.pop_front() {
                self.head_bytes += entry.footprint();
                self.head.push_back(entry);
            }
        }
        memory::give_back_room(&mut self.tail);
    }
}
