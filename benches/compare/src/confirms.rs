//! Which publishes still wait for their confirm, and since when.

use crate::histogram::Histogram;

/// How far the oldest open publish may be behind the newest, in windows.
const SPREAD: u64 = 8;

/// A ring of send times; 0 means confirmed.
pub(crate) struct Confirms {
    sent: Vec<u64>,
    /// All below are confirmed.
    lowest: u64,
    /// One above the newest publish.
    next: u64,
    open: u64,
    outstanding: u64,
}

impl Confirms {
    pub(crate) fn new(outstanding: u64) -> Self {
        let slots = usize::try_from(outstanding * SPREAD)
            .unwrap_or(1)
            .next_power_of_two();
        Self {
            sent: vec![0; slots],
            lowest: 0,
            next: 0,
            open: 0,
            outstanding,
        }
    }

    /// How many may be published now.
    pub(crate) fn room(&self) -> u64 {
        let by_window = self.outstanding - self.open;
        by_window.min(self.sent.len() as u64 - (self.next - self.lowest))
    }

    pub(crate) fn all_confirmed(&self) -> bool {
        self.open == 0
    }

    pub(crate) fn published(&mut self, now: u64) {
        let slot = self.slot(self.next);
        self.sent[slot] = now.max(1);
        self.next += 1;
        self.open += 1;
    }

    /// An ack with the delivery tag `tag` came; how many publishes it settled.
    pub(crate) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        now: u64,
        latencies: &mut Histogram,
    ) -> u64 {
        let first = if multiple {
            self.lowest
        } else {
            tag.saturating_sub(1)
        };
        let mut settled = 0;
        for sequence in first..tag.min(self.next) {
            let slot = self.slot(sequence);
            let sent = std::mem::take(&mut self.sent[slot]);
            if sent > 0 {
                latencies.record(now.saturating_sub(sent));
                settled += 1;
            }
        }
        while self.lowest < self.next && self.sent[self.slot(self.lowest)] == 0 {
            self.lowest += 1;
        }
        self.open -= settled;
        settled
    }

    fn slot(&self, sequence: u64) -> usize {
        usize::try_from(sequence).unwrap_or(0) & (self.sent.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_out_of_order_are_counted_once() {
        let mut confirms = Confirms::new(6);
        let mut latencies = Histogram::default();
        for _ in 0..6 {
            confirms.published(1);
        }
        assert_eq!(confirms.room(), 0);
        assert_eq!(confirms.settle(5, false, 2, &mut latencies), 1);
        assert_eq!(confirms.settle(6, false, 2, &mut latencies), 1);
        assert_eq!(confirms.settle(3, true, 2, &mut latencies), 3);
        assert_eq!(confirms.settle(6, true, 2, &mut latencies), 1);
        assert!(confirms.all_confirmed());
        assert_eq!(confirms.room(), 6);
    }
}
