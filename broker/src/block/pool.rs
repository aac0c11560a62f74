//! A pool of freed large blocks, reused for new blocks of about the same size.
//!
//! # Cost
//! One lock when a message of [`super::LARGE_BYTES`] or more begins, and one when it is freed. No
//! other lock is taken while it is held.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::{LARGE_BYTES, RawBlock};
use crate::lock::lock;
use crate::memory;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

struct Pool {
    /// Ordered by the time of freeing; the last one was freed last.
    blocks: VecDeque<Pooled>,
    bytes: usize,
}

struct Pooled {
    raw: RawBlock,
    /// Whether it was in the pool at the last [`free_unused`].
    is_old: bool,
}

/// Takes a block with room for `bytes` and little more.
pub(super) fn take_block(bytes: usize) -> Option<RawBlock> {
    if bytes < LARGE_BYTES {
        return None;
    }
    lock(&POOL).take_block(bytes)
}

/// Returns a block to the pool, or frees it if the pool is full.
pub(super) fn return_block(raw: RawBlock) {
    // Frees outside the lock, because freeing calls the system.
    let freed = lock(&POOL).add_block(raw, memory::pool_bytes());
    drop(freed);
}

/// Frees the blocks that were not reused since the last call.
pub(crate) fn free_unused() {
    let freed = lock(&POOL).remove_unused();
    drop(freed);
}

/// Frees all blocks. Called when memory is short.
pub(crate) fn empty() {
    let freed = std::mem::replace(&mut *lock(&POOL), Pool::new());
    drop(freed.blocks);
}

impl Pool {
    const fn new() -> Self {
        Self {
            blocks: VecDeque::new(),
            bytes: 0,
        }
    }

    fn take_block(&mut self, bytes: usize) -> Option<RawBlock> {
        let fits = bytes..=bytes + bytes / 8;
        let at = self
            .blocks
            .iter()
            .rposition(|pooled| fits.contains(&pooled.raw.header().capacity))?;
        let pooled = self.blocks.remove(at)?;
        self.bytes -= pooled.raw.header().capacity;
        Some(pooled.raw)
    }

    /// Returns the blocks that must be freed.
    fn add_block(&mut self, raw: RawBlock, most_bytes: usize) -> Vec<RawBlock> {
        let capacity = raw.header().capacity;
        if capacity > most_bytes {
            return vec![raw];
        }
        let mut freed = Vec::new();
        while self.bytes + capacity > most_bytes {
            let Some(first) = self.blocks.pop_front() else {
                break;
            };
            self.bytes -= first.raw.header().capacity;
            freed.push(first.raw);
        }
        self.bytes += capacity;
        self.blocks.push_back(Pooled { raw, is_old: false });
        freed
    }

    fn remove_unused(&mut self) -> Vec<RawBlock> {
        // The blocks are ordered by the time of freeing, so the old ones come first.
        let old = self.blocks.partition_point(|pooled| pooled.is_old);
        let freed: Vec<_> = self.blocks.drain(..old).map(|old| old.raw).collect();
        let freed_bytes: usize = freed.iter().map(|raw| raw.header().capacity).sum();
        self.bytes -= freed_bytes;
        for pooled in &mut self.blocks {
            pooled.is_old = true;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;
    const MOST: usize = 40 * SIZE;

    #[test]
    fn a_block_serves_again_for_about_the_same_size() {
        let mut pool = Pool::new();
        assert!(pool.add_block(RawBlock::new(SIZE), MOST).is_empty());
        assert!(pool.take_block(SIZE + 1).is_none(), "it is too small");
        assert!(pool.take_block(SIZE / 2).is_none(), "it is much too large");
        assert!(pool.take_block(SIZE - 100).is_some());
        assert!(pool.take_block(SIZE).is_none(), "it was given away");
        assert_eq!(pool.bytes, 0);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut pool = Pool::new();
        for _ in 0..MOST / SIZE {
            assert!(pool.add_block(RawBlock::new(SIZE), MOST).is_empty());
        }
        assert_eq!(pool.add_block(RawBlock::new(2 * SIZE), MOST).len(), 2);
        assert_eq!(pool.bytes, MOST);
        assert_eq!(
            pool.add_block(RawBlock::new(MOST + 1), MOST).len(),
            1,
            "itself"
        );
        assert_eq!(pool.bytes, MOST);
    }

    #[test]
    fn what_was_not_asked_for_between_two_looks_is_freed() {
        let mut pool = Pool::new();
        pool.add_block(RawBlock::new(SIZE), MOST);
        assert!(pool.remove_unused().is_empty(), "it was freed a moment ago");
        pool.add_block(RawBlock::new(2 * SIZE), MOST);
        assert_eq!(pool.remove_unused().len(), 1);
        assert_eq!(pool.bytes, 2 * SIZE);
        assert_eq!(pool.remove_unused().len(), 1);
        assert_eq!(pool.bytes, 0);
    }
}
