//! The history of messages on this machine: `logs/messages.jsonl`, which `cbroker why` and `cbroker
//! history` read.
//!
//! Commands and wraps append one line for each event; the first event of a message on a machine,
//! that it was sent or received, has its text too, up to 16 KiB. Each line is a single write in
//! append mode, so that lines do not mix. At 8 MiB the file is renamed to `messages.jsonl.1` and a
//! new one begins. Longer texts are also kept whole, in files of their own (`texts`).

mod texts;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::clean;
use crate::config::Home;
use crate::envelope::{Envelope, timestamp};

const ROTATE_BYTES: u64 = 8 << 20;
/// So much of a text is kept.
const TEXT_BYTES: usize = 16 << 10;

/// The fewest characters at the end of an id that stand for it. The page shows as many.
pub const SHORT_ID: usize = 6;

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryEvent {
    /// `send` published it.
    Sent,
    /// The broker confirmed it.
    Confirmed,
    /// It was not confirmed: refused, unroutable, or the connection was lost.
    Unconfirmed,
    /// A session received it from its queue.
    Received,
    /// The session holds it; the detail is the reason.
    Held,
    /// It is with the agent, and not in the model's context yet; the detail is the way.
    HandedOver,
    /// It is in the model's context; the detail is the way.
    #[serde(alias = "injected")]
    Delivered,
    /// An answer to it was sent; the detail is the answer's id.
    Answered,
    /// It had been delivered before and was only acked.
    Repeated,
    /// It could not be parsed; the detail is the reason.
    DeadLettered,
    /// It was deleted with its queue.
    Deleted,
    /// It was purged.
    Purged,
    /// Its time to live passed in the queue.
    Expired,
    /// The queue was full.
    Dropped,
    /// The session ended before the agent had it: it is back in its queue.
    Returned,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The time, in the format of an envelope's `ts`.
    pub ts: String,
    /// The message id.
    pub id: String,
    /// What happened.
    pub event: HistoryEvent,
    /// The recipient's session name.
    pub session: String,
    /// The reason or the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What the message says, at its first event on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageText>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageText {
    /// The claimed sender.
    pub from: String,
    /// The text, at most 16 KiB of it.
    pub text: String,
    /// The length of the whole text in bytes, if it is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_from: Option<usize>,
    /// The digest of the whole text, if it is longer: the name of the file that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
    /// The id of the message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The whole text on its way to its file.
    #[serde(skip)]
    to_keep: Option<String>,
}

impl MessageText {
    /// What a message says, cut to what the history keeps.
    pub fn of(envelope: &Envelope) -> Self {
        let whole = &envelope.message;
        let text = &whole[..whole.floor_char_boundary(TEXT_BYTES)];
        let is_cut = text.len() < whole.len();
        Self {
            from: envelope.from.clone(),
            text: text.to_owned(),
            cut_from: is_cut.then_some(whole.len()),
            whole: is_cut.then(|| texts::name(whole)),
            correlation_id: envelope.correlation_id.clone(),
            to_keep: is_cut.then(|| whole.clone()),
        }
    }

    /// Cuts the text to `bytes`.
    fn cut_to(&mut self, bytes: usize) {
        let end = self.text.floor_char_boundary(bytes);
        if end < self.text.len() {
            self.cut_from.get_or_insert(self.text.len());
            self.text.truncate(end);
            self.text.shrink_to_fit();
        }
    }
}

/// One message of the conversation and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldMessage {
    /// When it was sent, or first received here.
    pub ts: String,
    /// The message id.
    pub id: String,
    /// The recipient's session name.
    pub to: String,
    /// What it says.
    #[serde(flatten)]
    pub message: MessageText,
    /// What happened last.
    pub state: HistoryEvent,
    /// The reason or the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The history of this machine.
#[derive(Debug, Clone)]
pub struct MessageHistory {
    home: Home,
}

