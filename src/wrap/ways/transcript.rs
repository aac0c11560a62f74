//! Reads Claude Code's transcript, whose rows prove that a message is in the model's context.
//!
//! A transcript is a file of JSON objects, one a line, that grows while the session runs. Codex's
//! rollout files have the same form.
//!
//! | row | meaning |
//! |---|---|
//! | `type: "user"` | its text is in the model's context |
//! | `type: "attachment"` with `attachment.type: "queued_command"` | the same, in a running turn |
//! | `type: "queue-operation"`, `operation: "enqueue"` | accepted; still only in memory |
//! | `type: "queue-operation"` with another operation | something left that queue |
//! | `type: "system"`, `subtype: "informational"`, a hook blocked the prompt | refused |
//! | `type: "user"` with `tool_result` blocks | output of a tool, which may quote any text |
//! | Codex: `type: "response_item"`, a `message` of the user | its text is in the model's context |
//!
//! For the inbox socket, the `enqueue` row does not name the accepted text.
//!
//! The path comes from the agent and may name anything, so only a regular file is opened, without
//! waiting for the other end of a FIFO, and read from an offset onwards.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The beginning of each message's line.
const OPENING: &str = "[cbroker peer message from=";
/// The beginning of the text of a row about a prompt that a hook of the person refused. The prompt
/// follows. Seen with 2.1.197 and 2.1.332.
const BLOCKED: &str = "UserPromptSubmit operation blocked by hook";
/// The type of a row about the queue of accepted texts.
const QUEUE: &str = "queue-operation";
/// Maximum bytes of such a row without the text of a message.
const QUEUE_ROW: usize = 4096;
/// Buffer size of one read.
const PIECE: usize = 64 * 1024;
/// Maximum bytes that one call of [`Transcript::read`] reads; the next call continues.
const READ_LIMIT: u64 = 8 << 20;
/// Longer rows are skipped. A message of 1 MiB has at most 6 MiB as a JSON string.
const ROW_LIMIT: usize = 16 << 20;

/// A row about messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// How far the messages got.
    pub stage: MessageStage,
    /// The ids of the messages in the row's text, in order.
    pub ids: Vec<String>,
}

/// How far the messages of a row got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageStage {
    /// Accepted, and not yet in the model's context.
    Enqueued,
    /// Something was accepted; the row does not say what.
    SomethingEnqueued,
    /// Something left the queue.
    SomethingDequeued,
    /// In the model's context.
    InContext,
    /// A hook of the person refused them, for this reason in the agent's words.
    Refused(String),
}

/// A transcript that is read as it grows.
#[derive(Debug)]
pub struct Transcript {
    path: PathBuf,
    offset: u64,
    /// The beginning of an incomplete row.
    partial: Vec<u8>,
    /// The current row is too long and is skipped.
    is_skipping: bool,
}

impl Transcript {
    /// Opens a transcript at its current end. A file that does not exist yet is read from its
    /// start.
    pub fn from_end(path: &Path) -> Self {
        let offset = open(path)
            .and_then(|file| file.metadata())
            .map_or(0, |metadata| metadata.len());
        Self {
            offset,
            ..Self::from_start(path)
        }
    }

    /// Opens a transcript at its start.
    pub fn from_start(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            offset: 0,
            partial: Vec::new(),
            is_skipping: false,
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the rows about messages that were written since the last call, oldest first.
    ///
    /// A file that does not exist yet has no rows. A file that shrank is read from its start.
    ///
    /// # Errors
    /// If the path does not name a regular file, or cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<Row>> {
        let mut file = match open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.offset {
            *self = Self::from_start(&self.path);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut file = file.take(READ_LIMIT);
        let mut piece = vec![0; PIECE];
        let mut rows = Vec::new();
        loop {
            let count = file.read(&mut piece)?;
            if count == 0 {
                return Ok(rows);
            }
            self.offset += count as u64;
            self.take_piece(&piece[..count], &mut rows);
        }
    }

    fn take_piece(&mut self, mut piece: &[u8], rows: &mut Vec<Row>) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            self.partial.extend_from_slice(&piece[..end]);
            if !self.is_skipping {
                rows.extend(parse_row(&self.partial));
            }
            self.is_skipping = false;
            self.partial.clear();
            piece = &piece[end + 1..];
        }
        if !self.is_skipping {
            self.partial.extend_from_slice(piece);
        }
        if self.partial.len() > ROW_LIMIT {
            self.is_skipping = true;
            self.partial = Vec::new();
        }
    }
}

