//! The history of messages on this machine: `logs/messages.jsonl`, which `cbroker why` reads.
//!
//! Commands and wraps append one line for each event. Each line is a single write in append mode,
//! so that lines do not mix. At 8 MiB the file is renamed to `messages.jsonl.1` and a new one
//! begins.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::clean;
use crate::config::Home;
use crate::envelope::timestamp;

const ROTATE_BYTES: u64 = 8 << 20;

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
}

/// The history of this machine.
#[derive(Debug, Clone)]
pub struct MessageHistory {
    home: Home,
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
        }
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
        Ok(self
            .entries()?
            .into_iter()
            .filter(|entry| entry.id == id)
            .collect())
    }

    /// Returns the message that has this id, or else those whose ids end with `text`, which then
    /// has at least [`SHORT_ID`] characters; upper and lower case are the same.
    pub fn ids_like(&self, text: &str) -> io::Result<BTreeSet<String>> {
        let entries = self.entries()?;
        let ids = || entries.iter().map(|entry| entry.id.as_str());
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
        Ok(self
            .entries()?
            .into_iter()
            .map(|entry| entry.session)
            .collect())
    }

    /// Reads all lines of both files. Lines that cannot be parsed are skipped.
    fn entries(&self) -> io::Result<Vec<HistoryEntry>> {
        let mut entries = Vec::new();
        for path in [self.older(), self.path()] {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).split(b'\n') {
                entries.extend(serde_json::from_slice::<HistoryEntry>(&line?).ok());
            }
        }
        Ok(entries)
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
    use super::*;
    use crate::config::Environment;

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
