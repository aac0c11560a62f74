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
/// A text that left Claude Code's queue and is not in the context within this was refused.
const READ_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// An accepted text waits behind a turn or a dialog.
const LOOK_LATER: Duration = Duration::from_millis(100);

/// What became of a text that a waiting hook carried in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The model has it.
    InContext,
    /// A hook of the person's refused it, and why: the transcript says so.
    Refused(String),
    /// It was accepted and its turn came, and nothing says that the model has it: a hook of the
    /// person's refused it, as far as can be known.
    Unread,
    /// Nothing says that it was accepted.
    Unseen,
}

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

    /// Waits until its fate is known, without limit once it was accepted.
    pub async fn fate(mut self) -> Fate {
        let until = Instant::now() + ACCEPTED_WITHIN;
        let mut is_accepted = false;
        let mut queue_empty_since = None;
        loop {
            for (_, stage) in self.proof.look().await {
                match stage {
                    Stage::InContext => return Fate::InContext,
                    Stage::Refused(why) => return Fate::Refused(why),
                    _ => is_accepted = true,
                }
            }
            let now = Instant::now();
            if !is_accepted && now >= until {
                return Fate::Unseen;
            }
            if is_accepted && self.proof.queue().is_empty() {
                if now >= *queue_empty_since.get_or_insert(now) + READ_WITHIN {
                    return Fate::Unread;
                }
            } else {
                queue_empty_since = None;
            }
            let pause = if is_accepted { LOOK_LATER } else { LOOK_EVERY };
            tokio::time::sleep(pause).await;
        }
    }
}
