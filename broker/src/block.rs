//! Shared bytes in one allocation, charged to the account of [`crate::memory`] until the last owner
//! drops them.
//!
//! A [`BlockBuilder`] has one owner and grows as bytes arrive. It becomes a [`Block`] without a
//! copy; a block is shared and immutable. The allocator maps each large block separately and gives
//! it back to the system when it is freed, which costs a page fault for every 4 KiB. Freed large
//! blocks therefore go into a pool (`pool`) and serve the next block of about the same size.
//!
//! # Cost
//! One allocation for each block, like `Arc<[u8]>`. When a large block grows, the system moves its
//! pages without copying.

use std::alloc::{self, Layout};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::memory;

pub(crate) mod pool;

/// From this size on, the allocator maps each block separately.
pub(crate) const LARGE_BYTES: usize = 128 * 1024;

#[repr(C)]
struct BlockHeader {
    owners: AtomicUsize,
    /// The initialised bytes after the header.
    len: usize,
    /// The allocated bytes after the header.
    capacity: usize,
}

const HEADER: usize = size_of::<BlockHeader>();

#[expect(
    clippy::expect_used,
    reason = "fails only for sizes near the whole address space, and bodies are limited"
)]
fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(HEADER + capacity, align_of::<BlockHeader>()).expect("a possible size")
}

/// Returns what a block of this capacity charges to the account.
const fn cost(capacity: usize) -> usize {
    HEADER + capacity + memory::ALLOCATION_BYTES
}

/// An allocation with one owner.
///
/// Invariant: the pointer refers to an allocation made with `layout(capacity)` whose header is
/// valid. The first `len <= capacity` bytes after the header are initialised.
struct RawBlock(NonNull<BlockHeader>);

// SAFETY: a `RawBlock` is the only owner of its allocation; header and bytes are plain memory that
// any thread may use.
#[expect(unsafe_code, reason = "it owns plain memory")]
unsafe impl Send for RawBlock {}
// SAFETY: through a `&RawBlock`, only the number of owners is written, and it is atomic.
#[expect(unsafe_code, reason = "it owns plain memory")]
unsafe impl Sync for RawBlock {}

#[expect(
    unsafe_code,
    reason = "memory of a size that is known at run time, with its size in front"
)]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "the layout asks for the header's alignment"
)]
impl RawBlock {
    fn new(capacity: usize) -> Self {
        let layout = layout(capacity);
        // SAFETY: the layout includes the header, so its size is not 0.
        let Some(place) = NonNull::new(unsafe { alloc::alloc(layout) }.cast::<BlockHeader>())
        else {
            alloc::handle_alloc_error(layout);
        };
        let header = BlockHeader {
            owners: AtomicUsize::new(1),
            len: 0,
            capacity,
        };
        // SAFETY: the new allocation is large enough and aligned for the header, and has no other
        // owner.
        unsafe { place.write(header) };
        memory::charge(cost(capacity));
        Self(place)
    }

    fn header(&self) -> &BlockHeader {
        // SAFETY: the invariant of `RawBlock`.
        unsafe { self.0.as_ref() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes after the header are initialised, and only `&mut self` writes to
        // them.
        unsafe {
            std::slice::from_raw_parts(self.0.as_ptr().add(1).cast::<u8>(), self.header().len)
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.header().len;
        // SAFETY: as in `bytes`, and `&mut self` is the only access to this allocation.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().add(1).cast::<u8>(), len) }
    }

    /// Appends `part`. Panics if the capacity is too small for it.
    fn push(&mut self, part: &[u8]) {
        let (len, capacity) = (self.header().len, self.header().capacity);
        assert!(part.len() <= capacity - len, "a part without room");
        // SAFETY: `len + part.len()` is within the capacity, so the target lies in this allocation.
        // No other slice covers it, because `&mut self` is the only access to it.
        unsafe {
            let target = self.0.as_ptr().add(1).cast::<u8>().add(len);
            target.copy_from_nonoverlapping(part.as_ptr(), part.len());
            self.0.as_mut().len = len + part.len();
        }
    }

    fn clear(&mut self) {
        // SAFETY: the invariant of `RawBlock`; a shorter length keeps it.
        unsafe { self.0.as_mut() }.len = 0;
    }

    /// Changes the capacity. Panics if the new one is smaller than `len`.
    fn resize(&mut self, capacity: usize) {
        let old = self.header().capacity;
        assert!(capacity >= self.header().len, "bytes would be cut off");
        let new = layout(capacity);
        // SAFETY: the allocation was made with `layout(old)`. The new size is not 0 and comes from
        // a valid layout with the same alignment.
        let moved = unsafe { alloc::realloc(self.0.as_ptr().cast(), layout(old), new.size()) };
        let Some(place) = NonNull::new(moved.cast::<BlockHeader>()) else {
            alloc::handle_alloc_error(new);
        };
        self.0 = place;
        // SAFETY: the header was moved with the bytes.
        unsafe { self.0.as_mut() }.capacity = capacity;
        memory::charge(cost(capacity));
        memory::release(cost(old));
    }
}

#[expect(unsafe_code, reason = "it frees what `RawBlock::new` has allocated")]
impl Drop for RawBlock {
    fn drop(&mut self) {
        let capacity = self.header().capacity;
        memory::release(cost(capacity));
        // SAFETY: the allocation was made with this layout, and its only owner is being dropped.
        unsafe { alloc::dealloc(self.0.as_ptr().cast(), layout(capacity)) };
    }
}

/// A block under construction.
pub(crate) struct BlockBuilder(RawBlock);

impl BlockBuilder {
    /// Prepares for `expected` bytes. A new block grows as they arrive.
    pub(crate) fn new(expected: usize) -> Self {
        if let Some(mut raw) = pool::take_block(expected) {
            raw.clear();
            return Self(raw);
        }
        Self(RawBlock::new(expected.min(LARGE_BYTES)))
    }

    /// Appends a part. `expected` is the size of the finished block.
    pub(crate) fn push(&mut self, part: &[u8], expected: usize) {
        let header = self.0.header();
        let needed = header.len + part.len();
        if needed > header.capacity {
            self.0.resize((needed * 2).min(expected).max(needed));
        }
        self.0.push(part);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    /// Returns the allocated bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.0.header().capacity
    }

    /// Turns this into an immutable, shared block.
    pub(crate) fn finish(self) -> Block {
        Block::from_raw(self.0)
    }
}

impl std::fmt::Debug for BlockBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filling({} of {})", self.bytes().len(), self.capacity())
    }
}

