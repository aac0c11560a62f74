//! The ready messages of one queue in order, a level for each priority. Relies on `level`.

use std::sync::Arc;

use super::browse::QueuePosition;
use super::level::{
    BrowsedPart, LoadNeed, LoadRequest, LoadedSlice, MissingMessages, PriorityLevel, QueueHead,
    UnloadRest, is_scarce,
};
use super::message_totals::MessageTotals;
use super::queued::QueuedMessage;
use super::removed::StoredMessages;
use crate::delivery::effects::Effects;
use crate::memory::TransientBytes;
use crate::persist::WindowBudget;

/// The ready messages of one queue.
#[derive(Debug)]
pub(crate) struct ReadyMessages {
    /// Index is the priority.
    levels: Box<[PriorityLevel]>,
    ready: u64,
    /// Bodies of all ready messages.
    bytes: u64,
    /// Those of them that are not for the store.
    transient: MessageTotals,
    /// All that these hold.
    transient_bytes: TransientBytes,
    budget: Arc<WindowBudget>,
}

impl ReadyMessages {
    /// Ready messages with the priorities 0 to `max_priority`, of which none lives longer than
    /// `ttl_ms`.
    pub(crate) fn new(max_priority: u8, ttl_ms: Option<u64>, budget: Arc<WindowBudget>) -> Self {
        Self {
            levels: (0..=max_priority)
                .map(|_| PriorityLevel::new(ttl_ms))
                .collect(),
            ready: 0,
            bytes: 0,
            transient: MessageTotals::default(),
            transient_bytes: TransientBytes::default(),
            budget,
        }
    }

    /// Heap memory of an empty `ReadyMessages`, in bytes.
    pub(crate) fn footprint(max_priority: u8) -> usize {
        (usize::from(max_priority) + 1) * size_of::<PriorityLevel>()
    }

