//! The history of messages on this machine: `logs/messages.jsonl`, which `cbroker why` and `cbroker
//! history` read.
//!
//! Commands and wraps append one line for each event; the first event of a message on a machine,
//! that it was sent or received, has its text too, up to 16 KiB. Each line is a single write in
//! append mode, so that lines do not mix. At 8 MiB the file is renamed to `messages.jsonl.1` and a
//! new one begins. Longer texts are also kept whole, in files of their own (`texts`).
//!
//! Messages that another user may have published have files of their own (`files`), so that they
//! displace none of the user's. A message is known by its id, its session and its publisher: a
//! second use of an id changes nothing of the first.

mod files;
mod latest;
mod probes;
mod texts;

use std::collections::BTreeSet;
use std::io;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::Home;
use crate::envelope::{Envelope, timestamp};
use latest::LatestMessages;
pub use probes::{PROBE_SENDER, PROBE_TEXT, is_probe};

/// Bytes of a text that a line of the history keeps.
const TEXT_BYTES: usize = 16 << 10;

/// The fewest characters at the end of an id that stand for it. The page shows as many.
pub const SHORT_ID: usize = 6;

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryEvent {
    /// `send` published it.
    Sent,
    /// The broker confirmed it.
    Confirmed,
    /// It was not confirmed, and may have arrived: the connection was lost, a queue refused it, or
    /// the broker said nothing in time.
    Unconfirmed,
    /// No queue accepts it.
    Returned,
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
    /// The session refused it: it is unreadable, its id was used twice, or too many messages of
    /// other users wait. The detail is the reason.
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
    Requeued,
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
    /// Absent where the session's own user published the message; else a mark of the user that the
    /// broker names, or `-` where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
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
}

