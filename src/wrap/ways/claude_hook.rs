//! Claude Code's `asyncRewake` hook: a background hook that waits, and whose end with code 2 wakes
//! the agent with what it wrote. The model reads it as a notification.
//!
//! The hook's end proves nothing: Claude Code first writes that it accepted the text (`enqueue`),
//! while a dialog may stand for an hour, and the text is only in its memory then. Seen with
//! Claude Code 2.1.197 and 2.1.332.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::proof::Proof;
use super::transcript::Stage;

/// A text that Claude Code has not accepted within this was not taken.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// An accepted text waits behind a turn or a dialog.
const LOOK_LATER: Duration = Duration::from_millis(100);

/// What the transcript says of a text that a waiting hook carries in.
#[derive(Debug)]
pub struct Carried {
    proof: Proof,
}

impl Carried {
    /// Looks for these messages in what is written from now on: before the hook has the text.
    pub fn expect(ids: Vec<String>, transcript: &Path) -> Self {
        let mut proof = Proof::default();
        proof.expect(0, ids, Some(transcript));
        Self { proof }
    }

    /// Whether they are in the model's context. Waits without limit once they were accepted.
    pub async fn is_in_context(mut self) -> bool {
        let until = Instant::now() + ACCEPTED_WITHIN;
        let mut is_accepted = false;
        loop {
            for (_, stage) in self.proof.look().await {
                match stage {
                    Stage::InContext => return true,
                    _ => is_accepted = true,
                }
            }
            if !is_accepted && Instant::now() >= until {
                return false;
            }
            let pause = if is_accepted { LOOK_LATER } else { LOOK_EVERY };
            tokio::time::sleep(pause).await;
        }
    }
}
