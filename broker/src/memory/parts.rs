//! The parts of the memory limit that each kind of holder may fill.

use std::sync::atomic::Ordering::Relaxed;

use super::LIMIT;

/// A part of the limit between two bounds; the upper one where there is no limit.
pub(super) fn part(divisor: u64, least: usize, most: usize) -> usize {
    match LIMIT.load(Relaxed) {
        0 => most,
        limit => usize::try_from(limit / divisor)
            .unwrap_or(usize::MAX)
            .clamp(least, most),
    }
}

pub(super) const MIB: usize = 1024 * 1024;

/// Unsent bytes of a connection above which others may not add to them.
pub(crate) fn outbox_share() -> usize {
    part(16, 4 * MIB, 256 * MIB)
}

/// What one connection may hold in publishes that are not whole, and in one transaction.
pub(crate) fn connection_limit() -> usize {
    part(4, MIB, usize::MAX)
}

/// What the channels of one connection may keep for their next publishes, beside the buffers of
/// small ones.
pub(crate) fn kept_drafts() -> usize {
    part(64, MIB / 4, 16 * MIB)
}

/// What all transactions together may hold.
pub(super) fn transactions_limit() -> usize {
    part(4, 2 * MIB, usize::MAX)
}

/// What the unfinished publishes of all connections may hold while memory is short.
pub(crate) fn unfinished_limit() -> usize {
    part(4, 2 * MIB, usize::MAX)
}

/// What may be kept of messages that the store has.
pub(crate) fn windows_bytes() -> usize {
    part(4, MIB, 64 * MIB)
}

/// What may be kept of freed large blocks.
pub(crate) fn pool_bytes() -> usize {
    part(8, MIB, 40 * MIB)
}

/// Messages that wait in the store for their commit. The store holds copies, which are on the
/// account too.
pub(crate) fn store_pending_bytes() -> usize {
    part(8, MIB, 16 * MIB)
}

/// What the tap may remember.
pub(crate) fn tap_bytes() -> usize {
    part(32, MIB, 16 * MIB)
}
