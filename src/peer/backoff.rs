//! How long to wait before the next attempt to reach a broker: 0.1 s doubling to 5 s, with jitter.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses between attempts. Starts over after [`Backoff::reset`].
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Back to the shortest pause.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the next pause. `jitter`, between 0 and 1, shortens it by up to half, so that many
    /// sessions do not reconnect at once.
    pub fn next_pause(&mut self, jitter: f64) -> Duration {
        let full = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_tenth_of_a_second_to_five_seconds() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9)
            .map(|_| backoff.next_pause(0.0).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next_pause(1.0).as_millis(), 50);
    }
}
