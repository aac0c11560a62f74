//! Limits for what lives until a client deletes it: exchanges, queues and bindings, consumers,
//! channels, connections, users and vhosts. Each kind may fill its own part of the memory limit.
//!
//! Pausing publishers frees messages, but none of these. Without a bound, a client that declares or
//! consumes could fill the account for good, and publishers would wait for ever. What the store
//! brings back at a start is counted and never refused.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Charge, MIB, part};

/// The part of the memory limit that one kind may fill.
#[derive(Debug)]
pub(crate) struct KindLimit {
    held: AtomicUsize,
    /// It is the limit divided by this, at least four mebibytes.
    divisor: u64,
}

/// Exchanges, queues and bindings.
pub(crate) static TOPOLOGY: KindLimit = KindLimit::new(8);
/// Consumers.
pub(crate) static CONSUMERS: KindLimit = KindLimit::new(16);
/// Channels.
pub(crate) static CHANNELS: KindLimit = KindLimit::new(16);
/// Connections that have logged in.
pub(crate) static CONNECTIONS: KindLimit = KindLimit::new(8);
/// Users, their permissions, and vhosts.
pub(crate) static ACCESS: KindLimit = KindLimit::new(16);

impl KindLimit {
    const fn new(divisor: u64) -> Self {
        Self {
            held: AtomicUsize::new(0),
            divisor,
        }
    }

    /// What all of its kind together may hold, in bytes.
    pub(crate) fn limit(&self) -> usize {
        part(self.divisor, 4 * MIB, usize::MAX)
    }

    /// Whether `bytes` more of its kind are within the limit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.held.load(Relaxed).saturating_add(bytes) <= self.limit()
    }

    /// Charges one of its kind.
    pub(crate) fn charge(&'static self, bytes: usize) -> KindCharge {
        self.held.fetch_add(bytes, Relaxed);
        let mut charge = Charge::default();
        charge.set(bytes);
        KindCharge { kind: self, charge }
    }
}

/// Bytes of one kind, and on the account; released when this is dropped.
#[derive(Debug)]
pub(crate) struct KindCharge {
    kind: &'static KindLimit,
    charge: Charge,
}

impl KindCharge {
    /// The bytes that are charged.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Changes the charge to `bytes`.
    pub(crate) fn set(&mut self, bytes: usize) {
        self.kind.held.fetch_add(bytes, Relaxed);
        self.kind.held.fetch_sub(self.charge.bytes(), Relaxed);
        self.charge.set(bytes);
    }
}

impl Drop for KindCharge {
    fn drop(&mut self) {
        self.kind.held.fetch_sub(self.charge.bytes(), Relaxed);
    }
}
