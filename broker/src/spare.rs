//! The memory of large messages, which may serve the next one of the same size. Relies on nothing.
//!
//! The allocator takes a large block from the system and gives it back at once, so each would cost a page fault for every
//! four KiB of it, which was half of the broker's time with bodies of a mebibyte. So the last ones are remembered here, and when nobody
//! else has one any more it is filled again. What was not asked for between two looks is forgotten.
//!
//! # Cost
//! One lock when a message of [`LARGE_BYTES`] or more begins and when it is whole. Nothing is locked under it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// From this size on the allocator asks the system for each block.
pub(crate) const LARGE_BYTES: usize = 128 * 1024;
/// What is remembered at most: two bodies of 16 MiB, of which one is on its way in and one on its way out.
const KEPT_BYTES: usize = 40 * 1024 * 1024;

static SPARE: Mutex<Spare> = Mutex::new(Spare::new());

/// So many bytes of no meaning, which nobody else has. The system gives new ones only as they are written.
pub(crate) fn take(bytes: usize) -> Arc<[u8]> {
    let found = lock(&SPARE).take(bytes);
    found.unwrap_or_else(|| zeroed(bytes))
}

#[expect(unsafe_code, reason = "zeros that are not written one by one")]
fn zeroed(bytes: usize) -> Arc<[u8]> {
    // SAFETY: every byte is zero, which is a value of `u8`.
    unsafe { Arc::new_zeroed_slice(bytes).assume_init() }
}

/// Remembers a block for the time when its message is gone.
pub(crate) fn lend(block: &Arc<[u8]>) {
    // What has to go for it is given back when the lock is gone: that asks the system.
    let forgotten = lock(&SPARE).lend(block);
    drop(forgotten);
}

/// Forgets what nobody has asked for since the last call.
pub(crate) fn age() {
    let forgotten = lock(&SPARE).age();
    drop(forgotten);
}

struct Spare {
    /// The one that was lent last is the last.
    blocks: VecDeque<Block>,
    bytes: usize,
}

struct Block {
    bytes: Arc<[u8]>,
    /// It was here when [`age`] was last called.
    is_old: bool,
}

impl Spare {
    const fn new() -> Self {
        Self {
            blocks: VecDeque::new(),
            bytes: 0,
        }
    }

    fn take(&mut self, bytes: usize) -> Option<Arc<[u8]>> {
        let is_free = |block: &mut Block| {
            block.bytes.len() == bytes && Arc::get_mut(&mut block.bytes).is_some()
        };
        let at = self.blocks.iter_mut().position(is_free)?;
        let block = self.blocks.remove(at)?;
        self.bytes -= bytes;
        Some(block.bytes)
    }

    /// Returns what has to go for it.
    fn lend(&mut self, block: &Arc<[u8]>) -> Vec<Block> {
        let mut forgotten = Vec::new();
        if block.len() > KEPT_BYTES {
            return forgotten;
        }
        while self.bytes + block.len() > KEPT_BYTES {
            let Some(first) = self.blocks.pop_front() else {
                break;
            };
            self.bytes -= first.bytes.len();
            forgotten.push(first);
        }
        self.bytes += block.len();
        self.blocks.push_back(Block {
            bytes: Arc::clone(block),
            is_old: false,
        });
        forgotten
    }

    fn age(&mut self) -> Vec<Block> {
        // They stand in the order in which they were lent.
        let old = self.blocks.partition_point(|block| block.is_old);
        let forgotten: Vec<_> = self.blocks.drain(..old).collect();
        self.bytes -= forgotten.iter().map(|old| old.bytes.len()).sum::<usize>();
        for block in &mut self.blocks {
            block.is_old = true;
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;

    #[test]
    fn a_block_serves_again_when_nobody_has_it_and_the_size_is_the_same() {
        let (mut spare, block) = (Spare::new(), zeroed(SIZE));
        assert!(spare.lend(&block).is_empty());
        assert!(spare.take(SIZE).is_none(), "it is in use");
        drop(block);
        assert!(spare.take(SIZE - 1).is_none(), "it is too large");
        assert!(
            spare
                .take(SIZE)
                .is_some_and(|mut taken| Arc::get_mut(&mut taken).is_some())
        );
        assert!(spare.take(SIZE).is_none(), "it was given away");
        assert_eq!(spare.bytes, 0);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (mut spare, block) = (Spare::new(), zeroed(SIZE));
        for _ in 0..KEPT_BYTES / SIZE {
            assert!(spare.lend(&block).is_empty());
        }
        assert_eq!(spare.lend(&zeroed(2 * SIZE)).len(), 2);
        assert_eq!(spare.bytes, KEPT_BYTES);
        assert!(
            spare.lend(&zeroed(KEPT_BYTES + 1)).is_empty(),
            "none goes for what never fits"
        );
        assert_eq!(spare.bytes, KEPT_BYTES);
    }

    #[test]
    fn what_was_not_asked_for_between_two_looks_is_forgotten() {
        let mut spare = Spare::new();
        spare.lend(&zeroed(SIZE));
        assert!(spare.age().is_empty(), "it was lent a moment ago");
        spare.lend(&zeroed(2 * SIZE));
        let forgotten: Vec<_> = spare.age().iter().map(|old| old.bytes.len()).collect();
        assert_eq!(forgotten, [SIZE]);
        assert_eq!(spare.bytes, 2 * SIZE);
        assert_eq!(spare.age().len(), 1);
        assert_eq!(spare.bytes, 0);
    }
}
