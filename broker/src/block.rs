//! Shared bytes in one allocation that is on the account of [`crate::memory`] for as long as anybody has it.
//!
//! A [`Filling`] has one owner and grows as bytes come; it becomes a [`Block`], which is shared and never changes, without
//! a copy. The allocator takes a large block from the system and gives it back at once, which costs a page fault for
//! every four KiB; so freed large blocks wait in a pool (`pool`) for the next one of about the same size.
//!
//! # Cost
//! One allocation a block, as `Arc<[u8]>` has; a large one that grows is moved by the system, not copied.

use std::alloc::{self, Layout};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::memory;

pub(crate) mod pool;

/// From this size on the allocator asks the system for each block.
pub(crate) const LARGE_BYTES: usize = 128 * 1024;

#[repr(C)]
struct Header {
    owners: AtomicUsize,
    /// Bytes behind the header that have been written.
    len: usize,
    /// Bytes behind the header.
    capacity: usize,
}

const HEADER: usize = size_of::<Header>();

#[expect(
    clippy::expect_used,
    reason = "only a capacity near the whole address space fails, and no body is announced as that large"
)]
fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(HEADER + capacity, align_of::<Header>()).expect("a possible size")
}

/// What a block of this capacity takes of memory.
const fn cost(capacity: usize) -> usize {
    HEADER + capacity + memory::ALLOCATION_BYTES
}

/// An allocation with one owner.
///
/// Invariant: the pointer is to an allocation made with `layout(capacity)` whose header is valid, and of whose
/// bytes behind the header the first `len <= capacity` have been written.
struct Raw(NonNull<Header>);

// SAFETY: a `Raw` owns its allocation alone, and a header and bytes may be used from any thread.
#[expect(unsafe_code, reason = "it owns plain memory")]
unsafe impl Send for Raw {}
// SAFETY: nothing is written through a `&Raw`, but the number of owners, which is atomic.
#[expect(unsafe_code, reason = "it owns plain memory")]
unsafe impl Sync for Raw {}

#[expect(
    unsafe_code,
    reason = "memory of a size that is known at run time, with its size in front"
)]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "the layout asks for the header's alignment"
)]
impl Raw {
    fn new(capacity: usize) -> Self {
        let layout = layout(capacity);
        // SAFETY: the layout is not of size 0, as it has the header in it.
        let Some(place) = NonNull::new(unsafe { alloc::alloc(layout) }.cast::<Header>()) else {
            alloc::handle_alloc_error(layout);
        };
        let header = Header {
            owners: AtomicUsize::new(1),
            len: 0,
            capacity,
        };
        // SAFETY: the place is large enough for the header and aligned for it, and nobody else has it.
        unsafe { place.write(header) };
        memory::charge(cost(capacity));
        Self(place)
    }

