//! A library to preload into a process: it adds an offset to the wall clock, and to no other clock.
//!
//! `CBROKER_CLOCK_OFFSET` names a file that holds the offset in seconds, in decimal. The file is
//! read at every call, so a test can set the clock of a running program. Linux only.

#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    reason = "a function of the C library can only be replaced as such"
)]

use std::ffi::{c_int, c_long};

/// Seconds that the named file asks for; 0 without one.
fn offset_s() -> i64 {
    std::env::var_os("CBROKER_CLOCK_OFFSET")
        .and_then(|path| std::fs::read_to_string(path).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Stands before the C library's function of this name.
///
/// # Safety
/// As `clock_gettime(2)`: `time` must be null or point to a writable `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut libc::timespec) -> c_int {
    // SAFETY: the system call takes the same two arguments, which the caller vouches for.
    let outcome = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
    if outcome == 0 && clock == libc::CLOCK_REALTIME && !time.is_null() {
        // SAFETY: the call succeeded, so `time` points to a `timespec` that was just written.
        unsafe { (*time).tv_sec += offset_s() };
    }
    c_int::try_from(outcome).unwrap_or(-1)
}
