//! How much one unit of work may do. The more connections have work left over, the shorter the
//! budget of each.

use std::time::Duration;

/// How much one unit of work may do before it yields to others: about a millisecond of work.
pub(crate) const FULL_STEPS: u32 = 8192;
/// How long it may last, where the work takes longer than usual.
const LONGEST: Duration = Duration::from_millis(2);
/// From twice this many connections with work left over on, budgets become smaller.
const WITH_FULL_BUDGET: u32 = 8;
/// The part of a full budget that is left to each, however many there are.
const SMALLEST_PART: u32 = 16;

/// How much one unit of work may do, in steps and in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepBudget {
    steps: u32,
    time: Duration,
}

impl StepBudget {
    pub(crate) const FULL: Self = Self {
        steps: FULL_STEPS,
        time: LONGEST,
    };

    /// How many cheap steps it may take.
    pub(crate) fn steps(self) -> u32 {
        self.steps
    }

    /// How long the unit of work may last.
    pub(super) fn time(self) -> Duration {
        self.time
    }

    /// The budget while `busy` connections have work left over. Up to 255 of them together take at
    /// most twice as long as [`WITH_FULL_BUDGET`] connections do.
    pub(crate) fn shared_by(busy: u32) -> Self {
        let parts = (busy / WITH_FULL_BUDGET).clamp(1, SMALLEST_PART);
        Self {
            steps: FULL_STEPS / parts,
            time: LONGEST / parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_connections_are_busy_all_their_budgets_together_are_a_few_full_ones() {
        let all = |busy: u32| StepBudget::shared_by(busy).steps * busy;
        assert_eq!(StepBudget::shared_by(0), StepBudget::FULL);
        assert_eq!(StepBudget::shared_by(1), StepBudget::FULL);
        for busy in 1..=WITH_FULL_BUDGET * SMALLEST_PART {
            assert!(all(busy) <= 2 * WITH_FULL_BUDGET * FULL_STEPS, "{busy}");
        }
        assert_eq!(
            StepBudget::shared_by(u32::MAX).steps,
            FULL_STEPS / SMALLEST_PART,
            "each goes on"
        );
    }
}