    /// Highest supported priority.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are at most 256 levels"
    )]
    pub(crate) fn max_priority(&self) -> u8 {
        (self.levels.len() - 1) as u8
    }

    pub(crate) fn ready(&self) -> u64 {
        self.ready
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready == 0
    }

    /// Messages that were found in the store when the broker started.
    pub(crate) fn recovered(&mut self, level: u8, first: u64, count: u64, bytes: u64) {
        self.levels[usize::from(level)].recovered(first, count, bytes);
        self.ready += count;
        self.bytes += bytes;
    }

    /// Ready messages that are not for the store.
    pub(crate) fn transient(&self) -> MessageTotals {
        self.transient
    }

    fn count_added(&mut self, entry: &QueuedMessage) {
        self.ready += 1;
        self.bytes += entry.message.body_len() as u64;
        if entry.is_transient() {
            self.transient.add(entry);
            self.transient_bytes.add(entry.message.footprint());
        }
    }

    fn count_removed(&mut self, entry: &QueuedMessage) {
        self.ready -= 1;
        self.bytes = self.bytes.saturating_sub(entry.message.body_len() as u64);
        if entry.is_transient() {
            self.transient.subtract(entry);
            self.transient_bytes.take(entry.message.footprint());
        }
    }

    /// [`is_scarce`] with this queue's budget.
    pub(super) fn is_scarce(&self) -> bool {
        is_scarce(&self.budget)
    }

    /// [`PriorityLevel::unload`] of one level.
    pub(super) fn unload(
        &mut self,
        level: u8,
        rest: UnloadRest,
        has_unready_stored: bool,
        effects: &mut Effects,
    ) -> Option<u64> {
        let level = self.levels.get_mut(usize::from(level))?;
        let given_back = level.unload(rest, has_unready_stored, effects);
        level.report(&self.budget);
        given_back
    }

    /// Adds a message at the end. While memory is not plentiful, a message that no consumer awaits
    /// is kept only in the store: many queues with one message each would take much memory.
    pub(crate) fn push(&mut self, entry: QueuedMessage, keep_in_memory: bool) {
        self.count_added(&entry);
        let level = &mut self.levels[usize::from(entry.level)];
        level.push(entry, keep_in_memory, &self.budget);
        level.report(&self.budget);
    }

    /// Puts a message back at its place.
    pub(crate) fn put_back(&mut self, entry: QueuedMessage) {
        self.count_added(&entry);
        self.levels[usize::from(entry.level)].put_back(entry);
    }

    /// The next message of the highest priority that has one.
    pub(crate) fn head(&self) -> QueueHead<'_> {
        for level in self.levels.iter().rev() {
            match level.front() {
                QueueHead::Empty => {}
                head => return head,
            }
        }
        QueueHead::Empty
    }

    pub(crate) fn pop(&mut self) -> Option<QueuedMessage> {
        let level = self
            .levels
            .iter_mut()
            .rev()
            .find(|level| level.count() > 0)?;
        let entry = level.pop()?;
        level.report(&self.budget);
        self.count_removed(&entry);
        Some(entry)
    }

    /// The next message of any level whose head `is_due`; other levels are looked at too.
    pub(crate) fn pop_if(
        &mut self,
        is_due: impl Fn(&QueuedMessage) -> bool,
    ) -> Option<QueuedMessage> {
        let level = self
            .levels
            .iter_mut()
            .rev()
            .find(|level| match level.front() {
                QueueHead::Message(entry) => is_due(entry),
                QueueHead::InStore | QueueHead::Empty => false,
            })?;
        let entry = level.pop()?;
        level.report(&self.budget);
        self.count_removed(&entry);
        Some(entry)
    }

    /// The newest message in memory when it still waits for the store.
    pub(crate) fn last_due(&mut self, level: u8) -> Option<&mut QueuedMessage> {
        self.levels[usize::from(level)].last_due()
    }

    /// The heads of all levels, as far as they are in memory.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &QueuedMessage> {
        self.levels.iter().filter_map(|level| match level.front() {
            QueueHead::Message(entry) => Some(entry),
            QueueHead::InStore | QueueHead::Empty => None,
        })
    }

    /// When the first message of each level expires, as far as those lie in the store.
    pub(crate) fn deadlines_in_store_ms(&self) -> impl Iterator<Item = u64> {
        let levels = self.levels.iter();
        levels.filter_map(PriorityLevel::deadline_in_store_ms)
    }

    /// [`PriorityLevel::is_due_in_store`] of one level.
    pub(super) fn is_due_in_store(&self, level: u8, now_ms: u64) -> bool {
        let level = self.levels.get(usize::from(level));
        level.is_some_and(|level| level.is_due_in_store(now_ms))
    }

    /// The read of a level whose first message has expired, or may have.
    pub(crate) fn due_load(&mut self, now_ms: u64) -> Option<LoadRequest> {
        let budget = &*self.budget;
        let mut numbered = (0..).zip(&mut self.levels);
        numbered.find_map(|(number, level)| {
            let is_due = level.is_due_in_store(now_ms);
            is_due.then(|| level.next_load(number, LoadNeed::Soon, budget))?
        })
    }

    /// The read that should be made now, of the highest level that wants one.
    pub(crate) fn next_load(&mut self, need: LoadNeed) -> Option<LoadRequest> {
        let budget = &*self.budget;
        let top = self.max_priority();
        let levels = self.levels.iter_mut().rev();
        let mut numbered = (0..=top).rev().zip(levels);
        numbered.find_map(|(number, level)| level.next_load(number, need, budget))
    }

    /// True when some level has messages that only the store holds.
    pub(crate) fn has_gap(&self) -> bool {
        self.levels.iter().any(PriorityLevel::has_gap)
    }

    /// Takes what a read brought; `None` when it is no longer wanted, else what turned out to be
    /// missing.
    pub(crate) fn fill(
        &mut self,
        wanted: LoadRequest,
        slice: LoadedSlice,
    ) -> Option<MissingMessages> {
        let level = &mut self.levels[usize::from(wanted.level)];
        let before = level.count();
        let missing = level.fill(wanted, slice)?;
        level.report(&self.budget);
        self.ready = self.ready - before + level.count();
        self.bytes = self.bytes.saturating_sub(missing.bytes);
        Some(missing)
    }

    /// What a read that begins now should bring, which may be less than when it was asked for.
    pub(crate) fn narrowed(&self, wanted: LoadRequest) -> LoadRequest {
        wanted.narrowed(&self.budget)
    }

    /// A read failed or was not started; allows the next one.
    pub(crate) fn load_failed(&mut self, wanted: LoadRequest) {
        self.levels[usize::from(wanted.level)].load_failed(wanted);
    }

    /// [`PriorityLevel::is_wanted`] of the level that a read is for.
    pub(super) fn is_wanted(&self, wanted: LoadRequest) -> bool {
        self.levels[usize::from(wanted.level)].is_wanted(wanted)
    }

    /// The messages of each level that are only in the store, of levels that have such. From the
    /// first of them on a level has no stored message in memory.
    pub(super) fn in_store(&self) -> Vec<StoredMessages> {
        let numbered = (0..).zip(&self.levels);
        numbered
            .filter_map(|(number, level)| level.in_store(number))
            .collect()
    }

    /// Removes all messages, in a few steps. Returns how many there were, and those of them that
    /// were in memory, by level.
    pub(super) fn take_all(&mut self) -> (u64, Vec<PriorityLevel>) {
        let levels = self.levels.iter_mut();
        let removed = levels.map(|level| level.take_all(&self.budget)).collect();
        self.bytes = 0;
        self.transient = MessageTotals::default();
        self.transient_bytes.clear();
        (std::mem::take(&mut self.ready), removed)
    }

    /// Peeks behind a position: for each level, highest first, the next `count` messages in memory
    /// and the position of the first message that is only in the store.
    pub(crate) fn browsed_parts(
        &self,
        after: Option<QueuePosition>,
        count: usize,
    ) -> Vec<BrowsedPart> {
        let top = after.map_or(self.max_priority(), |after| after.level);
        let mut missing = count;
        let mut found = Vec::new();
        for number in (0..=top.min(self.max_priority())).rev() {
            if missing == 0 {
                break;
            }
            let from = match after {
                Some(after) if after.level == number => after.position.saturating_add(1),
                _ => 0,
            };
            let level = &self.levels[usize::from(number)];
            let part = level.browsed_part(number, from, missing);
            if part.gap.is_none() {
                missing = missing.saturating_sub(part.seen.len());
            }
            found.push(part);
        }
        found
    }
}
