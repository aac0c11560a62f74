//! The way in by Claude Code's `asyncRewake` hook: a waiting background hook, whose exit with code
//! 2 delivers its standard error to the model as a notification.
//!
//! The hook's exit proves nothing: Claude Code first writes that it accepted the text (`enqueue`).
//! The text is only in its memory then, and a dialog may be open for an hour. Seen with Claude Code
//! 2.1.197 and 2.1.332.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::process;
use super::proof::Proof;
use super::transcript::MessageStage;

/// Time limit for the row that Claude Code accepted the text.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(5);
/// Time limit for the proof after the text left Claude Code's queue; without it the text was
/// refused.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Interval between reads of the transcript before the text was accepted.
const CHECK_SOON: Duration = Duration::from_millis(20);
/// Interval between reads while an accepted text waits for a turn or a dialog.
const CHECK_LATER: Duration = Duration::from_millis(100);

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
    /// The agent's process ended before the proof.
    Lost,
}

/// Watches the transcript for a text that a waiting hook delivers.
#[derive(Debug)]
pub struct HookDelivery {
    proof: Proof,
    /// The agent's process that has the text, if known.
    pid: Option<i32>,
}

impl HookDelivery {
    /// Starts looking for these messages in rows that are written from now on. Call it before the
    /// hook of the agent's process `pid` gets the text.
    pub fn expect(ids: Vec<String>, transcript: &Path, pid: Option<i32>) -> Self {
        let mut proof = Proof::default();
        proof.expect(0, ids, Some(transcript));
        Self { proof, pid }
    }

    /// Waits for the outcome. Once the text was accepted, that takes as long as the process lives.
    pub async fn outcome(mut self) -> HookOutcome {
        let until = Instant::now() + ACCEPTED_WITHIN;
        let mut is_accepted = false;
        let mut queue_empty_since = None;
        loop {
            // Checked before the rows are read, so that rows written before the process ended
            // count.
            let is_gone = self.pid.is_some_and(|pid| !process::is_alive(pid));
            for (_, stage) in self.proof.read_new_rows().await {
                match stage {
                    MessageStage::InContext => return HookOutcome::InContext,
                    MessageStage::Refused(why) => return HookOutcome::Refused(why),
                    MessageStage::Enqueued
                    | MessageStage::SomethingEnqueued
                    | MessageStage::SomethingDequeued => is_accepted = true,
                }
            }
            if is_gone {
                return HookOutcome::Lost;
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
            let pause = if is_accepted { CHECK_LATER } else { CHECK_SOON };
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;
    use std::process::Command;

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_accepted_text_is_lost_with_its_process() {
        // It was waited for as long as the wrap ran, and all later messages with it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let mut transcript = std::fs::File::create(&path).unwrap();
        let mut process = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        let delivery = HookDelivery::expect(vec!["01".into()], &path, Some(pid));
        let text = "[cbroker peer message from=a id=01] look [end]";
        let row = json!({"type": "queue-operation", "operation": "enqueue", "content": text});
        writeln!(transcript, "{row}").unwrap();
        let outcome = delivery.outcome();
        tokio::pin!(outcome);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut outcome).await;
        assert!(early.is_err(), "{early:?}");
        process.kill().unwrap();
        process.wait().unwrap();
        let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await;
        assert_eq!(outcome.unwrap(), HookOutcome::Lost);
    }
}
