//! Checks by the terminal's title whether opencode shows the session that we began, and repeats the
//! request if not: a program that is still starting ignores it. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::sessions::Sight;

/// How often the terminal's title is looked at.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// For so long: a session's title is made while its first turn runs.
const LIMIT: Duration = Duration::from_mins(5);
/// So often the session is shown again.
const SHOWINGS: u8 = 5;

/// A session that we began, and that may not be on the screen.
#[derive(Debug)]
pub(super) struct Showing {
    session: String,
    look_at: Instant,
    until: Instant,
    showings_left: u8,
}

/// What a look at the screen leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookResult {
    /// It is looked at again.
    Wait,
    /// The session has to be shown again.
    Show,
    /// The session is shown, or there is no use in looking again.
    Over,
}

impl Showing {
    /// A session whose program was asked at `now` to show it.
    pub(super) fn of(session: &str, now: Instant) -> Self {
        Self {
            session: session.to_owned(),
            look_at: now + EVERY,
            until: now + LIMIT,
            showings_left: SHOWINGS,
        }
    }

    /// The session's id.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// When to look next.
    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// A look at `now`, at which the session was seen so.
    pub(super) fn look(&mut self, sight: Sight, now: Instant) -> LookResult {
        self.look_at = now + EVERY;
        match sight {
            Sight::Unknown if now < self.until => LookResult::Wait,
            Sight::Hidden if self.showings_left > 0 => {
                self.showings_left -= 1;
                LookResult::Show
            }
            Sight::Unknown | Sight::Hidden | Sight::Settled => LookResult::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_shown_again_a_few_times_and_looked_for_a_while() {
        let now = Instant::now();
        let mut showing = Showing::of("s1", now);
        assert_eq!(showing.look(Sight::Unknown, now), LookResult::Wait);
        for _ in 0..SHOWINGS {
            assert_eq!(showing.look(Sight::Hidden, now), LookResult::Show);
        }
        assert_eq!(showing.look(Sight::Hidden, now), LookResult::Over);
        assert_eq!(showing.look(Sight::Settled, now), LookResult::Over);
        let late = now + LIMIT;
        assert_eq!(
            Showing::of("s1", now).look(Sight::Unknown, late),
            LookResult::Over
        );
    }
}