impl HistoryEvent {
    /// Whether the recipient's session had taken the message.
    fn is_at_session(self) -> bool {
        matches!(
            self,
            Self::Received | Self::Held | Self::HandedOver | Self::Delivered | Self::Repeated
        )
    }

    /// The event in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Confirmed => "confirmed",
            Self::Unconfirmed => "not confirmed",
            Self::Received => "received",
            Self::Held => "held",
            Self::HandedOver => "handed over",
            Self::Delivered => "delivered",
            Self::Answered => "answered",
            Self::Repeated => "received again, already delivered",
            Self::Deleted => "deleted with its queue",
            Self::Purged => "purged",
            Self::Expired => "expired",
            Self::Dropped => "dropped: the queue was full",
            Self::Returned => "back in its queue",
            Self::DeadLettered => "dead-lettered",
        }
    }
}

impl HistoryEntry {
    /// Creates an event without a detail.
    pub fn new(at: DateTime<Utc>, id: &str, event: HistoryEvent, session: &str) -> Self {
        Self {
            ts: timestamp(at),
            id: id.to_owned(),
            event,
            session: session.to_owned(),
            detail: None,
            message: None,
        }
    }

    /// Adds what the message says.
    #[must_use]
    pub fn saying(mut self, message: MessageText) -> Self {
        self.message = Some(message);
        self
    }

    /// Adds the reason or the way.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl MessageHistory {
    /// Returns the history of this home.
    pub fn of(home: &Home) -> Self {
        Self { home: home.clone() }
    }

    /// Appends one event. The caller may ignore an error: a failing history must not stop anything.
    pub fn note(&self, entry: &HistoryEntry) -> io::Result<()> {
        let message = entry.message.as_ref();
        if let Some(text) = message.and_then(|message| message.to_keep.as_deref()) {
            // Without it the line still has the beginning.
            let _cut = texts::keep(&self.texts(), text);
        }
        let mut line = clean::json(&serde_json::to_string(entry)?).into_bytes();
        line.push(b'\n');
        let path = self.path();
        if fs::metadata(&path).is_ok_and(|file| file.len() > ROTATE_BYTES) {
            fs::rename(&path, self.older())?;
        }
        self.open_for_append()?.write_all(&line)
    }

    /// Returns all events of a message, oldest first.
    pub fn story(&self, id: &str) -> io::Result<Vec<HistoryEntry>> {
        let mut story = Vec::new();
        self.each(|entry| {
            if entry.id == id {
                story.push(entry);
            }
        })?;
        Ok(story)
    }