    fn header(&self) -> &Header {
        // SAFETY: the invariant of `Raw`.
        unsafe { self.0.as_ref() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes behind the header have been written, and only `&mut self` writes.
        unsafe {
            std::slice::from_raw_parts(self.0.as_ptr().add(1).cast::<u8>(), self.header().len)
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.header().len;
        // SAFETY: as in `bytes`, and `&mut self` is the only way to this allocation.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().add(1).cast::<u8>(), len) }
    }

    /// Appends what there is room for, which must be all of it.
    fn push(&mut self, part: &[u8]) {
        let (len, capacity) = (self.header().len, self.header().capacity);
        assert!(part.len() <= capacity - len, "a part without room");
        // SAFETY: `len + part.len()` is within the capacity, so the target lies in this allocation; it is not part of
        // any slice that others have, as `&mut self` is the only way to it.
        unsafe {
            let target = self.0.as_ptr().add(1).cast::<u8>().add(len);
            target.copy_from_nonoverlapping(part.as_ptr(), part.len());
            self.0.as_mut().len = len + part.len();
        }
    }

    fn clear(&mut self) {
        // SAFETY: the invariant of `Raw`; a shorter length keeps it.
        unsafe { self.0.as_mut() }.len = 0;
    }

    /// Changes the capacity to one that is no smaller than what has been written.
    fn resize(&mut self, capacity: usize) {
        let old = self.header().capacity;
        assert!(capacity >= self.header().len, "bytes would be cut off");
        let new = layout(capacity);
        // SAFETY: the allocation was made with `layout(old)`, and the new size is that of a valid layout with the same
        // alignment and not 0.
        let moved = unsafe { alloc::realloc(self.0.as_ptr().cast(), layout(old), new.size()) };
        let Some(place) = NonNull::new(moved.cast::<Header>()) else {
            alloc::handle_alloc_error(new);
        };
        self.0 = place;
        // SAFETY: the header was moved with the bytes.
        unsafe { self.0.as_mut() }.capacity = capacity;
        memory::charge(cost(capacity));
        memory::release(cost(old));
    }
}

#[expect(unsafe_code, reason = "it frees what `Raw::new` has allocated")]
impl Drop for Raw {
    fn drop(&mut self) {
        let capacity = self.header().capacity;
        memory::release(cost(capacity));
        // SAFETY: the allocation was made with this layout, and its one owner ends here.
        unsafe { alloc::dealloc(self.0.as_ptr().cast(), layout(capacity)) };
    }
}

/// Bytes that are still coming.
pub(crate) struct Filling(Raw);

impl Filling {
    /// For `expected` bytes, of which memory is taken as they come.
    pub(crate) fn new(expected: usize) -> Self {
        if let Some(mut raw) = pool::take(expected) {
            raw.clear();
            return Self(raw);
        }
        Self(Raw::new(expected.min(LARGE_BYTES)))
    }

    /// Appends a part; `expected` bytes are all that will come.
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

    /// Bytes of memory that this takes.
    pub(crate) fn capacity(&self) -> usize {
        self.0.header().capacity
    }

    /// From now on it is shared.
    pub(crate) fn finish(self) -> Block {
        Block::from_raw(self.0)
    }
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filling({} of {})", self.bytes().len(), self.capacity())
    }
}

/// Bytes that never change and may have many owners.
pub(crate) struct Block(NonNull<Header>);

// SAFETY: the bytes do not change while a `Block` exists, and the number of owners is atomic; the last owner, on
// whatever thread, has them alone.
#[expect(unsafe_code, reason = "shared bytes that do not change")]
unsafe impl Send for Block {}
// SAFETY: the same.
#[expect(unsafe_code, reason = "shared bytes that do not change")]
unsafe impl Sync for Block {}

impl Block {
    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut raw = Raw::new(bytes.len());
        raw.push(bytes);
        Self::from_raw(raw)
    }

    /// `raw` has one owner, and this is it now.
    fn from_raw(raw: Raw) -> Self {
        Self(std::mem::ManuallyDrop::new(raw).0)
    }
}

#[expect(unsafe_code, reason = "the bytes behind the header")]
impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a block is a `Raw` that is not written to any more, and its owners keep it alive.
        unsafe {
            let len = self.0.as_ref().len;
            std::slice::from_raw_parts(self.0.as_ptr().add(1).cast::<u8>(), len)
        }
    }
}

#[expect(unsafe_code, reason = "the number of owners")]
impl Clone for Block {
    fn clone(&self) -> Self {
        // SAFETY: `self` is an owner, so the header is there. Relaxed, as in `Arc`: who clones is an owner already.
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
        // SAFETY: `self` is still an owner, so the header is there.
        let before = unsafe { self.0.as_ref() }
            .owners
            .fetch_sub(1, Ordering::Release);
        if before > 1 {
            return;
        }
        // What other owners did with the bytes comes before what is done with the memory now.
        fence(Ordering::Acquire);
        // SAFETY: this was the last owner, so nobody else has the allocation.
        let header = unsafe { self.0.as_mut() };
        *header.owners.get_mut() = 1;
        let raw = Raw(self.0);
        if raw.header().capacity >= LARGE_BYTES {
            pool::give(raw);
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
        let mut filling = Filling::new(EXPECTED);
        let part = vec![7; 100_000];
        let mut here = 0;
        while here + part.len() < 20 << 20 {
            filling.push(&part, EXPECTED);
            here += part.len();
            assert!(filling.capacity() <= 2 * here + LARGE_BYTES, "{filling:?}");
        }
        let block = filling.finish();
        assert_eq!(block.len(), here);
        assert!(block.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_filling_takes_more_than_it_was_told_to_expect() {
        let mut filling = Filling::new(3);
        filling.push(b"more than", 3);
        filling.bytes_mut()[0] = b'M';
        assert_eq!(&*filling.finish(), b"More than");
    }
}
