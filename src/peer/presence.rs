//! Presence: what wraps announce on the presence exchange, and the requests that they answer.
//!
//! The exchange is a fanout, so every wrap hears every request and answers those that are meant
//! for it, to the asker's temporary queue. Pausing and the look into a session's held messages
//! travel the same way, and therefore work from any machine.
//!
//! Every user who can write to the exchange can ask who is there. Everything else needs `user-id`,
//! which brokers check against the login: a session obeys its own user alone. Answers carry it too
//! and count only from the asker's own user, one a session and of the request's kind, so nobody else answers for a session.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::topology::{self, PRESENCE_EXCHANGE};
use super::{PeerError, answered, before, publish};
use futures_util::StreamExt;

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
    /// A person paused it.
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
    /// [`Answer::State`], by the session of this ULID alone.
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
}

impl Answer {
    fn kind(&self) -> AnswerKind {
        match self {
            Self::State(_) => AnswerKind::State,
            Self::Inbox { .. } => AnswerKind::Inbox,
        }
    }

    /// The name of the session that answers.
    fn name(&self) -> &str {
        match self {
            Self::State(presence) => &presence.name,
            Self::Inbox { name, .. } => name,
        }
    }

    /// The ULID of the session that answers.
    fn session(&self) -> &str {
        match self {
            Self::State(presence) => &presence.session,
            Self::Inbox { session, .. } => session,
        }
    }
}

impl Presence {
    /// The state in words: `needs you: permission for Bash`.
    pub fn words(&self) -> String {
        match (self.state, &self.detail) {
            (PeerState::NeedsYou, Some(detail)) => format!("needs you: {detail}"),
            (PeerState::Stuck, _) => {
                "stuck: your input box holds a message; press Enter or clear it".to_owned()
            }
            (state, _) => state.word().to_owned(),
        }
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
            Self::Who | Self::Pause { .. } | Self::Resume { .. } | Self::Taken { .. } => {
                Some(AnswerKind::State)
            }
            Self::Inbox { .. } | Self::Discard { .. } => Some(AnswerKind::Inbox),
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

/// Which answers a request waits for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct AwaitedAnswers<'a> {
    /// The name whose sessions' answers count; `None`: every session's.
    pub name: Option<&'a str>,
    /// How many there are, where that is known.
    pub count: Option<u32>,
    /// How long each further one may take once there are as many, where there may be more.
    pub more: Option<Duration>,
    /// How long the first one may take.
    pub first: Duration,
    /// How long each further one may take after the one before.
    pub next: Duration,
}

impl AwaitedAnswers<'_> {
    /// How long to wait for the next one after so many; `None`: these are all.
    fn patience(&self, answers: usize) -> Option<Duration> {
        if self.count.is_some_and(|count| answers >= count as usize) {
            return self.more;
        }
        Some(if answers == 0 { self.first } else { self.next })
    }

    fn counts(&self, answer: &Answer) -> bool {
        self.name.is_none_or(|name| answer.name() == name)
    }
}

/// In all, a request waits this many times as long as for the first answer.
const ALL_WAITS: u32 = 10;

/// The number of unacked answers at once. Any user who has seen the request may send an answer, as
/// long as the broker allows.
const ANSWERS: u16 = 16;
/// The number of answers that wait in the broker, and their bytes; the oldest are dropped. The
/// answer of a session that holds many messages has some MiB.
const ANSWERS_WAITING: i32 = 10_000;
const ANSWERS_WAITING_BYTES: i32 = 64 << 20;

/// Requests that were published, and the temporary queue that their answers come to.
#[derive(Debug)]
pub struct PublishedRequests {
    channel: Channel,
    deliveries: Consumer,
    user: String,
    /// What answers the requests. Anything else is skipped, so that it takes the place of no
    /// session's answer.
    kinds: Vec<AnswerKind>,
}

