//! Finds out what became of a message that got no final receipt. Reports only what is certain.

use std::ops::ControlFlow;
use std::time::Duration;

use super::answerer;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::management::{Client, Peeked};
use crate::name::SessionName;
use crate::output::state_words;
use crate::peer::{MAX_LENGTH, Peer, Receipt};

/// Time limit for asking the management API what waits in a queue.
const API_WITHIN: Duration = Duration::from_secs(1);

/// The properties of a sent message on which its fate depends.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentMessage<'a> {
    pub(super) id: &'a str,
    pub(super) to: &'a SessionName,
    /// Its own time to live has passed.
    pub(super) has_expired: bool,
}

/// What is known about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MessageFate {
    /// It waits in its queue, and no session has taken it.
    Waits,
    /// An attached session of cbroker has reported that it has the message.
    Held,
    /// It waited for longer than its time to live.
    Expired,
    /// Its queue was deleted, and it with the queue.
    QueueDeleted,
    /// A program that does not send receipts took it.
    TakenSilently,
    /// It is not in its queue: it expired, was dropped, or something without receipts took it.
    Gone,
    /// Messages wait in its queue; whether it is among them cannot be said.
    Unknown,
    /// The broker does not answer, for this reason.
    Unanswered(String),
}

impl MessageFate {
    /// Looks at the queue of a message.
    pub(super) async fn of(message: SentMessage<'_>, peer: &mut Peer, config: &Config) -> Self {
        let queue = match peer.queue_counts(message.to).await {
            Ok(Some(queue)) => queue,
            Ok(None) => return Self::QueueDeleted,
            Err(error) => return Self::Unanswered(error.to_string()),
        };
        let is_there = match queue.messages {
            0 => Some(false),
            _ => waits(config, message, peer.user()).await,
        };
        if is_there == Some(true) && !message.has_expired {
            return Self::Waits;
        }
        let consumers = queue.consumers;
        let all_are_ours = consumers == 0
            || answerer::own_sessions(peer, message.to, consumers)
                .await
                .is_ok_and(|sessions| sessions >= consumers as usize);
        match is_there {
            // A session of cbroker would have sent a receipt. Behind many others it stays in the
            // queue, undelivered.
            _ if message.has_expired && all_are_ours => Self::Expired,
            None if message.has_expired || consumers > 0 => Self::Unknown,
            // The queue has no consumer, so only its time to live ends a message there.
            Some(true) | None => Self::Waits,
            Some(false) if consumers > 0 && !all_are_ours => Self::TakenSilently,
            Some(false) => Self::Gone,
        }
    }

    /// Looks for a message that a session has reported, if that session may have ended since.
    pub(super) async fn of_held(
        message: SentMessage<'_>,
        peer: &mut Peer,
        config: &Config,
    ) -> Self {
        let consumers = match peer.queue_counts(message.to).await {
            Ok(queue) => queue.map_or(0, |queue| queue.consumers),
            Err(error) => return Self::Unanswered(error.to_string()),
        };
        let is_ours = consumers > 0
            && answerer::own_sessions(peer, message.to, 1)
                .await
                .is_ok_and(|sessions| sessions > 0);
        if is_ours {
            return Self::Held;
        }
        Self::of(message, peer, config).await
    }

    /// In words for a person.
    pub(super) fn words(&self) -> String {
        let words = match self {
            Self::Waits => "no session has received it",
            Self::Held => "a session has it",
            Self::Expired => "it expired in the queue",
            Self::QueueDeleted => "its queue was deleted",
            Self::TakenSilently => "whoever took it from the queue sends no receipts",
            Self::Gone => {
                "it is no longer in the queue: it expired, was dropped, or something without \
                 receipts took it"
            }
            Self::Unknown => {
                "no session has said that it has it; the broker does not say whether it is among \
                 the messages that wait"
            }
            Self::Unanswered(why) => why,
        };
        words.to_owned()
    }

    /// Whether a session will still get it.
    pub(super) fn is_waiting(&self) -> bool {
        *self == Self::Waits
    }
}

/// What a receipt says, in words for a person.
pub(super) fn receipt_words(receipt: &Receipt) -> String {
    let (way, reason) = (receipt.way.as_deref(), receipt.reason.as_deref());
    format!("it is {}", state_words(receipt.state.word(), way, reason))
}

/// Whether the message that `sender` published waits in its queue; `None` where the broker does not
/// say it. Only the embedded broker shows its messages without touching them. Anybody may publish
/// another message under that id, but not as that user.
async fn waits(config: &Config, message: SentMessage<'_>, sender: &str) -> Option<bool> {
    let client = Client::new(config, API_WITHIN).ok()?;
    let count = usize::try_from(MAX_LENGTH).ok()?;
    let limit_bytes = config.settings.body_limit_bytes;
    let is_it = |waiting: &Peeked| {
        waiting.user().as_deref() == Some(sender)
            && Envelope::parse(&waiting.body(), limit_bytes)
                .is_ok_and(|envelope| envelope.id == message.id)
    };
    let found = client.look_at(message.to.as_str(), count, |page| {
        if page.iter().any(is_it) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    Some(found.await.ok()?.is_some())
}