/// Immutable bytes with any number of owners.
pub(crate) struct Block(NonNull<BlockHeader>);

// SAFETY: the bytes do not change while a `Block` exists, and the number of owners is atomic. The
// last owner has exclusive access, on whatever thread.
#[expect(unsafe_code, reason = "shared bytes that do not change")]
unsafe impl Send for Block {}
// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "shared bytes that do not change")]
unsafe impl Sync for Block {}

impl Block {
    /// Creates a block with a copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut raw = RawBlock::new(bytes.len());
        raw.push(bytes);
        Self::from_raw(raw)
    }

    /// Takes over the only owner of `raw`.
    fn from_raw(raw: RawBlock) -> Self {
        Self(std::mem::ManuallyDrop::new(raw).0)
    }
}

#[expect(unsafe_code, reason = "the bytes behind the header")]
impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a block is a `RawBlock` that is no longer written to; its owners keep it alive.
        unsafe {
            let len = self.0.as_ref().len;
            std::slice::from_raw_parts(self.0.as_ptr().add(1).cast::<u8>(), len)
        }
    }
}

#[expect(unsafe_code, reason = "the number of owners")]
impl Clone for Block {
    fn clone(&self) -> Self {
        // SAFETY: `self` is an owner, so the header is valid. `Relaxed` suffices, as in `Arc`: the
        // caller already has access through an owner.
        let before = unsafe { self.0.as_ref() }
            .owners
            .fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "a block with too many owners");
        Self(self.0)
    }
}

#[expect(unsafe_code, reason = "the number of owners")]
impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `self` is still an owner, so the header is valid.
        let before = unsafe { self.0.as_ref() }
            .owners
            .fetch_sub(1, Ordering::Release);
        if before > 1 {
            return;
        }
        // Orders all use of the bytes by other owners before the reuse of the memory.
        fence(Ordering::Acquire);
        // SAFETY: this was the last owner, so nothing else refers to the allocation.
        let header = unsafe { self.0.as_mut() };
        *header.owners.get_mut() = 1;
        let raw = RawBlock(self.0);
        if raw.header().capacity >= LARGE_BYTES {
            pool::return_block(raw);
        }
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Block {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_what_was_copied_until_its_last_owner_goes() {
        for size in [0, 1, 25, 1000, LARGE_BYTES] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let block = Block::copy_of(&bytes);
            let others: Vec<_> = (0..4).map(|_| block.clone()).collect();
            drop(block);
            let threads = others.into_iter().map(|other| {
                let bytes = bytes.clone();
                std::thread::spawn(move || assert!(*other == *bytes))
            });
            assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
        }
    }

    #[test]
    fn memory_is_taken_as_bytes_come_and_no_more_than_twice_as_much() {
        const EXPECTED: usize = 64 << 20;
        let mut builder = BlockBuilder::new(EXPECTED);
        let part = vec![7; 100_000];
        let mut here = 0;
        while here + part.len() < 20 << 20 {
            builder.push(&part, EXPECTED);
            here += part.len();
            assert!(builder.capacity() <= 2 * here + LARGE_BYTES, "{builder:?}");
        }
        let block = builder.finish();
        assert_eq!(block.len(), here);
        assert!(block.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_filling_takes_more_than_it_was_told_to_expect() {
        let mut builder = BlockBuilder::new(3);
        builder.push(b"more than", 3);
        builder.bytes_mut()[0] = b'M';
        assert_eq!(&*builder.finish(), b"More than");
    }
}
