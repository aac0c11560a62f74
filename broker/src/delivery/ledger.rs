//! The unsettled deliveries and delivery tags of one channel. Depends on `queue` for the messages.
//!
//! Queues add deliveries from any thread, and the channel's reader settles them, both under one
//! lock. The lock is also held while a delivery's frames are appended to the outbox, so that tags
//! are sent in ascending order.
//!
//! # Cost
//! A delivery is added at the back and usually taken from the front. One in the middle is found by
//! binary search and leaves its place empty; when most places are empty, the others close up. So
//! clients that settle in any order pay the same for each delivery.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::delivery::effects::Effects;
use crate::lock::lock;
use crate::memory::{self, ConnectionHoldings, HoldingKind};
use crate::queue::Queue;
use crate::queue::consumer::Consumer;
use crate::queue::queued::QueuedMessage;

/// How many slots are moved for one step.
const MOVED_A_STEP: usize = 16;

/// One delivered message that is not settled.
#[derive(Debug)]
pub(crate) struct UnsettledDelivery {
    pub(crate) tag: u64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) entry: QueuedMessage,
    /// `None` for `basic.get`.
    pub(crate) consumer: Option<Arc<Consumer>>,
}

/// A place in the order of tags.
#[derive(Debug)]
enum Slot {
    Open(UnsettledDelivery),
    /// The delivery with this tag was taken from between others.
    Empty(u64),
}

impl Slot {
    fn tag(&self) -> u64 {
        match self {
            Self::Open(delivery) => delivery.tag,
            Self::Empty(tag) => *tag,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn into_delivery(self) -> Option<UnsettledDelivery> {
        match self {
            Self::Open(delivery) => Some(delivery),
            Self::Empty(_) => None,
        }
    }
}

/// The channel has no unsettled delivery with this tag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown delivery tag {0}")]
pub(crate) struct UnknownTag(pub(crate) u64);

/// The unsettled deliveries of a channel.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    open: Mutex<OpenDeliveries>,
    /// The prefetch count of `basic.qos` with `global`: how many unsettled deliveries all consumers
    /// of the channel may have together. 0 for no limit.
    limit: AtomicU32,
    used: AtomicU32,
    /// The memory that the connection holds; this channel's unsettled deliveries are part of it.
    holdings: Arc<ConnectionHoldings>,
}

/// The state behind the lock.
#[derive(Debug, Default)]
pub(crate) struct OpenDeliveries {
    last_tag: u64,
    /// Ordered by ascending tag. The first and the last are open.
    slots: VecDeque<Slot>,
    /// How many slots are open.
    count: usize,
    used: u32,
    /// The bytes of the deliveries, and how many of them are reported to the connection's holdings.
    bytes: usize,
    reported_bytes: usize,
}

impl OpenDeliveries {
    /// Returns a tag for a delivery without acknowledgement.
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Adds a delivery that must be settled and returns its tag.
    pub(crate) fn add(
        &mut self,
        queue: &Arc<Queue>,
        entry: QueuedMessage,
        consumer: Option<&Arc<Consumer>>,
    ) -> u64 {
        self.last_tag += 1;
        if consumer.is_some() {
            self.used += 1;
        }
        self.bytes += entry.footprint();
        self.count += 1;
        self.slots.push_back(Slot::Open(UnsettledDelivery {
            tag: self.last_tag,
            queue: Arc::clone(queue),
            entry,
            consumer: consumer.cloned(),
        }));
        self.last_tag
    }

    /// Index of the open slot with this tag.
    fn position(&self, tag: u64) -> Result<usize, UnknownTag> {
        if self.slots.front().is_some_and(|slot| slot.tag() == tag) {
            return Ok(0);
        }
        let at = self.slots.binary_search_by_key(&tag, Slot::tag);
        let open = at.ok().filter(|at| self.slots[*at].is_open());
        open.ok_or(UnknownTag(tag))
    }

    /// Takes one delivery.
    fn take_one(&mut self, tag: u64, into: &mut Vec<UnsettledDelivery>) -> Result<(), UnknownTag> {
        let at = self.position(tag)?;
        let slot = if at == 0 {
            self.slots.pop_front()
        } else {
            let slot = self.slots.get_mut(at);
            slot.map(|slot| std::mem::replace(slot, Slot::Empty(tag)))
        };
        into.extend(slot.and_then(Slot::into_delivery));
        self.count -= 1;
        self.trim_slots();
        Ok(())
    }

    /// Takes deliveries from the front up to a tag, or all for 0, out of at most `most` slots.
    /// Returns the last tag that was named when there are more.
    fn take_front(
        &mut self,
        tag: u64,
        most: usize,
        into: &mut Vec<UnsettledDelivery>,
    ) -> Result<Option<u64>, UnknownTag> {
        let named = match tag {
            0 => self.slots.len(),
            tag => self.position(tag)? + 1,
        };
        let last = self.slots.get(named.wrapping_sub(1)).map(Slot::tag);
        let before = into.len();
        let taken = self.slots.drain(..named.min(most));
        into.extend(taken.filter_map(Slot::into_delivery));
        self.count -= into.len() - before;
        self.trim_slots();
        Ok(last.filter(|_| named > most))
    }

