//! Memory allocator settings of the broker's process. Depends on the C library; other allocators
//! than glibc's keep their defaults.
//!
//! By default, glibc gives each thread its own heap and keeps freed blocks there. In a broker, one
//! thread allocates a message and another frees it, which doubled the memory after a backlog was
//! drained (105 to 118 MiB instead of 59 to 65). One heap with small blocks in the threads' caches
//! is as fast here, and large blocks return to the system at once.

/// Blocks of this size and above are mapped separately. The store's buffers are 512 KiB.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 128 * 1024;

/// Selects one heap. Must be called before a second thread starts.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has a C interface")]
pub(crate) fn be_frugal() {
    // SAFETY: `mallopt` takes two numbers and changes glibc's own settings only. No other thread
    // allocates yet, and unknown numbers are ignored.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

/// Returns freed memory to the system.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc has a C interface")]
pub(crate) fn free_unused_memory() {
    // SAFETY: `malloc_trim` takes a number and takes the locks that it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators keep their defaults.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn be_frugal() {}

/// Other allocators keep their defaults.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn free_unused_memory() {}
