//! Whether messages of a queue may leave it as dead letters now. Relies on `memory`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::Queue;
use crate::memory::{self, MemoryLevel};

/// What became of the memory of a queue's last dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LetterFate {
    /// There was none yet.
    Unknown,
    /// One has left, and it is not known yet.
    OnItsWay,
    /// It went nowhere, or to queues that the store keeps.
    Freed,
    /// It is in memory.
    Stays,
}

/// The [`LetterFate`] of a queue.
#[derive(Debug, Default)]
pub(super) struct LastLetter(AtomicU8);

impl LastLetter {
    fn get(&self) -> LetterFate {
        match self.0.load(Relaxed) {
            0 => LetterFate::Unknown,
            1 => LetterFate::OnItsWay,
            2 => LetterFate::Freed,
            _ => LetterFate::Stays,
        }
    }

    fn set(&self, fate: LetterFate) {
        self.0.store(fate as u8, Relaxed);
    }
}

impl Queue {
    /// Whether a message that expires or is pushed out may leave now. Otherwise it stays where it
    /// is, and is not delivered, until there is room for letters. A message that is in memory takes
    /// no more of it in another queue, however short memory is.
    pub(super) fn may_discard(&self) -> bool {
        self.identity.arguments.dead_letters.is_none() || !memory::are_letters_full()
    }

    /// Whether messages may be read from the store in order to leave. While memory is short, only
    /// where that frees memory; one message may be read to find out.
    pub(super) fn may_read_to_discard(&self) -> bool {
        self.may_discard() && (memory::level() < MemoryLevel::Short || !self.do_letters_stay())
    }

    /// Whether messages may be read from the store for consumers. Not where transient messages hold
    /// all that they may, and one that is rejected would stay in memory too.
    pub(super) fn may_read_for_consumers(&self) -> bool {
        !memory::is_transient_full() || self.last_letter.get() != LetterFate::Stays
    }

    /// Whether the last letter stays in memory, or may.
    fn do_letters_stay(&self) -> bool {
        self.identity.arguments.dead_letters.is_some()
            && matches!(
                self.last_letter.get(),
                LetterFate::Stays | LetterFate::OnItsWay
            )
    }

    /// Notes that a message leaves as a dead letter.
    pub(super) fn note_letter(&self) {
        if self.last_letter.get() == LetterFate::Unknown {
            self.last_letter.set(LetterFate::OnItsWay);
        }
    }

    /// Notes where a dead letter of this queue goes.
    pub(crate) fn note_letter_route(&self, is_persistent: bool, queues: &[Arc<Self>]) {
        let is_freed = queues
            .iter()
            .all(|queue| is_persistent && queue.store.is_some());
        self.last_letter.set(if is_freed {
            LetterFate::Freed
        } else {
            LetterFate::Stays
        });
    }
}
