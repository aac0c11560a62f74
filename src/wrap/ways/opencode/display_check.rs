//! Checks by the terminal's title whether opencode shows the session that cbroker began, and
//! repeats the request if not: a program that is still starting ignores it. Pure: time is an
//! argument.

use std::time::Duration;

use tokio::time::Instant;

use super::sessions::Visibility;

/// Interval between checks.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// How long the title is checked: opencode titles a session while its first turn runs.
const LIMIT: Duration = Duration::from_mins(5);
/// How often the request to show the session is repeated.
const MAX_REQUESTS: u8 = 5;

/// A session that cbroker began and that may not be on the screen.
#[derive(Debug)]
pub(super) struct DisplayCheck {
    session: String,
    due: Instant,
    until: Instant,
    requests_left: u8,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckResult {
    /// Check again later.
    CheckAgain,
    /// Repeat the request, and check again later.
    ShowAgain,
    /// The session is shown, or further checks are useless.
    Done,
}

impl DisplayCheck {
    /// Creates a check of a session that opencode was asked at `now` to show.
    pub(super) fn of(session: &str, now: Instant) -> Self {
        Self {
            session: session.to_owned(),
            due: now + INTERVAL,
            until: now + LIMIT,
            requests_left: MAX_REQUESTS,
        }
    }

    /// The session's id.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// When the next check is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Checks the session, whose visibility at `now` is `visibility`.
    pub(super) fn check(&mut self, visibility: Visibility, now: Instant) -> CheckResult {
        self.due = now + INTERVAL;
        match visibility {
            Visibility::Unknown if now < self.until => CheckResult::CheckAgain,
            Visibility::Hidden if self.requests_left > 0 => {
                self.requests_left -= 1;
                CheckResult::ShowAgain
            }
            Visibility::Unknown | Visibility::Hidden | Visibility::Settled => CheckResult::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_shown_again_a_few_times_and_checked_for_a_while() {
        let now = Instant::now();
        let mut check = DisplayCheck::of("s1", now);
        assert_eq!(
            check.check(Visibility::Unknown, now),
            CheckResult::CheckAgain
        );
        for _ in 0..MAX_REQUESTS {
            assert_eq!(check.check(Visibility::Hidden, now), CheckResult::ShowAgain);
        }
        assert_eq!(check.check(Visibility::Hidden, now), CheckResult::Done);
        assert_eq!(check.check(Visibility::Settled, now), CheckResult::Done);
        let late = now + LIMIT;
        assert_eq!(
            DisplayCheck::of("s1", now).check(Visibility::Unknown, late),
            CheckResult::Done
        );
    }
}
