//! Counters without formatting. Relies on nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows. One writer at a time adds to it, everybody reads it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Adds `count` without a locked instruction; only where a single task writes.
    pub(crate) fn add_alone(&self, count: u64) {
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What happened since the broker started.
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
}

/// What one channel did. Written by its connection's reader alone.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ChannelCounters {
    pub published: Counter,
    pub confirmed: Counter,
    pub returned: Counter,
    pub settled: Counter,
    pub got: Counter,
}