impl PublishedRequests {
    /// Collects the awaited answers.
    pub async fn answers(mut self, awaited: &AwaitedAnswers<'_>) -> Result<Vec<Answer>, PeerError> {
        let mut since = Instant::now();
        let end = since + awaited.first.max(awaited.next) * ALL_WAITS;
        let mut answers: Vec<Answer> = Vec::new();
        while let Some(patience) = awaited.patience(answers.len()) {
            let until = end.min(since + patience);
            match before(until, self.deliveries.next()).await {
                Some(Some(Ok(delivery))) => {
                    let is_new = |answer: &Answer| {
                        let mut others = answers.iter().map(Answer::session);
                        others.all(|other| other != answer.session())
                    };
                    let is_awaited = |answer: &Answer| {
                        self.kinds.contains(&answer.kind()) && awaited.counts(answer)
                    };
                    if let Some(answer) = read_answer(&delivery, &self.user)
                        .filter(|answer| is_awaited(answer) && is_new(answer))
                    {
                        answers.push(answer);
                        since = Instant::now();
                    }
                    // A blocked broker reads no ack. Then only the answers already sent arrive.
                    let acked = delivery.acker.ack(BasicAckOptions::default());
                    let _ = before(until, acked).await;
                }
                Some(Some(Err(error))) => return Err(error.into()),
                Some(None) | None => break,
            }
        }
        let _ = answered(self.channel.close(200, "done".into())).await;
        Ok(answers)
    }
}

/// Reads an answer of the given user. Other users' answers are not parsed, because they may be of
/// any length that the broker allows.
fn read_answer(delivery: &lapin::message::Delivery, user: &str) -> Option<Answer> {
    if !is_from(delivery, user, "") {
        return None;
    }
    serde_json::from_slice(&delivery.data).ok()
}

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

/// Publishes requests with one temporary queue for the answers.
pub(super) async fn publish_requests(
    connection: &Connection,
    user: &str,
    requests: &[Request],
) -> Result<PublishedRequests, PeerError> {
    let channel = connection.create_channel().await?;
    topology::declare_presence(&channel).await?;
    channel
        .basic_qos(ANSWERS, BasicQosOptions::default())
        .await?;
    let options = QueueDeclareOptions::exclusive().auto_delete();
    let mut bounds = FieldTable::default();
    bounds.insert("x-max-length".into(), AMQPValue::LongInt(ANSWERS_WAITING));
    let bytes = AMQPValue::LongInt(ANSWERS_WAITING_BYTES);
    bounds.insert("x-max-length-bytes".into(), bytes);
    let queue = channel.queue_declare("".into(), options, bounds).await?;
    let (name, options) = (queue.name(), BasicConsumeOptions::default());
    let answers = channel
        .basic_consume(name.clone(), "".into(), options, FieldTable::default())
        .await?;
    let properties = BasicProperties::default()
        .with_reply_to(name.clone())
        .with_user_id(user.into());
    for request in requests {
        let (body, properties) = (request.to_json(), properties.clone());
        publish::plain(&channel, PRESENCE_EXCHANGE, "", &body, properties).await?;
    }
    Ok(PublishedRequests {
        channel,
        deliveries: answers,
        user: user.to_owned(),
        kinds: requests.iter().filter_map(Request::answer_kind).collect(),
    })
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
    fn once_a_session_of_the_name_has_answered_little_time_is_left_for_another() {
        let (first, next) = (Duration::from_secs(5), Duration::from_millis(500));
        let awaited = AwaitedAnswers {
            name: Some("backend"),
            count: Some(2),
            more: None,
            first,
            next,
        };
        assert_eq!(awaited.patience(0), Some(first));
        assert_eq!(awaited.patience(1), Some(next));
        assert_eq!(awaited.patience(2), None);
        let more = Duration::from_millis(150);
        let awaited = AwaitedAnswers {
            more: Some(more),
            ..awaited
        };
        assert_eq!(awaited.patience(1), Some(next));
        assert_eq!(awaited.patience(2), Some(more));
        let answer = |name: &str| Answer::Inbox {
            name: name.into(),
            session: "01".into(),
            keys: Vec::new(),
            messages: Vec::new(),
            parked: 0,
            left: 0,
        };
        assert!(awaited.counts(&answer("backend")) && !awaited.counts(&answer("frontend")));
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
