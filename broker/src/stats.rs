//! Counters. Depends on nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows. One writer at a time adds to it, and any thread reads it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Adds `count` without an atomic read-modify-write. Only one task may write to this counter.
    pub(crate) fn add_alone(&self, count: u64) {
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
    }

    /// Makes it at least `number`.
    pub(crate) fn raise_to(&self, number: u64) {
        if number > self.get() {
            self.0.fetch_max(number, Relaxed);
        }
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Totals since the broker started.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Totals {
    pub connections_opened: Counter,
    pub connections_closed: Counter,
    pub channels_opened: Counter,
    pub channels_closed: Counter,
    pub queues_declared: Counter,
    pub queues_deleted: Counter,
    pub logins_refused: Counter,
    /// The most work that was done in one unit of work, in steps like one delivery.
    pub longest_work_unit: Counter,
    /// The sums of all closed channels.
    pub closed_channels: ChannelCounters,
}

/// Counters of one exchange.
#[derive(Debug, Default)]
pub struct ExchangeCounters {
    /// Messages published to it.
    pub published: Counter,
    /// Copies of them routed to queues.
    pub routed: Counter,
}

/// Counters of one channel. Only its connection's reader writes them, except for `confirmed`.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ChannelCounters {
    pub published: Counter,
    pub confirmed: Counter,
    pub returned: Counter,
    pub settled: Counter,
    pub got: Counter,
}

impl ChannelCounters {
    /// Adds the counters of a channel that is closing.
    pub(crate) fn absorb(&self, other: &Self) {
        for (total, count) in self.each().into_iter().zip(other.each()) {
            total.add(count.get());
        }
    }

    fn each(&self) -> [&Counter; 5] {
        [
            &self.published,
            &self.confirmed,
            &self.returned,
            &self.settled,
            &self.got,
        ]
    }
}
