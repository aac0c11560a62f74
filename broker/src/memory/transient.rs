//! What ready messages hold that no store has. Nothing but a consumer, a limit or a purge frees
//! them, so they have a part of the memory limit of their own: with it, messages that the store has
//! find room whatever lies in other queues.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{ENTRY_CHARGE_BYTES, MemoryLevel, held, level, part};

/// A queue may be ahead or behind by so much: less than what it takes without messages.
const STEP: usize = 1024;

static REPORTED: AtomicUsize = AtomicUsize::new(0);

/// The bytes of one queue. A message in several queues counts in each.
#[derive(Debug, Default)]
pub(crate) struct TransientBytes {
    bytes: usize,
    reported: usize,
}

impl TransientBytes {
    /// Adds a message of so many bytes.
    pub(crate) fn add(&mut self, message: usize) {
        self.set(self.bytes + message + ENTRY_CHARGE_BYTES);
    }

    /// Takes one off that was added.
    pub(crate) fn take(&mut self, message: usize) {
        self.set(self.bytes.saturating_sub(message + ENTRY_CHARGE_BYTES));
    }

    /// Takes all off.
    pub(crate) fn clear(&mut self) {
        self.set(0);
    }

    fn set(&mut self, bytes: usize) {
        self.bytes = bytes;
        if bytes.abs_diff(self.reported) >= STEP || (bytes == 0 && self.reported > 0) {
            self.report();
        }
    }

    #[cold]
    fn report(&mut self) {
        REPORTED.fetch_add(self.bytes, Relaxed);
        REPORTED.fetch_sub(self.reported, Relaxed);
        self.reported = self.bytes;
    }
}

impl Drop for TransientBytes {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The bytes of all queues.
pub(crate) fn transient_bytes() -> usize {
    REPORTED.load(Relaxed)
}

/// Whether half of the limit is held, and as much by transient messages. Messages in several queues
/// count more than once among these.
pub(crate) fn is_transient_full() -> bool {
    level() > MemoryLevel::Calm && transient_bytes() >= part(2, 0, usize::MAX)
}

/// Like [`is_transient_full`], once it was: true until a fifth of that is free again.
pub(crate) fn is_transient_still_full() -> bool {
    let most = part(5, 0, usize::MAX / 2).saturating_mul(2);
    transient_bytes() >= most && held() >= most as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_added_is_taken_off_when_it_is_dropped() {
        const LARGE: usize = 1 << 40;
        let mut bytes = TransientBytes::default();
        bytes.add(2 * LARGE);
        bytes.add(LARGE);
        bytes.take(2 * LARGE);
        assert!((LARGE..2 * LARGE).contains(&transient_bytes()));
        drop(bytes);
        assert!(transient_bytes() < LARGE);
    }
}
