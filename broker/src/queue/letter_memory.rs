//! Whether dead letters of a queue stay in memory, where nothing but a consumer, a limit or a purge
//! of their new queue frees them. While memory is short, no more of them are read from the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::Queue;
use super::level::LoadRequest;
use crate::memory::{self, MemoryLevel};

#[derive(Debug, Default)]
pub(super) struct LetterMemory {
    /// Whether the last letter stayed in memory, or any since memory was last plentiful.
    stay: AtomicBool,
    /// Reads of the store that wait because of that.
    held_back: AtomicU32,
}

impl LetterMemory {
    pub(super) fn do_stay(&self) -> bool {
        self.stay.load(Relaxed)
    }

    pub(super) fn is_read_held_back(&self) -> bool {
        self.held_back.load(Relaxed) > 0
    }
}

/// A read of the store that waits until memory is free, or is no longer wanted.
#[derive(Debug)]
pub(crate) struct HeldBackRead(Arc<Queue>);

impl Drop for HeldBackRead {
    fn drop(&mut self) {
        self.0.letters.held_back.fetch_sub(1, Relaxed);
    }
}

impl Queue {
    /// Notes whether a letter of this queue waits in memory alone, in any of its new queues.
    pub(crate) fn note_letter(&self, stays: bool) {
        // While memory is short, one letter that left it does not mean that others will.
        if stays || memory::level() == MemoryLevel::Calm {
            self.letters.stay.store(stays, Relaxed);
        }
    }

    /// Whether letters of this queue stay in memory.
    pub(crate) fn do_letters_stay(&self) -> bool {
        self.letters.do_stay()
    }

    /// Notes a read of the store that waits.
    pub(crate) fn hold_back_read(self: &Arc<Self>) -> HeldBackRead {
        self.letters.held_back.fetch_add(1, Relaxed);
        HeldBackRead(Arc::clone(self))
    }

    /// Whether a read is still wanted: not once the queue was purged or deleted.
    pub(crate) fn is_load_wanted(&self, wanted: LoadRequest) -> bool {
        self.with(|state| state.ready.is_wanted(wanted))
    }
}