/// Opens a regular file, without waiting for the other end of a FIFO.
///
/// # Errors
/// If the path does not name a regular file, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Parses a row that names messages or is about the queue; `None` for any other row.
fn parse_row(line: &[u8]) -> Option<Row> {
    // Most rows are not about messages, and some have megabytes, so they are searched before they
    // are parsed.
    let is_short = line.len() <= QUEUE_ROW;
    let is_of_queue = is_short && memchr::memmem::find(line, QUEUE.as_bytes()).is_some();
    if !is_of_queue {
        memchr::memmem::find(line, OPENING.as_bytes())?;
    }
    let row: Value = serde_json::from_slice(line).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (stage, text) = match row["type"].as_str()? {
        "user" => (
            MessageStage::InContext,
            prompt_of(&row["message"]["content"]),
        ),
        "attachment" if row["attachment"]["type"] == "queued_command" => (
            MessageStage::InContext,
            prompt_of(&row["attachment"]["prompt"]),
        ),
        QUEUE if row["operation"] == "enqueue" => (MessageStage::Enqueued, text(&row["content"])),
        QUEUE => (MessageStage::SomethingDequeued, String::new()),
        "system" if row["subtype"] == "informational" => refused(text(&row["content"]))?,
        "response_item" => (MessageStage::InContext, prompt_of_codex(&row["payload"])?),
        _ => return None,
    };
    let ids = ids_in(&text);
    if is_of_queue && row["type"] == QUEUE && ids.is_empty() {
        let stage = match stage {
            MessageStage::Enqueued => MessageStage::SomethingEnqueued,
            _ => MessageStage::SomethingDequeued,
        };
        return Some(Row { stage, ids });
    }
    (!ids.is_empty()).then_some(Row { stage, ids })
}

/// The stage and the text of a row about a refused prompt.
fn refused(text: String) -> Option<(MessageStage, String)> {
    text.starts_with(BLOCKED)
        .then(|| (MessageStage::Refused(text.clone()), text))
}

/// The text of a prompt, which is a string or a list of blocks.
fn prompt_of(content: &Value) -> String {
    match content.as_array() {
        Some(blocks) => texts_of(blocks, "text"),
        None => content.as_str().unwrap_or_default().to_owned(),
    }
}

/// The text of a prompt in Codex's rollout file.
fn prompt_of_codex(item: &Value) -> Option<String> {
    if item["type"] != "message" || item["role"] != "user" {
        return None;
    }
    Some(texts_of(item["content"].as_array()?, "input_text"))
}

