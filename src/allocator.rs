//! How the broker's process asks the system for memory. Relies on the C library; one that is not glibc keeps its own ways.
//!
//! glibc gives each thread a heap of its own and lets freed blocks of any size lie there, which for a broker whose messages are
//! made by one thread and freed by another doubled the memory of a drained backlog (105 to 118 MiB instead of 59 to 65). One
//! heap and small blocks for the threads' caches are as quick here; large blocks go back to the system at once.

/// Blocks from this size on are mapped one by one: the store's buffers are of half a mebibyte.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 128 * 1024;

/// Chooses one heap. To be called before there is a second thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc is asked in C")]
pub(crate) fn be_frugal() {
    // SAFETY: `mallopt` takes two numbers, touches glibc's own settings only, and no other thread allocates yet. A number
    // that it does not know changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

/// Gives back what starting up has used and freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc is asked in C")]
pub(crate) fn give_back() {
    // SAFETY: `malloc_trim` takes a number and locks what it works on.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators are taken as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn be_frugal() {}

/// Other allocators are taken as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
