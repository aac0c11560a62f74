//! Presence: what wraps announce on the presence exchange, and the requests that they answer.
//!
//! The exchange is a fanout, so every wrap hears every request and answers those that are meant
//! for it, to the asker's temporary queue. Pausing and the look into a session's held messages
//! travel the same way, and therefore work from any machine.
//!
//! Every user who can write to the exchange can ask who is there. Everything else needs `user-id`,
//! which brokers check against the login: a session obeys its own user alone. Answers carry it too
//! and count only from the asker's own user, one a session and of the request's kind, so nobody
//! else answers for a session.

mod answers;

use chrono::{DateTime, Utc};
use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use serde::{Deserialize, Serialize};

pub(super) use answers::publish_requests;
pub use answers::{AwaitedAnswers, PublishedRequests};

/// What a session does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// The agent is not ready yet.
    Starting,
    /// The agent waits for a prompt.
    Idle,
    /// A turn runs.
    Busy,
    /// The agent waits for an answer of the person; `detail` says to what.
    NeedsYou,
    /// The agent's input box contains a person's text.
    Draft,
    /// The agent's input box contains a message, and no Enter will follow.
    Stuck,
    /// A person paused it, and its agent needs nobody.
    Paused,
    /// Nothing is typed in this session: `cbroker inbox` reads.
    Notify,
    /// It ended; sent once, on the way out.
    Closed,
}

/// One session as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The session's name.
    pub name: String,
    /// Its ULID: two wraps of one name differ here.
    pub session: String,
    /// `claude`, `codex`, … or the program's name.
    pub agent: String,
    /// What it does.
    pub state: PeerState,
    /// To what it needs an answer: `permission for Bash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why the first of the held messages waits, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether a person paused it, whatever its state is. Older sessions leave it out.
    #[serde(default)]
    pub paused: bool,
    /// How many messages it has taken from the queue that are not in the model's context.
    pub held: u32,
    /// When this state began.
    pub since: DateTime<Utc>,
    /// Its process id and host, for a person to find it.
    pub pid: u32,
    /// The machine.
    pub host: String,
}

/// A message that a session holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldMessage {
    /// Its id.
    pub id: String,
    /// Who sent it.
    pub from: String,
    /// When.
    pub ts: String,
    /// `queued`, `held` or `handed over`.
    #[serde(default)]
    pub state: String,
    /// Why it is held, or by which way it was handed over.
    pub reason: String,
    /// The safe line, as it would be typed.
    pub line: String,
}

/// The sessions that a request addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestScope {
    /// Every session.
    All,
    /// The sessions of this name.
    Name(String),
    /// The sessions of these names: the members of a group.
    Names(Vec<String>),
}

/// What travels on the presence exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// Who is there? Answered with [`Answer::State`].
    Who,
    /// Hold messages until resumed. Answered with [`Answer::State`].
    Pause {
        /// The addressed sessions.
        scope: RequestScope,
    },
    /// Deliver again. Answered with [`Answer::State`].
    Resume {
        /// The addressed sessions.
        scope: RequestScope,
    },
    /// Show what is held. Answered with [`Answer::Inbox`].
    Inbox {
        /// The addressed sessions.
        scope: RequestScope,
        /// Whether the asker wants to read the messages in place of the agent. The session then
        /// delivers none of them until [`Request::Taken`] names them, or a time limit is over.
        take: bool,
    },
    /// The asker has shown these messages to its reader: they count as read, are acked, and will
    /// not be delivered again. Those that are with the agent meanwhile stay there. Answered with
    /// [`Answer::Taken`], by the session of this ULID alone.
    Taken {
        /// The addressed sessions.
        scope: RequestScope,
        /// The ULID of the session that listed them.
        session: String,
        /// The keys of the messages, from [`Answer::Inbox`].
        keys: Vec<u64>,
    },
    /// Discard the held messages for good, because an operator removed them. Answered with
    /// [`Answer::Inbox`], which lists them.
    Discard {
        /// The addressed sessions.
        scope: RequestScope,
        /// How it was removed.
        removal: Removal,
    },
    /// An announcement of a session's state. Not a request; wraps ignore it.
    State(Presence),
}

/// How an operator removed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// `purge`: the queue stays.
    Purged,
    /// `delete`: they go with their queue.
    Deleted,
}

/// What an answer says. Each request has one kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerKind {
    State,
    Inbox,
    Taken,
}

/// What a session answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// Its present state.
    State(Presence),
    /// What it holds, oldest first.
    Inbox {
        /// The session's name.
        name: String,
        /// Its ULID.
        session: String,
        /// The key of each message, by which [`Request::Taken`] names it. Older sessions leave them
        /// out.
        #[serde(default)]
        keys: Vec<u64>,
        /// The held messages.
        messages: Vec<HeldMessage>,
        /// How many more of other users it has, which are not listed. Older sessions leave it out.
        #[serde(default)]
        parked: u32,
        /// How many messages a take or a removal left, because the agent or another command has
        /// them. Older sessions leave it out.
        #[serde(default)]
        left: u32,
    },
    /// What became of the messages that a command has shown to its reader.
    Taken {
        /// The session's name.
        name: String,
        /// Its ULID.
        session: String,
        /// How many of them were not taken, because the agent or another command has them.
        left: u32,
    },
}

