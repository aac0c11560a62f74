//! How many requests of other users a session answers: a flood of them must not become a flood of
//! answers. Time is an argument.

use std::time::{Duration, Instant};

/// Answers that may be given at once.
const BURST: u32 = 20;
/// One more answer is allowed after each such time.
const EVERY: Duration = Duration::from_millis(200);

/// The answers that are left.
#[derive(Debug)]
pub(super) struct AnswerBudget {
    left: u32,
    /// When the last answer was added.
    filled: Instant,
}

impl AnswerBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            filled: now,
        }
    }

    /// Whether one more answer may be given; it is counted.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.filled).as_millis() / EVERY.as_millis();
        let added = u32::try_from(passed).unwrap_or(u32::MAX).min(BURST);
        if added > 0 {
            self.left = (self.left + added).min(BURST);
            self.filled = now;
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_requests_is_answered_at_a_bounded_rate() {
        let start = Instant::now();
        let mut budget = AnswerBudget::new(start);
        let answered =
            |budget: &mut AnswerBudget, now| (0..10_000).filter(|_| budget.spend(now)).count();
        assert_eq!(answered(&mut budget, start), 20);
        assert_eq!(answered(&mut budget, start + EVERY), 1);
        assert_eq!(answered(&mut budget, start + EVERY * 3), 2);
        assert_eq!(answered(&mut budget, start + EVERY * 1000), 20);
    }

    #[test]
    fn requests_now_and_then_are_all_answered() {
        let start = Instant::now();
        let mut budget = AnswerBudget::new(start);
        assert!((0..1000).all(|number| budget.spend(start + EVERY * number)));
    }
}
