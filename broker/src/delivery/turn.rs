//! How much one turn may do. The more connections have work left over, the shorter each one's turn.

use std::time::Duration;

/// How much one turn may do before it yields to others: about a millisecond of work.
pub(crate) const TURN_UNITS: u32 = 8192;
/// How long it may last, where the work takes longer than usual.
const LONGEST: Duration = Duration::from_millis(2);
/// From twice this many connections with work left over on, turns become shorter.
const WITH_FULL_TURNS: u32 = 8;
/// The part of a full turn that is left to each, however many there are.
const SMALLEST_PART: u32 = 16;

/// How much one turn may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TurnLimit {
    units: u32,
    time: Duration,
}

impl TurnLimit {
    pub(crate) const FULL: Self = Self {
        units: TURN_UNITS,
        time: LONGEST,
    };

    /// Units of one cheap step.
    pub(crate) fn units(self) -> u32 {
        self.units
    }

    /// How long the turn may last.
    pub(super) fn time(self) -> Duration {
        self.time
    }

    /// A turn while `busy` connections have work left over. Up to 255 of them together take at most
    /// twice as long as [`WITH_FULL_TURNS`] connections do.
    pub(crate) fn among(busy: u32) -> Self {
        let parts = (busy / WITH_FULL_TURNS).clamp(1, SMALLEST_PART);
        Self {
            units: TURN_UNITS / parts,
            time: LONGEST / parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_connections_are_busy_all_their_turns_together_are_a_few_full_ones() {
        let all = |busy: u32| TurnLimit::among(busy).units * busy;
        assert_eq!(TurnLimit::among(0), TurnLimit::FULL);
        assert_eq!(TurnLimit::among(1), TurnLimit::FULL);
        for busy in 1..=WITH_FULL_TURNS * SMALLEST_PART {
            assert!(all(busy) <= 2 * WITH_FULL_TURNS * TURN_UNITS, "{busy}");
        }
        assert_eq!(
            TurnLimit::among(u32::MAX).units,
            TURN_UNITS / SMALLEST_PART,
            "each goes on"
        );
    }
}
