//! Ready messages in order, most of a long line's bodies left in the store. Relies on `message` and
//! `persist` (tickets).
//!
//! Each priority is a level; a level is, from its head on: messages that came back, a window in
//! memory, and a gap whose messages lie in the store alone, followed by transient messages that
//! arrived since the gap opened. A gap is closed slice by slice, by reads that happen without the
//! queue's lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::amount::Amount;
use super::browse::QueuePosition;
use super::message::Message;
use crate::delivery::confirms::Confirms;
use crate::memory::{self, EntryCharge};
use crate::persist::{Urgency, WindowBudget};

/// Bodies kept in memory per level; beyond it persistent messages are left to the store.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Below this the next slice is read before anybody waits for it.
const REFILL_BYTES: usize = 2 * 1024 * 1024;
/// What every level may keep, however little is left for all.
const LEAST_BYTES: usize = 64 * 1024;
/// What an entry takes beside its bytes.
const ENTRY_BYTES: usize = 96;

/// Room for entries that an empty level keeps.
const KEPT_ENTRIES: usize = 4096;

/// One place in a line.
#[derive(Debug)]
pub(crate) struct QueuedMessage {
    pub(crate) position: u64,
    pub(crate) message: Message,
    pub(crate) level: u8,
    pub(crate) redelivered: bool,
    pub(crate) persistence: Persistence,
    /// The publisher's open confirm, released early when this message is settled before its commit.
    pub(crate) confirm: Option<(Arc<Confirms>, u64)>,
    pub(crate) _charge: EntryCharge,
}

/// What the store has to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Transient message or queue.
    Transient,
    /// To be appended unless it is consumed at once.
    ToAppend(Urgency),
    Appended,
}

impl QueuedMessage {
    /// What it takes in memory.
    pub(crate) fn footprint(&self) -> usize {
        self.message.footprint() + ENTRY_BYTES
    }

    /// The store has it not and will not have it.
    pub(crate) fn is_transient(&self) -> bool {
        self.persistence == Persistence::Transient
    }

    fn waiting(&self) -> (u64, (Message, bool)) {
        (self.position, (self.message.clone(), self.redelivered))
    }
}

/// A part of a level, looked at.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) level: u8,
    /// By position: the message, and whether it was handed out before.
    pub(crate) seen: BTreeMap<u64, (Message, bool)>,
    /// From here on the store has messages that are not in memory.
    pub(crate) gap: Option<u64>,
}

/// Messages that are in the store only.
#[derive(Debug, Default)]
struct Gap {
    count: u64,
    bytes: u64,
    /// Where the next slice begins.
    next: u64,
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

/// How much a load from the store is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadNeed {
    /// Somebody waits for the next message.
    Now,
    /// The line is running out of messages in memory.
    Soon,
}

/// Whether memory is not plenty, or the windows of all queues together are as large as they may be.
fn is_scarce(budget: &WindowBudget) -> bool {
    budget.is_spent() || memory::level() > memory::MemoryLevel::Calm
}

#[derive(Debug, Default)]
struct PriorityLevel {
    returned: BTreeMap<u64, QueuedMessage>,
    head: VecDeque<QueuedMessage>,
    head_bytes: usize,
    /// What the budget was last told of `head_bytes`.
    reported_bytes: usize,
    gap: Gap,
    tail: VecDeque<QueuedMessage>,
}

/// What stands at the head of the line.
pub(crate) enum Head<'a> {
    QueuedMessage(&'a QueuedMessage),
    /// The next message lies in the store and is being read, or should be.
    InStore,
    Empty,
}

impl PriorityLevel {
    fn count(&self) -> u64 {
        (self.returned.len() + self.head.len() + self.tail.len()) as u64 + self.gap.count
    }

