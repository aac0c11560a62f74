//! The unsettled deliveries and delivery tags of one channel. Depends on `queue` for the messages.
//!
//! Queues add deliveries from any thread, and the channel's reader settles them, both under one
//! lock. The lock is also held while a delivery's frames are appended to the outbox, so that tags
//! are sent in ascending order.
//!
//! # Cost
//! A delivery is added at the back and usually taken from the front. One in the middle is found by
//! binary search.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::lock::lock;
use crate::memory::{self, ConnectionHoldings, HoldingKind};
use crate::queue::Queue;
use crate::queue::consumer::Consumer;
use crate::queue::queued::QueuedMessage;

/// One delivered message that is not settled.
#[derive(Debug)]
pub(crate) struct UnsettledDelivery {
    pub(crate) tag: u64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) entry: QueuedMessage,
    /// `None` for `basic.get`.
    pub(crate) consumer: Option<Arc<Consumer>>,
}

/// The channel has no unsettled delivery with this tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownTag(pub(crate) u64);

/// The unsettled deliveries of a channel.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    open: Mutex<OpenDeliveries>,
    /// The prefetch count of `basic.qos` with `global`: how many unsettled deliveries all consumers
    /// of the channel may have together. 0 for no limit.
    limit: AtomicU32,
    used: AtomicU32,
    /// What the connection holds, of which this channel's unsettled deliveries are a part.
    holdings: Arc<ConnectionHoldings>,
}

/// The state behind the lock.
#[derive(Debug, Default)]
pub(crate) struct OpenDeliveries {
    last_tag: u64,
    /// Ordered by ascending tag.
    deliveries: VecDeque<UnsettledDelivery>,
    used: u32,
    /// What `deliveries` hold, and how much of it is counted in the holdings of the connection.
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
        self.deliveries.push_back(UnsettledDelivery {
            tag: self.last_tag,
            queue: Arc::clone(queue),
            entry,
            consumer: consumer.cloned(),
        });
        self.last_tag
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

    /// Whether memory is short and the connection must settle before it gets more.
    pub(crate) fn is_held(&self) -> bool {
        memory::is_short()
            && self.holdings.bytes(HoldingKind::Unsettled) >= memory::unsettled_room()
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
    /// means all.
    pub(crate) fn take(
        &self,
        which: Which,
        credit: Credit,
        most: usize,
        into: &mut Vec<UnsettledDelivery>,
    ) -> Result<TakenDeliveries, UnknownTag> {
        let mut open = lock(&self.open);
        let start = into.len();
        let (mut rest, mut moved) = (None, 0);
        match which {
            Which::One(tag) => {
                let at = position(&open.deliveries, tag).ok_or(UnknownTag(tag))?;
                if at == 0 {
                    into.extend(open.deliveries.pop_front());
                } else {
                    moved = at.min(open.deliveries.len() - at);
                    into.extend(open.deliveries.remove(at));
                }
            }
            Which::UpTo(tag) => {
                let count = match tag {
                    0 => open.deliveries.len(),
                    tag => position(&open.deliveries, tag).ok_or(UnknownTag(tag))? + 1,
                };
                if count > most {
                    let last = open.deliveries.get(count - 1);
                    rest = last.map(|last| Which::UpTo(last.tag));
                }
                into.extend(open.deliveries.drain(..count.min(most)));
            }
        }
        memory::give_back_room(&mut open.deliveries);
        let taken = into[start..].iter().map(|taken| taken.entry.footprint());
        open.bytes = open.bytes.saturating_sub(taken.sum());
        self.report(&mut open);
        if credit == Credit::Now {
            open.used -= credit_consumers(&into[start..]);
            self.used.store(open.used, Relaxed);
        }
        Ok(TakenDeliveries { rest, moved })
    }

    /// Returns the channel-wide credit for `settled` deliveries that were taken with
    /// [`Credit::Later`].
    pub(crate) fn repay(&self, settled: u32) {
        self.with_deliveries(|open| open.used -= settled);
    }

    /// Restores the deliveries of a rolled-back transaction.
    pub(crate) fn put_back(&self, deliveries: Vec<UnsettledDelivery>) {
        self.with_deliveries(|open| {
            let footprints = deliveries.iter().map(|delivery| delivery.entry.footprint());
            open.bytes += footprints.sum::<usize>();
            open.deliveries.extend(deliveries);
            // Two ascending runs, which this sort merges.
            let all = open.deliveries.make_contiguous();
            all.sort_by_key(|delivery| delivery.tag);
        });
    }

    /// Returns the number of unsettled deliveries.
    pub(crate) fn len(&self) -> usize {
        lock(&self.open).deliveries.len()
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

/// Which deliveries a method settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    One(u64),
    /// This tag and all before it.
    UpTo(u64),
}

/// The result of [`Ledger::take`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TakenDeliveries {
    /// What was named and not taken.
    pub(crate) rest: Option<Which>,
    /// How many other deliveries had to be moved.
    pub(crate) moved: usize,
}

fn position(deliveries: &VecDeque<UnsettledDelivery>, tag: u64) -> Option<usize> {
    if deliveries.front()?.tag == tag {
        return Some(0);
    }
    deliveries
        .binary_search_by_key(&tag, |delivery| delivery.tag)
        .ok()
}
