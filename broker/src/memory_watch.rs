//! When the memory alarm is raised, and when it ends. Depends on `memory`.
//!
//! Publishers wait while fifteen sixteenths of the limit are held or all of it is resident, until a
//! fifth or a tenth is free again. Freed memory may stay resident, so nobody waits for that alone
//! for longer than [`FOR_RESIDENT_MS`] at a time. `publisher_grants` says what publishers may send
//! while the alarm lasts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::lock::lock;
use crate::memory;

/// How long publishers wait at a time because much is resident while little is held.
const FOR_RESIDENT_MS: u64 = 1000;

/// How long the alarm lasts before a connection is ended because of what it holds.
const BEFORE_END_MS: u64 = 5000;

/// How often the log says that the alarm has changed.
const LOG_EVERY_MS: u64 = 60_000;

#[derive(Debug)]
pub(crate) struct MemoryWatch {
    /// Bytes that may be held before publishers are paused, 0 for any number.
    limit: u64,
    /// When the alarm was last raised or ended.
    since_ms: AtomicU64,
    /// When a connection was last ended because of what it holds.
    ended_ms: AtomicU64,
    log: Mutex<AlarmLog>,
}

/// What the log does not say yet of the alarm, which may change several times a second.
#[derive(Debug, Default)]
struct AlarmLog {
    changes: u64,
    /// When it was last logged; `None` for never.
    logged_ms: Option<u64>,
}

impl AlarmLog {
    /// Returns the number of changes since the last line, if a line is due.
    fn take_changes(&mut self, now_ms: u64) -> Option<u64> {
        let is_early = self
            .logged_ms
            .is_some_and(|logged_ms| now_ms < logged_ms.saturating_add(LOG_EVERY_MS));
        if self.changes == 0 || is_early {
            return None;
        }
        self.logged_ms = Some(now_ms);
        Some(std::mem::take(&mut self.changes))
    }
}

/// The result of a look at the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryVerdict {
    /// The alarm is to be raised, or to stay so.
    pub(crate) is_over: bool,
    /// It is worth looking again soon.
    pub(crate) is_soon_again: bool,
}

impl MemoryWatch {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            since_ms: AtomicU64::new(0),
            ended_ms: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }

    /// Bytes that may be held before publishers are paused, 0 for any number.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the alarm has lasted for long enough to end a connection because of what it holds;
    /// then it must last as long again before the next one.
    pub(crate) fn may_end_one(&self, now_ms: u64) -> bool {
        let from_ms = self.since_ms.load(Relaxed).max(self.ended_ms.load(Relaxed));
        let may_end = now_ms >= from_ms + BEFORE_END_MS;
        if may_end {
            self.ended_ms.store(now_ms, Relaxed);
        }
        may_end
    }

    /// Whether the account has reached the limit.
    pub(crate) fn is_full(&self) -> bool {
        self.limit > 0 && memory::held() >= memory::mark(self.limit)
    }

    /// Looks at the account and at the given resident memory, while the alarm is raised or not.
    pub(crate) fn assess(&self, resident: u64, is_high: bool, now_ms: u64) -> MemoryVerdict {
        let limit = self.limit;
        let held = memory::held();
        let (held_line, resident_line) = if is_high {
            (limit / 10 * 8, limit / 10 * 9)
        } else {
            (memory::mark(limit), limit)
        };
        let since = self.since_ms.load(Relaxed);
        let is_patient = !is_high || now_ms < since + FOR_RESIDENT_MS;
        let is_much_resident = resident > resident_line && held >= limit / 8;
        let is_over = held >= held_line || (is_much_resident && is_patient);
        MemoryVerdict {
            is_over,
            is_soon_again: is_over || resident > limit / 2,
        }
    }

    /// Notes that the alarm was raised or ended.
    pub(crate) fn note_change(&self, now_ms: u64) {
        self.since_ms.store(now_ms, Relaxed);
        lock(&self.log).changes += 1;
    }

    /// Logs whether the alarm is raised, if that has changed since it was last logged, and at most
    /// once a minute.
    pub(crate) fn log_alarm(&self, resident: u64, is_raised: bool, now_ms: u64) {
        let Some(changes) = lock(&self.log).take_changes(now_ms) else {
            return;
        };
        let (held, limit) = (memory::held(), self.limit);
        if is_raised {
            tracing::warn!(
                held,
                resident,
                limit,
                changes,
                "memory is short: publishers are blocked"
            );
        } else {
            tracing::warn!(held, resident, limit, changes, "memory is free again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_changes_all_the_time_is_logged_once_a_minute_with_its_changes() {
        let mut log = AlarmLog::default();
        assert_eq!(log.take_changes(1_000), None);
        let mut logged = Vec::new();
        for half_second in 0..=240 {
            log.changes += 1;
            logged.extend(log.take_changes(half_second * 500));
        }
        assert_eq!(logged, [1, 120, 120]);
        assert_eq!(log.take_changes(1_000_000), None, "nothing has changed");
    }
}