    fn front(&self) -> Head<'_> {
        let returned = self.returned.first_key_value().map(|(_, entry)| entry);
        match (returned, self.head.front()) {
            (Some(returned), Some(head)) => {
                Head::QueuedMessage(if returned.position < head.position {
                    returned
                } else {
                    head
                })
            }
            (Some(entry), None) | (None, Some(entry)) => Head::QueuedMessage(entry),
            (None, None) if self.gap.count > 0 => Head::InStore,
            (None, None) => Head::Empty,
        }
    }

    fn pop(&mut self) -> Option<QueuedMessage> {
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
        if self.head.is_empty() && self.head.capacity() > KEPT_ENTRIES {
            self.head = VecDeque::new();
        }
        Some(entry)
    }

    /// `keep_in_memory`: there are consumers, or it must be known when the message expires.
    fn push(&mut self, entry: QueuedMessage, keep_in_memory: bool, budget: &WindowBudget) {
        let is_kept = entry.persistence == Persistence::Appended;
        let is_full = self.head_bytes >= WINDOW_BYTES
            || (self.head_bytes >= LEAST_BYTES && budget.is_spent())
            || (!keep_in_memory && is_scarce(budget));
        if is_kept && (self.gap.count > 0 || is_full) {
            if self.gap.count == 0 {
                self.gap.next = entry.position;
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

    /// Leaves what is in memory to the store, but for a head of [`LEAST_BYTES`], where the store
    /// has all of it. Returns the last position of it that a client has had.
    fn unload(&mut self) -> Option<u64> {
        let is_kept = |entry: &QueuedMessage| entry.persistence == Persistence::Appended;
        let in_memory = self.returned.values().chain(&self.head);
        let bytes: usize = in_memory.clone().map(QueuedMessage::footprint).sum();
        if bytes <= 2 * LEAST_BYTES || !in_memory.clone().all(is_kept) {
            return None;
        }
        let mut all: Vec<_> = std::mem::take(&mut self.returned).into_values().collect();
        all.extend(std::mem::take(&mut self.head));
        all.sort_unstable_by_key(|entry| entry.position);
        self.head_bytes = 0;
        let mut kept = 0;
        while self.head_bytes < LEAST_BYTES && kept < all.len() {
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
        self.gap.count += dropped.len() as u64;
        self.gap.bytes += dropped
            .iter()
            .map(|entry| entry.message.body_len() as u64)
            .sum::<u64>();
        let given_back = dropped.iter().filter(|entry| entry.redelivered);
        given_back.map(|entry| entry.position).max()
    }

    fn report(&mut self, budget: &WindowBudget) {
        budget.report(&mut self.reported_bytes, self.head_bytes);
    }

    fn wants(&mut self, level: u8, need: LoadNeed, budget: &WindowBudget) -> Option<LoadRequest> {
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

    /// Gives how many messages were counted and are not in the store.
    fn fill(&mut self, slice: Vec<QueuedMessage>) -> u64 {
        self.gap.is_loading = false;
        let mut missing = 0;
        if slice.is_empty() {
            // The store has nothing after all: the count was wrong, and waiting for it would stall
            // the line.
            missing = std::mem::take(&mut self.gap.count);
            self.gap.bytes = 0;
        }
        for entry in slice {
            self.gap.next = entry.position + 1;
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
            self.gap.bytes = 0;
            self.move_tail(u64::MAX);
        }
        missing
    }

    fn stretch(&self, level: u8, from: u64, count: usize) -> Stretch {
        let in_order = |ready: &VecDeque<QueuedMessage>| {
            let start = ready.partition_point(|entry| entry.position < from);
            let part = ready.range(start..).take(count).map(QueuedMessage::waiting);
            part.collect::<Vec<_>>()
        };
        let mut seen: BTreeMap<_, _> = in_order(&self.head).into_iter().collect();
        seen.extend(in_order(&self.tail));
        let returned = self.returned.range(from..).take(count);
        seen.extend(returned.map(|(_, entry)| entry.waiting()));
        Stretch {
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
    }
}

/// The ready messages of one queue.
#[derive(Debug)]
pub(crate) struct ReadyMessages {
    /// Index is the priority.
    levels: Box<[PriorityLevel]>,
    ready: u64,
    /// Bodies of all ready messages.
    bytes: u64,
    /// Those of them that are not for the store.
    transient: Amount,
    budget: Arc<WindowBudget>,
}

impl ReadyMessages {
    /// A line with the priorities 0 to `max_priority`.
    pub(crate) fn new(max_priority: u8, budget: Arc<WindowBudget>) -> Self {
        Self {
            levels: (0..=max_priority)
                .map(|_| PriorityLevel::default())
                .collect(),
            ready: 0,
            bytes: 0,
            transient: Amount::default(),
            budget,
        }
    }

    /// Highest priority that the line tells apart.
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
        let gap = &mut self.levels[usize::from(level)].gap;
        (gap.next, gap.count, gap.bytes) = (first, count, bytes);
        self.ready += count;
        self.bytes += bytes;
    }

    /// Ready messages that are not for the store.
    pub(crate) fn transient(&self) -> Amount {
        self.transient
    }

    fn note_in(&mut self, entry: &QueuedMessage) {
        self.ready += 1;
        self.bytes += entry.message.body_len() as u64;
        if entry.is_transient() {
            self.transient.add(entry);
        }
    }

    fn note_out(&mut self, entry: &QueuedMessage) {
        self.ready -= 1;
        self.bytes = self.bytes.saturating_sub(entry.message.body_len() as u64);
        if entry.is_transient() {
            self.transient.take(entry);
        }
    }

    /// True while memory is not plenty.
    pub(super) fn is_scarce(&self) -> bool {
        is_scarce(&self.budget)
    }

    /// [`PriorityLevel::unload`] of one level.
    pub(super) fn unload(&mut self, level: u8) -> Option<u64> {
        let level = self.levels.get_mut(usize::from(level))?;
        let given_back = level.unload();
        level.report(&self.budget);
        given_back
    }

    /// Adds a message at the end. One that nobody awaits is left to the store while memory is not
    /// plenty: many queues with one message each would hold much.
    pub(crate) fn push(&mut self, entry: QueuedMessage, keep_in_memory: bool) {
        self.note_in(&entry);
        let level = &mut self.levels[usize::from(entry.level)];
        level.push(entry, keep_in_memory, &self.budget);
        level.report(&self.budget);
    }

    /// Puts a message back at its place.
    pub(crate) fn give_back(&mut self, entry: QueuedMessage) {
        self.note_in(&entry);
        self.levels[usize::from(entry.level)]
            .returned
            .insert(entry.position, entry);
    }

    /// The next message of the highest priority that has one.
    pub(crate) fn head(&self) -> Head<'_> {
        for level in self.levels.iter().rev() {
            match level.front() {
                Head::Empty => {}
                head => return head,
            }
        }
        Head::Empty
    }

    pub(crate) fn pop(&mut self) -> Option<QueuedMessage> {
        let level = self
            .levels
            .iter_mut()
            .rev()
            .find(|level| level.count() > 0)?;
        let entry = level.pop()?;
        level.report(&self.budget);
        self.note_out(&entry);
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
                Head::QueuedMessage(entry) => is_due(entry),
                Head::InStore | Head::Empty => false,
            })?;
        let entry = level.pop()?;
        level.report(&self.budget);
        self.note_out(&entry);
        Some(entry)
    }

    /// The newest message in memory when it still waits for the store.
    pub(crate) fn last_due(&mut self, level: u8) -> Option<&mut QueuedMessage> {
        let level = &mut self.levels[usize::from(level)];
        level
            .head
            .back_mut()
            .filter(|entry| matches!(entry.persistence, Persistence::ToAppend(_)))
    }

    /// The heads of all levels, as far as they are in memory.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &QueuedMessage> {
        self.levels.iter().filter_map(|level| match level.front() {
            Head::QueuedMessage(entry) => Some(entry),
            Head::InStore | Head::Empty => None,
        })
    }

    /// Reads that should be made now; each level has at most one under way.
    pub(crate) fn wanted(&mut self, need: LoadNeed) -> Option<LoadRequest> {
        let budget = &*self.budget;
        let top = self.max_priority();
        let levels = self.levels.iter_mut().rev();
        let mut numbered = (0..=top).rev().zip(levels);
        numbered.find_map(|(number, level)| level.wants(number, need, budget))
    }

    /// True when some level has messages that only the store holds.
    pub(crate) fn has_gap(&self) -> bool {
        self.levels.iter().any(|level| level.gap.count > 0)
    }

    /// Takes what a read brought; None when it is no longer wanted, else how many messages turned
    /// out to be missing.
    pub(crate) fn fill(&mut self, wanted: LoadRequest, slice: Vec<QueuedMessage>) -> Option<u64> {
        let level = &mut self.levels[usize::from(wanted.level)];
        if level.gap.epoch != wanted.epoch {
            return None;
        }
        let before = level.count();
        let missing = level.fill(slice);
        level.report(&self.budget);
        self.ready = self.ready - before + level.count();
        Some(missing)
    }

    /// What a read should bring now that its turn has come, which may be less than it was.
    pub(crate) fn narrowed(&self, wanted: LoadRequest) -> LoadRequest {
        let most = if is_scarce(&self.budget) {
            LEAST_BYTES
        } else {
            usize::MAX
        };
        LoadRequest {
            limit_bytes: wanted.limit_bytes.min(most),
            ..wanted
        }
    }

    /// A read failed or is not made; another may be.
    pub(crate) fn load_failed(&mut self, wanted: LoadRequest) {
        let gap = &mut self.levels[usize::from(wanted.level)].gap;
        if gap.epoch == wanted.epoch {
            gap.is_loading = false;
        }
    }

    /// Levels with messages that only the store holds, and where those begin. Behind them a level
    /// has none in memory that the store has too.
    pub(crate) fn gaps(&self) -> Vec<(u8, u64)> {
        let gaps = (0u8..)
            .zip(&self.levels)
            .filter(|(_, level)| level.gap.count > 0);
        gaps.map(|(number, level)| (number, level.gap.next))
            .collect()
    }

    /// Empties the line: how many messages went, and those of them that were in memory.
    pub(crate) fn clear(&mut self) -> (u64, Vec<QueuedMessage>) {
        let mut entries = Vec::new();
        for level in &mut self.levels {
            let epoch = level.gap.epoch + 1;
            level.head_bytes = 0;
            level.report(&self.budget);
            let old = std::mem::take(level);
            level.gap.epoch = epoch;
            entries.extend(old.returned.into_values().chain(old.head).chain(old.tail));
        }
        self.bytes = 0;
        self.transient = Amount::default();
        (std::mem::take(&mut self.ready), entries)
    }

    /// What stands behind a place, without taking it: of each level, from the highest on, the next
    /// `count` messages in memory and where those begin that only the store holds.
    pub(crate) fn stretches(&self, after: Option<QueuePosition>, count: usize) -> Vec<Stretch> {
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
            let stretch = level.stretch(number, from, missing);
            if stretch.gap.is_none() {
                missing = missing.saturating_sub(stretch.seen.len());
            }
            found.push(stretch);
        }
        found
    }
}
