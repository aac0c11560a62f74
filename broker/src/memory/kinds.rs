//! What lives until somebody deletes it: exchanges, queues and bindings, consumers, channels. Each
//! kind has a part of the limit that it may fill.
//!
//! No waiting frees them as it frees messages. Without a bound of their own, whoever may declare or
//! consume would fill the account for good and publishers would wait for ever. What the store
//! brings back at a start is counted and never refused.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Charge, MIB, part};

/// A part of the limit.
#[derive(Debug)]
pub(crate) struct KindShare {
    held: AtomicUsize,
    /// It is the limit divided by this, at least four mebibytes.
    divisor: u64,
}

/// Exchanges, queues and bindings.
pub(crate) static TOPOLOGY: KindShare = KindShare::new(8);
/// Consumers.
pub(crate) static CONSUMERS: KindShare = KindShare::new(16);
/// Channels.
pub(crate) static CHANNELS: KindShare = KindShare::new(16);

impl KindShare {
    const fn new(divisor: u64) -> Self {
        Self {
            held: AtomicUsize::new(0),
            divisor,
        }
    }

    /// What all of its kind together may hold, in bytes.
    pub(crate) fn share(&self) -> usize {
        part(self.divisor, 4 * MIB, usize::MAX)
    }

    /// Whether `bytes` more of its kind are within the share.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.held.load(Relaxed).saturating_add(bytes) <= self.share()
    }

    /// Charges one of its kind.
    pub(crate) fn charge(&'static self, bytes: usize) -> PoolCharge {
        self.held.fetch_add(bytes, Relaxed);
        let mut charge = Charge::default();
        charge.set(bytes);
        PoolCharge { pool: self, charge }
    }
}

/// Bytes of a pool, and on the account; released when this is dropped.
#[derive(Debug)]
pub(crate) struct PoolCharge {
    pool: &'static KindShare,
    charge: Charge,
}

impl Drop for PoolCharge {
    fn drop(&mut self) {
        self.pool.held.fetch_sub(self.charge.bytes(), Relaxed);
    }
}
