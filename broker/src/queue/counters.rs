//! The counters of a queue, and its snapshot for listings. Depends on nothing.

/// Counted since the broker started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub published: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub got: u64,
    pub acked: u64,
    pub rejected: u64,
    pub requeued: u64,
    pub expired: u64,
    pub dropped: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.got += other.got;
        self.acked += other.acked;
        self.rejected += other.rejected;
        self.requeued += other.requeued;
        self.expired += other.expired;
        self.dropped += other.dropped;
    }
}

/// A queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct QueueSnapshot {
    pub ready: u64,
    pub unsettled: u64,
    pub ready_bytes: u64,
    pub unsettled_bytes: u64,
    /// Ready and unsettled messages that are for the store, and their bodies.
    pub persistent: u64,
    pub persistent_bytes: u64,
    /// How long messages have waited because no consumer took them.
    pub stalled_ms: u64,
    pub consumers: usize,
    pub counters: Counters,
}
