//! The way in by Claude Code's `asyncRewake` hook: a waiting background hook, whose exit with code
//! 2 delivers its standard error to the model as a notification.
//!
//! The hook's exit proves nothing: Claude Code first writes that it accepted the text (`enqueue`).
//! The text is only in its memory then, and a dialog may be open for an hour. Seen with Claude Code
//! 2.1.197 and 2.1.332.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::proof::Proof;
use super::transcript::MessageStage;

/// Time limit for the row that Claude Code accepted the text.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(5);
/// Time limit for the proof after the text left Claude Code's queue; without it the text was
/// refused.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Interval between reads of the transcript before the text was accepted.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Interval between reads while an accepted text waits for a turn or a dialog.
const LOOK_LATER: Duration = Duration::from_millis(100);

/// The outcome of a text that a waiting hook delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookOutcome {
    /// It is in the model's context.
    InContext,
    /// A hook of the person refused it, for this reason in the transcript.
    Refused(String),
    /// It was accepted and left the queue, and nothing shows that the model has it: most likely a
    /// hook of the person refused it.
    Unread,
    /// Nothing shows that it was accepted.
    Unseen,
}

/// Watches the transcript for a text that a waiting hook delivers.
#[derive(Debug)]
pub struct HookDelivery {
    proof: Proof,
}

impl HookDelivery {
    /// Starts looking for these messages in rows that are written from now on. Call it before the
    /// hook gets the text.
    pub fn expect(ids: Vec<String>, transcript: &Path) -> Self {
        let mut proof = Proof::default();
        proof.expect(0, ids, Some(transcript));
        Self { proof }
    }

    /// Waits for the outcome, without a time limit once the text was accepted.
    pub async fn outcome(mut self) -> HookOutcome {
        let until = Instant::now() + ACCEPTED_WITHIN;
        let mut is_accepted = false;
        let mut queue_empty_since = None;
        loop {
            for (_, stage) in self.proof.look().await {
                match stage {
                    MessageStage::InContext => return HookOutcome::InContext,
                    MessageStage::Refused(why) => return HookOutcome::Refused(why),
                    _ => is_accepted = true,
                }
            }
            let now = Instant::now();
            if !is_accepted && now >= until {
                return HookOutcome::Unseen;
            }
            if is_accepted && self.proof.queue().is_empty() {
                if now >= *queue_empty_since.get_or_insert(now) + READ_WITHIN {
                    return HookOutcome::Unread;
                }
            } else {
                queue_empty_since = None;
            }
            let pause = if is_accepted { LOOK_LATER } else { LOOK_SOON };
            tokio::time::sleep(pause).await;
        }
    }
}
