//! Looks for messages that were handed over in transcripts: Claude Code's, and Codex's rollout
//! files.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::task::JoinHandle;

use super::SubmissionNumber;
use super::transcript::{MessageStage, Row, Transcript};

/// Transcripts, and the messages that are looked for in them.
#[derive(Debug, Default)]
pub struct Proof {
    transcripts: Vec<Transcript>,
    /// A read that was cancelled half-way; it owns the transcripts that it reads.
    reading: Option<JoinHandle<(Vec<Transcript>, Vec<Row>)>>,
    waiting: BTreeMap<SubmissionNumber, Vec<String>>,
    queue: QueueRows,
}

/// Counts of the rows about the agent's queue since the search began. The rows do not name texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRows {
    enqueued: u64,
    dequeued: u64,
}

impl QueueRows {
    /// Whether something was accepted.
    pub fn has_accepted(self) -> bool {
        self.enqueued > 0
    }

    /// Whether nothing that was accepted is still waiting.
    pub fn is_empty(self) -> bool {
        self.dequeued >= self.enqueued
    }
}

impl Proof {
    /// Starts looking for a text with these messages, in rows that are written from now on. Call it
    /// before the text is handed over.
    pub fn expect(
        &mut self,
        number: SubmissionNumber,
        ids: Vec<String>,
        transcript: Option<&Path>,
    ) {
        if self.waiting.is_empty() {
            self.transcripts.clear();
            self.reading = None;
            self.queue = QueueRows::default();
        }
        if let Some(path) = transcript.filter(|path| !self.reads(path)) {
            self.transcripts.push(Transcript::from_end(path));
        }
        self.waiting.insert(number, ids);
    }

    /// Adds the transcript that the session writes now: `/clear`, `/resume` and a move to the
    /// background begin a new one. It is read from its start, because it may hold texts that were
    /// handed over before.
    pub fn follow(&mut self, path: &Path) {
        if !self.waiting.is_empty() && !self.reads(path) {
            self.transcripts.push(Transcript::from_start(path));
        }
    }

    /// The counts of the agent's queue.
    pub fn queue(&self) -> QueueRows {
        self.queue
    }

    /// Whether any text is looked for.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Stops looking for a text.
    pub fn forget(&mut self, number: SubmissionNumber) {
        self.waiting.remove(&number);
    }

    /// Reads the new rows and returns how far each text got. The search for a text ends once it is
    /// in the context or was refused.
    ///
    /// A transcript that cannot be read proves nothing. Cancel safe: the next call continues.
    pub async fn read_new_rows(&mut self) -> Vec<(SubmissionNumber, MessageStage)> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let reading = self.reading.get_or_insert_with(|| {
            let transcripts = std::mem::take(&mut self.transcripts);
            tokio::task::spawn_blocking(move || read(transcripts))
        });
        let read = reading.await;
        self.reading = None;
        let Ok((mut transcripts, rows)) = read else {
            return Vec::new();
        };
        let is_new = |new: &Transcript| transcripts.iter().all(|known| known.path() != new.path());
        self.transcripts.retain(is_new);
        transcripts.append(&mut self.transcripts);
        self.transcripts = transcripts;
        let mut found = Vec::new();
        for row in rows {
            match &row.stage {
                MessageStage::Enqueued | MessageStage::SomethingEnqueued => {
                    self.queue.enqueued += 1;
                }
                MessageStage::SomethingDequeued => self.queue.dequeued += 1,
                MessageStage::InContext | MessageStage::Refused(_) => {}
            }
            let named = |ids: &Vec<String>| {
                !row.ids.is_empty() && ids.iter().all(|id| row.ids.contains(id))
            };
            let numbers = self.waiting.iter().filter(|(_, ids)| named(ids));
            found.extend(numbers.map(|(&number, _)| (number, row.stage.clone())));
        }
        for (number, stage) in &found {
            if matches!(stage, MessageStage::InContext | MessageStage::Refused(_)) {
                self.waiting.remove(number);
            }
        }
        found
    }

    fn reads(&self, path: &Path) -> bool {
        self.transcripts.iter().any(|known| known.path() == path)
    }
}

/// Reads the rows that were written since the last read.
fn read(mut transcripts: Vec<Transcript>) -> (Vec<Transcript>, Vec<Row>) {
    let mut rows = Vec::new();
    for transcript in &mut transcripts {
        rows.extend(transcript.read().unwrap_or_default());
    }
    (transcripts, rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn row(id: &str) -> String {
        let line = format!("[cbroker peer message from=a id={id}] x [end]");
        let row = serde_json::json!({"type": "user", "message": {"content": line}});
        format!("{row}\n")
    }

    #[tokio::test]
    async fn a_text_is_found_once_all_its_messages_are_in_the_context() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.jsonl");
        std::fs::write(&path, row("01")).unwrap();
        let mut proof = Proof::default();
        proof.expect(7, vec!["01".into()], Some(&path));
        assert_eq!(
            proof.read_new_rows().await,
            [],
            "written before it was handed over"
        );
        std::fs::write(&path, row("00") + &row("01") + &row("01")).unwrap();
        assert_eq!(
            proof.read_new_rows().await,
            [(7, MessageStage::InContext), (7, MessageStage::InContext)]
        );
        assert!(proof.waiting.is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_look_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.jsonl");
        let mut proof = Proof::default();
        proof.expect(7, vec!["01".into()], Some(&path));
        std::fs::write(&path, row("01")).unwrap();
        tokio::select! {
            biased;
            _ = proof.read_new_rows() => panic!("a file is never read at once"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(proof.read_new_rows().await, [(7, MessageStage::InContext)]);
    }

    #[tokio::test]
    async fn the_search_ends_when_a_hook_refuses_the_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.jsonl");
        let mut proof = Proof::default();
        proof.expect(7, vec!["01".into()], Some(&path));
        let says = "UserPromptSubmit operation blocked by hook:\n[x]: no\n\nOriginal prompt: ";
        let text = format!("{says}[cbroker peer message from=a id=01] x [end]");
        let blocked = serde_json::json!({
            "type": "system", "subtype": "informational", "content": text,
        });
        // A tool may have printed the same.
        let quoted = serde_json::json!({"type": "system", "subtype": "other", "content": text});
        std::fs::write(&path, format!("{quoted}\n{blocked}\n")).unwrap();
        assert_eq!(
            proof.read_new_rows().await,
            [(7, MessageStage::Refused(text))]
        );
        assert!(proof.waiting.is_empty());
    }

    #[tokio::test]
    async fn a_new_transcript_is_read_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let mut proof = Proof::default();
        proof.expect(7, vec!["01".into()], Some(&one));
        std::fs::write(&two, row("01")).unwrap();
        assert_eq!(proof.read_new_rows().await, []);
        proof.follow(&two);
        assert_eq!(proof.read_new_rows().await, [(7, MessageStage::InContext)]);
    }
}
