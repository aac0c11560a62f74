//! macOS: `proc_pidinfo`, `sysctl`, and a monotonic clock that counts while the machine sleeps.
//!
//! Types and constants are those of the `libc` crate. Compiled for macOS, and not yet run there.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use rustix::event::PollFlags;
use rustix::time::ClockId;

use super::SocketPair;

/// What `poll` is asked for to tell that the other end of a socket has closed its side: its hangup
/// says that there is nothing after what waits to be read.
pub(crate) const PEER_CLOSED: PollFlags = PollFlags::HUP;

/// A clock that counts while the machine sleeps and that cannot be set.
pub(crate) const STEADY: ClockId = ClockId::Monotonic;

/// macOS has no user namespaces.
pub(crate) const UNMAPPED_USER: Option<u32> = None;

/// Resident memory of this process.
#[expect(unsafe_code, reason = "the system has a C interface")]
pub(crate) fn resident_bytes() -> Option<u64> {
    let mut task = MaybeUninit::<libc::proc_taskinfo>::uninit();
    let size = c_int::try_from(size_of::<libc::proc_taskinfo>()).ok()?;
    let buffer = task.as_mut_ptr().cast::<c_void>();
    // SAFETY: `buffer` has `size` writable bytes, and the call writes no more than that.
    let written =
        unsafe { libc::proc_pidinfo(libc::getpid(), libc::PROC_PIDTASKINFO, 0, buffer, size) };
    if written != size {
        return None;
    }
    // SAFETY: the call has written the whole structure, which holds numbers alone.
    Some(unsafe { task.assume_init() }.pti_resident_size)
}

/// Memory of the whole machine.
#[expect(unsafe_code, reason = "the system has a C interface")]
pub(crate) fn machine_memory_bytes() -> Option<u64> {
    let (mut bytes, mut size) = (0_u64, size_of::<u64>());
    let value = ptr::from_mut(&mut bytes).cast::<c_void>();
    // SAFETY: the name ends with a zero byte, `value` has `size` writable bytes, and without new
    // data nothing is changed.
    let outcome = unsafe {
        libc::sysctlbyname(
            c"hw.memsize".as_ptr(),
            value,
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    (outcome == 0 && size == size_of::<u64>()).then_some(bytes)
}

/// Descriptors that this process has open.
pub(crate) fn open_descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/dev/fd").ok()?;
    Some(entries.count() as u64)
}

/// The users at the other end of connections on this machine, in their order. Without root's
/// rights, the system does not tell.
pub(crate) fn users_of(connections: &[SocketPair]) -> Vec<Option<u32>> {
    vec![None; connections.len()]
}