impl Answer {
    fn kind(&self) -> AnswerKind {
        match self {
            Self::State(_) => AnswerKind::State,
            Self::Inbox { .. } => AnswerKind::Inbox,
            Self::Taken { .. } => AnswerKind::Taken,
        }
    }

    /// The name of the session that answers.
    fn name(&self) -> &str {
        match self {
            Self::State(presence) => &presence.name,
            Self::Inbox { name, .. } | Self::Taken { name, .. } => name,
        }
    }

    /// The ULID of the session that answers.
    fn session(&self) -> &str {
        match self {
            Self::State(presence) => &presence.session,
            Self::Inbox { session, .. } | Self::Taken { session, .. } => session,
        }
    }
}

impl Presence {
    /// The state in words: `needs you: permission for Bash`, with `; paused` if it is that too.
    pub fn words(&self) -> String {
        let state = match (self.state, &self.detail) {
            (PeerState::NeedsYou, Some(detail)) => format!("needs you: {detail}"),
            (PeerState::Stuck, _) => {
                "stuck: your input box holds a message; press Enter or clear it".to_owned()
            }
            (state, _) => state.word().to_owned(),
        };
        if self.paused && self.state != PeerState::Paused {
            return format!("{state}; paused");
        }
        state
    }
}

/// The name of this machine, as its sessions announce it.
pub fn this_host() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

impl PeerState {
    /// The state in a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::NeedsYou => "needs you",
            Self::Draft => "draft",
            Self::Stuck => "stuck",
            Self::Paused => "paused",
            Self::Notify => "notify",
            Self::Closed => "closed",
        }
    }
}

impl Request {
    /// Whether the request changes a session or shows the messages that others sent it.
    pub(super) fn is_control(&self) -> bool {
        !matches!(self, Self::Who | Self::State(_))
    }

    /// Whether a session of this name should answer.
    pub fn concerns(&self, name: &str) -> bool {
        match self {
            Self::Who => true,
            Self::Pause { scope }
            | Self::Resume { scope }
            | Self::Inbox { scope, .. }
            | Self::Taken { scope, .. }
            | Self::Discard { scope, .. } => match scope {
                RequestScope::All => true,
                RequestScope::Name(wanted) => wanted == name,
                RequestScope::Names(wanted) => wanted.iter().any(|wanted| wanted == name),
            },
            Self::State(_) => false,
        }
    }

    /// What answers the request; `None`: it is not a request.
    fn answer_kind(&self) -> Option<AnswerKind> {
        match self {
            Self::Who | Self::Pause { .. } | Self::Resume { .. } => Some(AnswerKind::State),
            Self::Inbox { .. } | Self::Discard { .. } => Some(AnswerKind::Inbox),
            Self::Taken { .. } => Some(AnswerKind::Taken),
            Self::State(_) => None,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The header with which a broker says that it has dead-lettered a message.
pub(super) const X_DEATH: &str = "x-death";

/// Whether the broker authenticates `user` as its publisher, to this exchange.
pub(super) fn is_from(delivery: &lapin::message::Delivery, user: &str, exchange: &str) -> bool {
    delivery.exchange.as_str() == exchange && vouched_user(&delivery.properties) == Some(user)
}

/// The user that published a message, as checked by the broker. Brokers check `user-id` when a
/// message is published, and keep it when they dead-letter the message: then the owner of a queue
/// that got a copy chose when and where it went, so the name proves nothing.
pub(super) fn vouched_user(properties: &BasicProperties) -> Option<&str> {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    if headers.is_some_and(|headers| headers.contains_key(X_DEATH)) {
        return None;
    }
    properties.user_id().as_ref().map(ShortString::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_the_sessions_that_it_names() {
        let named = Request::Pause {
            scope: RequestScope::Name("backend".into()),
        };
        assert!(named.concerns("backend") && !named.concerns("frontend"));
        let members = Request::Pause {
            scope: RequestScope::Names(vec!["api".into(), "backend".into()]),
        };
        assert!(members.concerns("backend") && !members.concerns("frontend"));
        assert!(
            Request::Resume {
                scope: RequestScope::All
            }
            .concerns("frontend")
        );
        assert!(Request::Who.concerns("any"));
    }

    #[test]
    fn requests_have_a_stable_form() {
        let text = String::from_utf8(
            Request::Inbox {
                scope: RequestScope::Name("a".into()),
                take: false,
            }
            .to_json(),
        )
        .unwrap();
        assert_eq!(
            text,
            r#"{"kind":"inbox","scope":{"name":"a"},"take":false}"#
        );
        assert_eq!(Request::parse(br#"{"kind":"who"}"#), Some(Request::Who));
        assert_eq!(Request::parse(b"[]"), None);
    }
}
