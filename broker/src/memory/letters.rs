//! What dead letters hold on their way: from when they leave their queue until they are in all of
//! their new ones. They have a part of the limit, beyond which no more are read from the store.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{ENTRY_CHARGE_BYTES, MIB, part};

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Counts the bytes of one letter until it is dropped. They are already charged to the account.
#[derive(Debug)]
pub(crate) struct LetterBytes(usize);

impl LetterBytes {
    /// Counts a letter whose message has `message` bytes.
    pub(crate) fn new(message: usize) -> Self {
        let bytes = message + ENTRY_CHARGE_BYTES;
        HELD.fetch_add(bytes, Relaxed);
        Self(bytes)
    }
}

impl Drop for LetterBytes {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Relaxed);
    }
}

/// Whether letters hold their part: a sixteenth of the limit.
pub(crate) fn are_letters_full() -> bool {
    HELD.load(Relaxed) >= part(16, MIB, 16 * MIB)
}