fn texts_of(blocks: &[Value], kind: &str) -> String {
    let texts = blocks
        .iter()
        .filter(|block| block["type"] == kind)
        .filter_map(|block| block["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// The ids in the openings of message lines. The text of a message never contains an opening.
pub fn ids_in(text: &str) -> Vec<String> {
    text.split(OPENING)
        .skip(1)
        .filter_map(|behind| {
            let (head, _) = behind.split_once(']')?;
            let (_, id) = head.split_once(" id=")?;
            Some(id.split(' ').next()?.to_owned())
        })
        .collect()
}

/// The senders in the openings of message lines, without duplicates, in order.
pub fn senders_in(text: &str) -> Vec<&str> {
    let mut senders = Vec::new();
    for behind in text.split(OPENING).skip(1) {
        let name = behind.split([' ', ']']).next();
        let name = name.filter(|name| !senders.contains(name));
        senders.extend(name);
    }
    senders
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use serde_json::json;

    use super::*;

    const LINE: &str = "[cbroker peer message from=a id=01] look [end]";

    struct Written {
        folder: tempfile::TempDir,
    }

    impl Written {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("transcript.jsonl")
        }

        fn append(&self, text: &str) {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path())
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn row(&self, row: &Value) {
            self.append(&format!("{row}\n"));
        }
    }

    fn in_context(ids: &[&str]) -> Row {
        Row {
            stage: MessageStage::InContext,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    #[test]
    fn a_prompt_of_the_plugin_is_in_the_context() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        written.row(
            &json!({"type": "user", "origin": {"kind": "plugin", "name": "cbroker"},
            "message": {"role": "user", "content": LINE}}),
        );
        let rows = transcript.read().unwrap();
        assert_eq!(rows, [in_context(&["01"])]);
        assert_eq!(transcript.read().unwrap(), []);
    }

    #[test]
    fn messages_that_shared_a_submission_are_all_named() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        let text = format!("{LINE}\n{}", LINE.replace("id=01", "id=02 reply_to=b"));
        let blocks = json!([{"type": "text", "text": text}]);
        written.row(&json!({"type": "user", "message": {"content": blocks}}));
        let rows = transcript.read().unwrap();
        assert_eq!(rows, [in_context(&["01", "02"])]);
    }

    #[test]
    fn an_opening_without_an_end_takes_no_id_of_the_next() {
        let open = format!("{OPENING}a {LINE}");
        assert_eq!(ids_in(&open), ["01"]);
        assert_eq!(ids_in(&format!("{open} {OPENING}b id=")), ["01"]);
    }

    #[test]
    fn a_queued_command_of_a_running_turn_is_in_the_context() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        written.row(&json!({"type": "attachment",
            "attachment": {"type": "queued_command", "prompt": LINE}}));
        assert_eq!(transcript.read().unwrap(), [in_context(&["01"])]);
    }

    #[test]
    fn a_prompt_in_a_rollout_of_codex_is_in_the_context() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        let item = |kind: &str, role: &str| {
            json!({"type": "response_item", "payload": {"type": kind, "role": role,
            "content": [{"type": "input_text", "text": LINE}], "output": LINE}})
        };
        written.row(&item("message", "user"));
        assert_eq!(transcript.read().unwrap(), [in_context(&["01"])]);
        written.row(&item("function_call_output", "user"));
        written.row(&item("message", "assistant"));
        written.row(&json!({"type": "event_msg", "payload": {"type": "x", "text": LINE}}));
        assert_eq!(transcript.read().unwrap(), []);
    }

    #[test]
    fn an_enqueued_message_is_not_in_the_context() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        written.row(&json!({"type": "queue-operation", "operation": "enqueue", "content": LINE}));
        written.row(&json!({"type": "queue-operation", "operation": "remove", "content": LINE}));
        let bare = json!({"type": "queue-operation", "operation": "enqueue"});
        written.row(&bare);
        let stages = transcript.read().unwrap().into_iter().map(|row| row.stage);
        let stages: Vec<MessageStage> = stages.collect();
        let expected = [
            MessageStage::Enqueued,
            MessageStage::SomethingDequeued,
            MessageStage::SomethingEnqueued,
        ];
        assert_eq!(stages, expected);
    }

    #[test]
    fn a_quoted_message_proves_nothing() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        let result = json!([{"type": "tool_result", "content": LINE}]);
        written.row(&json!({"type": "user", "message": {"content": result}}));
        written.row(&json!({"type": "api-request-blob", "message": {"content": LINE}}));
        written.row(&json!({"type": "last-prompt", "lastPrompt": LINE}));
        written.row(&json!({"type": "user", "message": {"content": "about id=01] again"}}));
        assert_eq!(transcript.read().unwrap(), []);
    }

    #[test]
    fn only_rows_written_after_the_start_are_read() {
        let written = Written::new();
        let row = json!({"type": "user", "message": {"content": LINE}});
        written.row(&row);
        assert_eq!(Transcript::from_end(&written.path()).read().unwrap(), []);
        let mut transcript = Transcript::from_start(&written.path());
        assert_eq!(transcript.read().unwrap().len(), 1);
    }

    #[test]
    fn a_row_is_read_once_it_is_complete() {
        let written = Written::new();
        let mut transcript = Transcript::from_start(&written.path());
        let row = json!({"type": "user", "message": {"content": LINE}}).to_string();
        written.append(&row[..20]);
        assert_eq!(transcript.read().unwrap(), []);
        written.append(&row[20..]);
        assert_eq!(transcript.read().unwrap(), []);
        written.append("\n");
        assert_eq!(transcript.read().unwrap(), [in_context(&["01"])]);
    }

    #[test]
    fn a_row_that_is_too_long_is_skipped_and_the_next_is_read() {
        let written = Written::new();
        let mut transcript = Transcript::from_start(&written.path());
        written.append(&"x".repeat(ROW_LIMIT + PIECE));
        written.append("\n");
        written.row(&json!({"type": "user", "message": {"content": LINE}}));
        let mut rows = Vec::new();
        for _ in 0..4 {
            rows.extend(transcript.read().unwrap());
        }
        assert_eq!(rows, [in_context(&["01"])]);
        assert!(transcript.partial.capacity() <= ROW_LIMIT + PIECE);
    }

    #[test]
    fn a_truncated_file_is_read_from_its_start() {
        let written = Written::new();
        written.append(&"{}\n".repeat(100));
        let mut transcript = Transcript::from_end(&written.path());
        std::fs::write(written.path(), "").unwrap();
        written.row(&json!({"type": "user", "message": {"content": LINE}}));
        assert_eq!(transcript.read().unwrap(), [in_context(&["01"])]);
    }

    #[test]
    fn a_fifo_a_device_and_a_folder_are_refused_without_waiting() {
        let written = Written::new();
        let made = std::process::Command::new("mkfifo")
            .arg(written.path())
            .status();
        assert!(made.unwrap().success());
        for path in [
            written.path(),
            "/dev/zero".into(),
            written.folder.path().into(),
        ] {
            assert!(Transcript::from_end(&path).read().is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_file_that_does_not_exist_yet_has_no_rows() {
        let written = Written::new();
        let mut transcript = Transcript::from_end(&written.path());
        assert_eq!(transcript.read().unwrap(), []);
    }
}