/// One message of the conversation and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConversationMessage {
    /// When it was sent, or first received here.
    pub ts: String,
    /// The message id.
    pub id: String,
    /// The recipient's session name.
    pub to: String,
    /// Who published it, as in [`HistoryEntry::publisher`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
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

    /// Whether this event becomes the state of a message whose state was `before`.
    fn replaces(self, before: Self) -> bool {
        match self {
            // The confirm may come after the recipient's session has recorded the message.
            Self::Confirmed | Self::Unconfirmed => before == Self::Sent,
            // What came later under the id of a message that arrived is another message.
            Self::DeadLettered => !before.is_at_session(),
            // After a crash a copy of a message that arrived may still wait in the queue, and a
            // session without a connection may have given the agent the text that ends in it.
            Self::Purged | Self::Deleted | Self::Expired | Self::Dropped => !matches!(
                before,
                Self::HandedOver | Self::Delivered | Self::Answered | Self::Repeated
            ),
            Self::Sent
            | Self::Returned
            | Self::Received
            | Self::Held
            | Self::HandedOver
            | Self::Delivered
            | Self::Answered
            | Self::Repeated
            | Self::Requeued => true,
        }
    }

    /// Splits the detail of such an event into the way in, for two of them, and the reason, for all
    /// others.
    pub fn way_and_reason(self, detail: Option<&str>) -> (Option<&str>, Option<&str>) {
        match self {
            Self::HandedOver | Self::Delivered => (detail, None),
            Self::Sent
            | Self::Confirmed
            | Self::Unconfirmed
            | Self::Returned
            | Self::Received
            | Self::Held
            | Self::Answered
            | Self::Repeated
            | Self::DeadLettered
            | Self::Deleted
            | Self::Purged
            | Self::Expired
            | Self::Dropped
            | Self::Requeued => (None, detail),
        }
    }

    /// The event in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Confirmed => "confirmed",
            Self::Unconfirmed => "not confirmed",
            Self::Returned => "returned",
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
            Self::Requeued => "back in its queue",
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
            publisher: None,
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

    /// Adds who published the message, unless that was the session's own user.
    #[must_use]
    pub fn published_by(mut self, publisher: Option<String>) -> Self {
        self.publisher = publisher;
        self
    }

    /// Adds the reason or the way.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl MessageHistory {
    /// Returns the history of this home.
    pub fn of(home: &Home) -> Self {
        Self { home: home.clone() }
    }

    /// Returns all events of a message, oldest first.
    pub fn events_of(&self, id: &str) -> io::Result<Vec<HistoryEntry>> {
        let mut story = Vec::new();
        self.for_each(|entry| {
            if entry.id == id {
                story.push(entry);
            }
        })?;
        Ok(story)
    }

    /// Returns the message that has this id, or else those whose ids end with `text`, which then
    /// has at least [`SHORT_ID`] characters; upper and lower case are the same. Ids of other users'
    /// messages count only if none of the user's own matches, because other users choose their ids.
    pub fn ids_like(&self, text: &str) -> io::Result<BTreeSet<String>> {
        let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
        self.for_each(|entry| {
            let ids = if entry.publisher.is_none() {
                &mut own
            } else {
                &mut others
            };
            ids.insert(entry.id);
        })?;
        let own = like(&own, text);
        Ok(if own.is_empty() {
            like(&others, text)
        } else {
            own
        })
    }

    /// Returns the sessions that messages of this machine were sent to.
    pub fn sessions(&self) -> io::Result<BTreeSet<String>> {
        let mut sessions = BTreeSet::new();
        self.for_each(|entry| {
            sessions.insert(entry.session);
        })?;
        Ok(sessions)
    }

    /// Returns the messages whose text is known, in the order of their first events, each text cut
    /// to `text_bytes`.
    pub fn conversation(&self, text_bytes: usize) -> io::Result<Vec<ConversationMessage>> {
        let all = self.latest(text_bytes, usize::MAX, &mut |_| Ok(()))?;
        Ok(all.messages)
    }

    /// Returns the latest `most` of them that the user published, and as many of others. `charge`
    /// is called with the bytes that they take while they are read; its error ends the reading.
    pub fn latest(
        &self,
        text_bytes: usize,
        most: usize,
        charge: &mut dyn FnMut(usize) -> io::Result<()>,
    ) -> io::Result<Conversation> {
        let mut latest = LatestMessages::new(text_bytes, most);
        let mut charged = Ok(());
        self.for_each(|entry| {
            if charged.is_ok() {
                latest.add(entry);
                charged = charge(latest.bytes());
            }
        })?;
        charged.map(|()| latest.into_conversation())
    }

    /// Returns the first message of this id to a session from this publisher, as in
    /// [`HistoryEntry::publisher`], with its whole text if that is kept.
    pub fn message(
        &self,
        session: &str,
        id: &str,
        publisher: Option<&str>,
    ) -> io::Result<Option<MessageText>> {
        let mut found = None;
        self.for_each(|entry| {
            let is_of_publisher = entry.publisher.as_deref() == publisher;
            if entry.id == id && entry.session == session && is_of_publisher && found.is_none() {
                found = entry.message;
            }
        })?;
        if let Some(message) = &mut found {
            self.complete(message);
        }
        Ok(found)
    }
}

/// Those of the ids that `text` stands for.
fn like(ids: &BTreeSet<String>, text: &str) -> BTreeSet<String> {
    let ends_with_text = |id: &&String| {
        text.len() >= SHORT_ID
            && id.len() >= text.len()
            && id.as_bytes()[id.len() - text.len()..].eq_ignore_ascii_case(text.as_bytes())
    };
    match ids.get(text) {
        Some(id) => BTreeSet::from([id.clone()]),
        None => ids.iter().filter(ends_with_text).cloned().collect(),
    }
}

/// Messages in the order of their first events.
#[derive(Debug)]
pub struct Conversation {
    /// The latest ones.
    pub messages: Vec<ConversationMessage>,
    /// How many went before them.
    pub older: usize,
}

impl ConversationMessage {
    /// Takes over what an event says.
    fn follow(&mut self, event: HistoryEntry) {
        if event.event.replaces(self.state) {
            self.state = event.event;
            self.detail = event.detail;
        }
    }
}

#[cfg(test)]
mod tests;