    /// Returns the message that has this id, or else those whose ids end with `text`, which then
    /// has at least [`SHORT_ID`] characters; upper and lower case are the same.
    pub fn ids_like(&self, text: &str) -> io::Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        self.each(|entry| {
            all.insert(entry.id);
        })?;
        let ids = || all.iter().map(String::as_str);
        let ends_with_text = |id: &&str| {
            text.len() >= SHORT_ID
                && id.len() >= text.len()
                && id.as_bytes()[id.len() - text.len()..].eq_ignore_ascii_case(text.as_bytes())
        };
        Ok(match ids().find(|id| *id == text) {
            Some(id) => BTreeSet::from([id.to_owned()]),
            None => ids().filter(ends_with_text).map(str::to_owned).collect(),
        })
    }

    /// Returns the sessions that messages of this machine were sent to.
    pub fn sessions(&self) -> io::Result<BTreeSet<String>> {
        let mut sessions = BTreeSet::new();
        self.each(|entry| {
            sessions.insert(entry.session);
        })?;
        Ok(sessions)
    }

    /// Returns the messages whose text is known, in the order of their first events, each text cut
    /// to `text_bytes`.
    pub fn conversation(&self, text_bytes: usize) -> io::Result<Vec<ToldMessage>> {
        let mut told: Vec<ToldMessage> = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        self.each(|entry| {
            let key = (entry.id.clone(), entry.session.clone());
            if let Some(&place) = places.get(&key) {
                let told = &mut told[place];
                // What came later under the id of a message that arrived is another message.
                if entry.event != HistoryEvent::DeadLettered || !told.state.is_at_session() {
                    told.state = entry.event;
                    told.detail = entry.detail;
                }
            } else if let Some(mut message) = entry.message {
                message.cut_to(text_bytes);
                places.insert(key, told.len());
                told.push(ToldMessage {
                    ts: entry.ts,
                    id: entry.id,
                    to: entry.session,
                    message,
                    state: entry.event,
                    detail: entry.detail,
                });
            }
        })?;
        Ok(told)
    }

    /// Returns the first message of this id to a session, with its whole text if that is kept.
    pub fn message(&self, session: &str, id: &str) -> io::Result<Option<MessageText>> {
        let mut found = None;
        self.each(|entry| {
            if found.is_none() && entry.id == id && entry.session == session {
                found = entry.message;
            }
        })?;
        if let Some(message) = &mut found {
            self.complete(message);
        }
        Ok(found)
    }

    /// Replaces the beginning of a long text by the whole text, if that is kept.
    pub fn complete(&self, message: &mut MessageText) {
        let name = message.whole.take();
        if let Some(text) = name.and_then(|name| texts::read(&self.texts(), &name)) {
            message.text = text;
            message.cut_from = None;
        }
    }

    /// Returns a text that changes with the history.
    pub fn version(&self) -> String {
        let stamp = |path: PathBuf| {
            let file = fs::metadata(path).ok();
            file.map_or((0, 0), |file| (file.ino(), file.len()))
        };
        format!("{:?}{:?}", stamp(self.older()), stamp(self.path()))
            .replace(|c: char| !c.is_ascii_digit(), "-")
    }

    /// Reads each line of both files. Lines that cannot be parsed are skipped.
    fn each(&self, mut take: impl FnMut(HistoryEntry)) -> io::Result<()> {
        for path in [self.older(), self.path()] {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).split(b'\n') {
                if let Ok(entry) = serde_json::from_slice(&line?) {
                    take(entry);
                }
            }
        }
        Ok(())
    }

    fn texts(&self) -> PathBuf {
        self.home.logs().join("texts")
    }

    fn path(&self) -> PathBuf {
        self.home.logs().join("messages.jsonl")
    }

    fn older(&self) -> PathBuf {
        self.home.logs().join("messages.jsonl.1")
    }

    fn open_for_append(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        match options.open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.home.prepare()?;
                options.open(self.path())
            }
            opened => opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::config::Environment;
    use crate::name::SessionName;

    #[test]
    fn the_end_of_an_id_stands_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
        let history = MessageHistory::of(&Home::of(&environment).unwrap());
        for id in ["01JD3ZQ8V4AAAAAA", "01JD3ZQ8V4BBAAAA", "AAAAAA"] {
            let sent = HistoryEntry::new(DateTime::UNIX_EPOCH, id, HistoryEvent::Sent, "backend");
            history.note(&sent).unwrap();
        }
        let like = |text: &str| Vec::from_iter(history.ids_like(text).unwrap());
        assert_eq!(like("v4bbaaaa"), ["01JD3ZQ8V4BBAAAA"]);
        assert_eq!(like("AAAAAA"), ["AAAAAA"], "an id itself comes first");
        assert_eq!(like("aaaaaa"), ["01JD3ZQ8V4AAAAAA", "AAAAAA"]);
        assert_eq!(like("AAAA"), [] as [&str; 0], "too short");
    }

    #[test]
    fn the_conversation_has_each_text_once_and_what_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
        let history = MessageHistory::of(&Home::of(&environment).unwrap());
        let says = |text: &str| MessageText {
            from: "frontend".into(),
            text: text.into(),
            cut_from: None,
            whole: None,
            correlation_id: None,
            to_keep: None,
        };
        let entry = |id, event| HistoryEntry::new(DateTime::UNIX_EPOCH, id, event, "backend");
        for entry in [
            entry("unknown", HistoryEvent::Held),
            entry("a", HistoryEvent::Sent).saying(says("one")),
            entry("b", HistoryEvent::Received).saying(says("two")),
            entry("a", HistoryEvent::Received).saying(says("one")),
            entry("b", HistoryEvent::Held).because("draft"),
            entry("a", HistoryEvent::Delivered).because("plugin"),
            entry("a", HistoryEvent::DeadLettered).because("id used twice"),
        ] {
            history.note(&entry).unwrap();
        }
        let told = history.conversation(usize::MAX).unwrap();
        let told: Vec<_> = told
            .iter()
            .map(|told| {
                (
                    told.message.text.as_str(),
                    told.state,
                    told.detail.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("one", HistoryEvent::Delivered, Some("plugin")),
                ("two", HistoryEvent::Held, Some("draft"))
            ]
        );
    }

    #[test]
    fn a_long_text_is_kept_whole_beside_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
        let history = MessageHistory::of(&Home::of(&environment).unwrap());
        let (a, b) = (
            &SessionName::new("a").unwrap(),
            &SessionName::new("b").unwrap(),
        );
        let text = "a long text. ".repeat(8_000);
        let envelope = Envelope::new(Ulid::nil(), DateTime::UNIX_EPOCH, a, b, text.clone());
        let sent = HistoryEntry::new(DateTime::UNIX_EPOCH, &envelope.id, HistoryEvent::Sent, "b");
        let before = history.version();
        history
            .note(&sent.saying(MessageText::of(&envelope)))
            .unwrap();
        assert_ne!(history.version(), before);
        let told = history.conversation(100).unwrap().remove(0).message;
        assert_eq!((told.text.len(), told.cut_from), (100, Some(text.len())));
        let whole = history.message("b", &envelope.id).unwrap().unwrap();
        assert_eq!((whole.text, whole.cut_from), (text.clone(), None));
        assert_eq!(history.message("a", &envelope.id).unwrap(), None);
        // What was changed on disk is no longer that text.
        let kept = fs::read_dir(history.texts()).unwrap().next().unwrap();
        fs::write(kept.unwrap().path(), "another text").unwrap();
        let whole = history.message("b", &envelope.id).unwrap().unwrap();
        assert_eq!(whole.cut_from, Some(text.len()));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let (a, b) = (
            &SessionName::new("a").unwrap(),
            &SessionName::new("b").unwrap(),
        );
        let text = format!("x{}", "é".repeat(TEXT_BYTES));
        let envelope = Envelope::new(Ulid::nil(), DateTime::UNIX_EPOCH, a, b, text.clone());
        let kept = MessageText::of(&envelope);
        assert_eq!(kept.text.len(), TEXT_BYTES - 1);
        assert_eq!(kept.cut_from, Some(text.len()));
    }

    #[test]
    fn a_message_s_story_is_told_in_order_and_without_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
        let history = MessageHistory::of(&Home::of(&environment).unwrap());
        assert_eq!(history.story("a").unwrap(), []);
        let entry = |id, event| HistoryEntry::new(DateTime::UNIX_EPOCH, id, event, "backend");
        history.note(&entry("a", HistoryEvent::Sent)).unwrap();
        history.note(&entry("b", HistoryEvent::Sent)).unwrap();
        history
            .note(&entry("a", HistoryEvent::Held).because("draft"))
            .unwrap();
        fs::rename(history.path(), history.older()).unwrap();
        history.note(&entry("a", HistoryEvent::Delivered)).unwrap();
        let events: Vec<_> = history
            .story("a")
            .unwrap()
            .into_iter()
            .map(|entry| entry.event)
            .collect();
        assert_eq!(
            events,
            [
                HistoryEvent::Sent,
                HistoryEvent::Held,
                HistoryEvent::Delivered
            ]
        );
    }
}
