//! How callers wake the committer: one number that says how soon it is wanted.
//!
//! Raising it when it is high enough already costs one load, so a busy publisher rings once a group. Relies on nothing.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How soon a commit is wanted, from never to at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Demand {
    /// Nothing waits.
    Never = 0,
    /// Settlements wait: within 50 ms.
    Later = 1,
    /// Unconfirmed messages wait, or a queue was drained: after the gather window of 5 ms.
    Soon = 2,
    /// Somebody waits for the disk.
    Now = 3,
    /// The store is being closed.
    Close = 4,
}

impl Demand {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Never,
            1 => Self::Later,
            2 => Self::Soon,
            3 => Self::Now,
            _ => Self::Close,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Bell {
    demand: AtomicU8,
    closing: std::sync::atomic::AtomicBool,
    lock: Mutex<()>,
    ring: Condvar,
}

impl Bell {
    /// Asks for a commit at least so soon.
    pub(crate) fn raise(&self, demand: Demand) {
        if self.demand.load(Ordering::Acquire) < demand as u8
            && self.demand.fetch_max(demand as u8, Ordering::AcqRel) < demand as u8
        {
            let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.ring.notify_one();
        }
    }

    /// Asks the committer to end after one last commit.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.raise(Demand::Close);
    }

    /// Takes note of all demands so far. Called under the locks of all shards.
    pub(crate) fn answer(&self) -> Demand {
        Demand::from_number(self.demand.swap(Demand::Never as u8, Ordering::AcqRel))
    }

    pub(crate) fn demand(&self) -> Demand {
        if self.closing.load(Ordering::Acquire) {
            return Demand::Close;
        }
        Demand::from_number(self.demand.load(Ordering::Acquire))
    }

    /// Waits until the demand is higher than `than`, or until the time.
    pub(crate) fn wait(&self, than: Demand, until: Instant) -> Demand {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let demand = self.demand();
            let left = until.saturating_duration_since(Instant::now());
            if demand > than || left.is_zero() {
                return demand;
            }
            lock = self
                .ring
                .wait_timeout(lock, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for a while, shorter only when the store is being closed.
    pub(crate) fn rest(&self, length: Duration) -> Demand {
        self.wait(Demand::Now, Instant::now() + length)
    }
}
