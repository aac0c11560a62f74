//! Tags and open deliveries of one channel. Relies on `queue` for what is delivered.
//!
//! Queues open deliveries from any thread, the channel's reader settles them; both under one lock, which is held while a
//! delivery's bytes go to the outbox so that tags leave in rising order.
//!
//! # Cost
//! A delivery is pushed at the back and mostly taken from the front; one in the middle is found by its tag.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::lock::lock;
use crate::queue::Queue;
use crate::queue::consumer::Consumer;
use crate::queue::line::Entry;

/// One message in a client's hands.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) entry: Entry,
    /// None for `basic.get`.
    pub(crate) consumer: Option<Arc<Consumer>>,
}

/// No delivery with this tag is open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownTag(pub(crate) u64);

/// The open deliveries of a channel.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    open: Mutex<Open>,
    /// `basic.qos` with `global`: unsettled deliveries that all consumers together may have, 0 for any number.
    limit: AtomicU32,
    used: AtomicU32,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(crate) struct Open {
    last_tag: u64,
    /// Rising tags.
    deliveries: VecDeque<Delivery>,
    used: u32,
}

impl Open {
    /// A tag for a delivery that nobody will settle.
    pub(crate) fn skip(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// A tag for a delivery that must be settled.
    pub(crate) fn open(
        &mut self,
        queue: &Arc<Queue>,
        entry: Entry,
        consumer: Option<&Arc<Consumer>>,
    ) -> u64 {
        self.last_tag += 1;
        if consumer.is_some() {
            self.used += 1;
        }
        self.deliveries.push_back(Delivery {
            tag: self.last_tag,
            queue: Arc::clone(queue),
            entry,
            consumer: consumer.cloned(),
        });
        self.last_tag
    }
}

impl Ledger {
    /// Runs `with` under the lock.
    pub(crate) fn opening<R>(&self, with: impl FnOnce(&mut Open) -> R) -> R {
        let mut open = lock(&self.open);
        let result = with(&mut open);
        self.used.store(open.used, Relaxed);
        result
    }

    /// True while the channel as a whole may be given more.
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

    /// Takes the deliveries that an ack, nack or reject names; with `UpTo(0)` all of them.
    pub(crate) fn take(
        &self,
        which: Which,
        credit: Credit,
        into: &mut Vec<Delivery>,
    ) -> Result<(), UnknownTag> {
        let mut open = lock(&self.open);
        let start = into.len();
        match which {
            Which::UpTo(0) => into.extend(open.deliveries.drain(..)),
            Which::One(tag) | Which::UpTo(tag) => {
                let at = position(&open.deliveries, tag).ok_or(UnknownTag(tag))?;
                if matches!(which, Which::UpTo(_)) {
                    into.extend(open.deliveries.drain(..=at));
                } else if at == 0 {
                    into.extend(open.deliveries.pop_front());
                } else {
                    into.extend(open.deliveries.remove(at));
                }
            }
        }
        if credit == Credit::Now {
            open.used -= credit_consumers(&into[start..]);
            self.used.store(open.used, Relaxed);
        }
        Ok(())
    }

    /// Gives back what all consumers of the channel share, for so many deliveries that were taken with [`Credit::Later`].
    pub(crate) fn repay(&self, settled: u32) {
        self.opening(|open| open.used -= settled);
    }

    /// Deliveries that a rolled-back transaction gives back to the channel.
    pub(crate) fn put_back(&self, deliveries: Vec<Delivery>) {
        self.opening(|open| {
            for delivery in deliveries {
                let at = open
                    .deliveries
                    .partition_point(|other| other.tag < delivery.tag);
                open.deliveries.insert(at, delivery);
            }
        });
    }

    /// Number of open deliveries.
    pub(crate) fn len(&self) -> usize {
        lock(&self.open).deliveries.len()
    }
}

/// When settled deliveries make room for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credit {
    Now,
    /// When whoever took them says so: at the commit, or after the queues have taken them back.
    Later,
}

/// Gives every consumer of these its own credit back; how many of them consumers had.
pub(crate) fn credit_consumers(deliveries: &[Delivery]) -> u32 {
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
    /// This one and all before it.
    UpTo(u64),
}

fn position(deliveries: &VecDeque<Delivery>, tag: u64) -> Option<usize> {
    if deliveries.front()?.tag == tag {
        return Some(0);
    }
    deliveries
        .binary_search_by_key(&tag, |delivery| delivery.tag)
        .ok()
}
