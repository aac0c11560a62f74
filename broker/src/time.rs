//! The broker's time: milliseconds since the Unix epoch that never jump.
//!
//! The wall clock is read once for each process. From then on, the system's boot clock counts. It
//! includes the time that the machine is suspended, and nobody can set it. Setting the wall clock
//! therefore changes no running time to live and no `x-expires`.
//!
//! Stored messages carry this time. After a restart, the new process starts from its own wall
//! clock. A timestamp in its future is then moved to the start of the process
//! ([`not_in_the_future`]), so such a message lives at most its whole time to live again.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::clock_gettime;

use crate::platform::STEADY;

/// One moment, read from both clocks.
#[derive(Debug, Clone, Copy)]
struct ClockReading {
    wall_ms: u64,
    steady_ms: u64,
}

fn start() -> ClockReading {
    static START: OnceLock<ClockReading> = OnceLock::new();
    *START.get_or_init(|| ClockReading {
        wall_ms: wall_ms(),
        steady_ms: steady_ms(),
    })
}

fn steady_ms() -> u64 {
    let time = clock_gettime(STEADY);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(time.tv_sec) * 1000 + part(time.tv_nsec) / 1_000_000
}

/// The wall clock in milliseconds since the Unix epoch, for times that people and other programs
/// read.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The broker's time in milliseconds. Use this for every deadline.
pub(crate) fn now_ms() -> u64 {
    let start = start();
    start.wall_ms + (steady_ms() - start.steady_ms)
}

/// Returns the timestamp of a stored message, or the start of this process if it is in the future.
pub(crate) fn not_in_the_future(stamp_ms: u64, now_ms: u64) -> u64 {
    if stamp_ms > now_ms {
        start().wall_ms
    } else {
        stamp_ms
    }
}