    /// Removes empty slots at both ends, and all of them where they are more than the open ones.
    fn trim_slots(&mut self) {
        while self.slots.pop_front_if(|slot| !slot.is_open()).is_some() {}
        while self.slots.pop_back_if(|slot| !slot.is_open()).is_some() {}
        if self.slots.len() > 2 * self.count {
            self.slots.retain(Slot::is_open);
        }
        memory::give_back_room(&mut self.slots);
    }
}

impl Ledger {
    pub(crate) fn new(holdings: &Arc<ConnectionHoldings>) -> Self {
        Self {
            open: Mutex::default(),
            limit: AtomicU32::default(),
            used: AtomicU32::default(),
            holdings: Arc::clone(holdings),
        }
    }

    fn report(&self, open: &mut OpenDeliveries) {
        let OpenDeliveries {
            bytes,
            reported_bytes,
            ..
        } = open;
        self.holdings
            .report(HoldingKind::Unsettled, reported_bytes, *bytes);
    }

    /// Whether the connection must settle before it gets more, for want of memory.
    pub(crate) fn is_held(&self) -> bool {
        self.holdings.bytes(HoldingKind::Unsettled) >= memory::unsettled_room()
    }

    /// Calls `with` under the lock.
    pub(crate) fn with_deliveries<R>(&self, with: impl FnOnce(&mut OpenDeliveries) -> R) -> R {
        let mut open = lock(&self.open);
        let result = with(&mut open);
        self.used.store(open.used, Relaxed);
        self.report(&mut open);
        result
    }

    /// Whether the channel-wide prefetch limit allows another delivery.
    pub(crate) fn has_credit(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        limit == 0 || self.used.load(Relaxed) < limit
    }

    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Removes the deliveries that an ack, nack or reject names, at most `most` of them. `UpTo(0)`
    /// means all. Returns what was named and not taken.
    pub(crate) fn take(
        &self,
        tags: DeliveryTags,
        credit: Credit,
        most: usize,
        into: &mut Vec<UnsettledDelivery>,
    ) -> Result<Option<DeliveryTags>, UnknownTag> {
        let mut open = lock(&self.open);
        let start = into.len();
        let rest = match tags {
            DeliveryTags::One(tag) => {
                open.take_one(tag, into)?;
                None
            }
            DeliveryTags::UpTo(tag) => open.take_front(tag, most, into)?.map(DeliveryTags::UpTo),
        };
        let taken = into[start..].iter().map(|taken| taken.entry.footprint());
        open.bytes = open.bytes.saturating_sub(taken.sum());
        self.report(&mut open);
        if credit == Credit::Now {
            open.used -= credit_consumers(&into[start..]);
            self.used.store(open.used, Relaxed);
        }
        Ok(rest)
    }

    /// Returns the channel-wide credit for `settled` deliveries that were taken with
    /// [`Credit::Later`].
    pub(crate) fn repay(&self, settled: u32) {
        self.with_deliveries(|open| open.used -= settled);
    }

    /// Restores the deliveries of a rolled-back transaction.
    pub(crate) fn put_back(&self, deliveries: Vec<UnsettledDelivery>, effects: &mut Effects) {
        if deliveries.is_empty() {
            return;
        }
        self.with_deliveries(|open| {
            let moved = (open.slots.len() + deliveries.len()) / MOVED_A_STEP;
            effects.spend(u32::try_from(moved).unwrap_or(u32::MAX));
            let footprints = deliveries.iter().map(|delivery| delivery.entry.footprint());
            open.bytes += footprints.sum::<usize>();
            open.count += deliveries.len();
            // An empty slot may have the tag of a delivery that comes back.
            open.slots.retain(Slot::is_open);
            open.slots.extend(deliveries.into_iter().map(Slot::Open));
            // Two ascending runs, which this sort merges.
            open.slots.make_contiguous().sort_by_key(Slot::tag);
        });
    }

    /// Returns the number of unsettled deliveries.
    pub(crate) fn len(&self) -> usize {
        lock(&self.open).count
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.bytes = 0;
        self.report(&mut open);
    }
}

/// When settled deliveries return their credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credit {
    Now,
    /// On a call of [`Ledger::repay`]: after the queues have taken the settles, in a transaction at
    /// its commit.
    Later,
}

/// Returns the credit of each delivery to its consumer. Returns how many deliveries belong to
/// consumers.
pub(crate) fn credit_consumers(deliveries: &[UnsettledDelivery]) -> u32 {
    let consumers = deliveries
        .iter()
        .filter_map(|delivery| delivery.consumer.as_ref());
    consumers.fold(0, |count, consumer| {
        consumer.credit();
        count + 1
    })
}

/// The tags of the deliveries that a method settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryTags {
    One(u64),
    /// This tag and all before it.
    UpTo(u64),
}
