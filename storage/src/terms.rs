//! The words that the store and its caller share: numbers, what is told, what is chosen, what was found. No behaviour.
//!
//! Relies on nothing but the errors.

use crate::error::Stopped;

/// A queue's number: chosen by the broker, never used for another queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// A message's number within its queue: chosen by the broker, strictly rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// A point in the store's log: what was done under it is durable once [`durable`](crate::Store::durable) has reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// Always durable.
    pub const NONE: Self = Self(0);

    /// The ticket as a number that rises in the same order, for logs.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// How soon an appended message has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits: with the next commit, which begins as soon as the one before it is over.
    Confirmed,
    /// Nobody waits: within about 10 ms and a sync, so that a consumer that keeps up takes it off before.
    Eventually,
}

/// What became of a settled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was not on disk and never will be. Its publisher may be told at once that it is safe, unless it lives on
    /// elsewhere (a dead letter): then the ticket of that other message is the one to wait for.
    Elided,
    /// It is on disk, or about to be; it does not come back once this ticket is durable.
    Recorded(Ticket),
}

/// What the store tells of its own accord.
///
/// Called from the store's thread and, for `Backlogged` and `Drained`, from within the call that crossed the limit, whatever locks
/// that caller holds: note it down and return, and call nothing of the store's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Everything up to this ticket is durable.
    Durable(Ticket),
    /// The pending bytes have reached their limit: stop reading from publishers of persistent messages.
    Backlogged,
    /// They are down to half of it again.
    Drained,
    /// The disk is nearly full: commits wait, nothing is lost.
    NoRoom,
    /// There is room again, and commits go on.
    Room,
    /// Nothing more is promised.
    Stopped(Stopped),
}

/// What can be chosen about a store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes that the engine may keep in its cache. 16 MiB.
    pub cache_bytes: u64,
    /// Bytes of messages that may wait for their commit before [`Progress::Backlogged`]. 16 MiB.
    pub pending_limit_bytes: usize,
    /// Bytes that must be free on the disk for commits to go on. 64 MiB.
    pub least_free_bytes: u64,
    /// Bytes on the disk from which rows that are mostly dead are copied to a new place. 64 MiB.
    pub compact_from_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            pending_limit_bytes: 16 << 20,
            least_free_bytes: 64 << 20,
            compact_from_bytes: 64 << 20,
        }
    }
}

/// One queue as it was found. No body was read for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which queue.
    pub queue: QueueId,
    /// No live message has a lower sequence.
    pub first: Sequence,
    /// The first sequence that was never used.
    pub next: Sequence,
    /// How many messages are alive.
    pub ready: u64,
    /// The bytes that they hold.
    pub bytes: u64,
    /// Everything up to here may have been delivered before.
    pub delivered: Option<Sequence>,
}

/// What was done to a folder to open it, a line each, for the log. Empty after a clean stop, and after most others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Repairs, in their order.
    pub repairs: Vec<String>,
    /// What could not be read and was left out; it was kept on disk.
    pub losses: Vec<String>,
}
