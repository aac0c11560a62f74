//! Bounds how often a line is logged that clients can cause as often as they like.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Admits one line in each interval, and counts the others.
#[derive(Debug)]
pub(crate) struct LogLimit {
    every_ms: u64,
    /// When the last line was admitted; 0 for never.
    admitted_ms: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    pub(crate) const fn new(every_ms: u64) -> Self {
        Self {
            every_ms,
            admitted_ms: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether a line is logged now. Returns how many were left out since the last one.
    pub(crate) fn admit(&self, now_ms: u64) -> Option<u64> {
        let before = self.admitted_ms.load(Relaxed);
        // The clock may have been set back.
        let is_due = before == 0 || now_ms.abs_diff(before) >= self.every_ms;
        let exchange = |before| {
            let admitted = &self.admitted_ms;
            admitted.compare_exchange(before, now_ms, Relaxed, Relaxed)
        };
        if is_due && exchange(before).is_ok() {
            return Some(self.left_out.swap(0, Relaxed));
        }
        self.left_out.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_an_interval_says_how_many_were_left_out() {
        let limit = LogLimit::new(1_000);
        assert_eq!(limit.admit(5_000), Some(0));
        for at_ms in [5_000, 5_400, 5_999] {
            assert_eq!(limit.admit(at_ms), None);
        }
        assert_eq!(limit.admit(6_000), Some(3));
        assert_eq!(limit.admit(9_000), Some(0));
    }

    #[test]
    fn a_clock_that_was_set_back_silences_nothing() {
        let limit = LogLimit::new(1_000);
        assert_eq!(limit.admit(9_000_000), Some(0));
        assert_eq!(limit.admit(1_000_000), Some(0));
        assert_eq!(limit.admit(1_000_500), None);
    }
}
