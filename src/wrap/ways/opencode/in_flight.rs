//! A text that was handed over to opencode's API, and how far it got.

use std::time::Duration;

use tokio::time::Instant;

use crate::wrap::ways::Submission;

/// Pause before a request that was certainly not sent is repeated.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// A text that was handed over.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) submission: Submission,
    /// The ids of its messages without a proof.
    pub(super) unread: Vec<String>,
    pub(super) stage: Progress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits for the turn's end, or until its request can be repeated.
    Waits(Option<Instant>),
    /// It is in the request to the server, or the server accepted it, for this session.
    Sent(String),
    /// Its request had no response; it is looked for until this time.
    Unknown(Instant),
    /// It was given up.
    GivenUp,
}

impl InFlight {
    pub(super) fn new(submission: Submission) -> Self {
        Self {
            unread: submission.ids.clone(),
            submission,
            stage: Progress::Waits(None),
        }
    }

    pub(super) fn waits(&self) -> bool {
        matches!(self.stage, Progress::Waits(_))
    }

    /// Whether it was sent to this session.
    pub(super) fn is_in(&self, session: &str) -> bool {
        matches!(&self.stage, Progress::Sent(to) if to == session)
    }
}

impl Progress {
    /// The stage of a text whose request was certainly not sent and is repeated soon.
    pub(super) fn retry_soon() -> Self {
        Self::Waits(Some(Instant::now() + PAUSE))
    }
}
