//! Shared parts of `purge` and `delete`. Every message that they remove is counted, and its end is
//! recorded in the local history.

use chrono::Utc;

use super::connect::{self, Autostart};
use super::inbox::left_with_others;
use super::sessions;
use crate::cli::ConfirmedArgs;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory};
use crate::name::SessionName;
use crate::output::{Output, counted};
use crate::peer::{
    Answer, MAX_LENGTH, Peer, QueueCounts, Receipt, ReceiptState, ReceivedMessage, Removal,
    Request, RequestScope,
};
use crate::wrap::publisher_mark;

/// Refuses an irreversible command without `--yes`.
pub(super) fn confirmed(is_meant: bool, what: &str) -> Result<(), Error> {
    if is_meant {
        return Ok(());
    }
    Err(Error::usage(format!("{what} cannot be undone")).with_hint("add --yes to confirm"))
}

/// Takes the messages that `purge` and `delete` remove: those that wait in the queue, and with
/// `--force` also those that sessions hold. Returns the connection and what was removed.
pub(super) async fn take_messages(
    args: &ConfirmedArgs,
    name: &SessionName,
    removal: Removal,
    config: &Config,
    output: &Output,
) -> Result<(Peer, RemovalCounts), Error> {
    let (purpose, what) = match removal {
        Removal::Purged => ("purge", format!("deleting all messages of `{name}`")),
        Removal::Deleted => ("delete", format!("deleting `{name}`")),
    };
    confirmed(args.yes, &what)?;
    let mut peer = connect::peer(config, purpose, Autostart::Never, output).await?;
    let queue = existing(&mut peer, name).await?;
    if !args.force {
        unattended(&peer, name, &queue).await?;
    }
    let removed = Removed {
        name,
        removal,
        config,
    };
    let waiting = removed.take_waiting(&peer, queue.messages).await?;
    let mut taken = RemovalCounts::default();
    if args.force {
        taken = removed.take_held(&mut peer, queue.consumers).await?;
        if taken.left > 0 {
            output.notice(format!("not deleted: {}", left_with_others(taken.left)));
        }
    }
    taken.count = taken.count.saturating_add(waiting);
    Ok((peer, taken))
}

/// Returns the state of the queue, or an error if it does not exist.
pub(super) async fn existing(peer: &mut Peer, name: &SessionName) -> Result<QueueCounts, Error> {
    peer.queue_counts(name).await?.ok_or_else(|| {
        Error::new(format!("there is no queue `{name}`"))
            .with_hint("`cbroker list` shows the existing ones")
    })
}

/// Refuses a queue with consumers: the messages that a session holds would be lost.
pub(super) async fn unattended(
    peer: &Peer,
    name: &SessionName,
    queue: &QueueCounts,
) -> Result<(), Error> {
    if queue.consumers == 0 {
        return Ok(());
    }
    let awaited = sessions::answers_of(name, queue.consumers);
    let answers = peer.ask_sessions(&[Request::Who], &awaited).await?;
    let held: Vec<u32> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::State(state) => Some(state.held),
            Answer::Inbox { .. } | Answer::Taken { .. } => None,
        })
        .collect();
    let refused = if held.is_empty() {
        let consumers = counted(queue.consumers, "consumer");
        Error::new(format!("the queue `{name}` has {consumers}"))
    } else {
        let messages = counted(held.iter().sum::<u32>(), "message");
        Error::new(format!(
            "a session `{name}` is attached and holds {messages}"
        ))
    };
    Err(refused.with_hint("end the session first, or add --force to delete what it holds too"))
}

/// How a waiting message ends that a command takes out of its queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum MessageEnd {
    /// It is purged.
    Purged,
    /// It is deleted with its queue.
    Deleted,
    /// The queue is full, and a new message needs its place.
    Dropped,
}

impl MessageEnd {
    /// Records the end of a message, tells its sender where that waits, and acks it.
    pub(super) async fn of(
        self,
        message: &ReceivedMessage,
        (peer, name, config): (&Peer, &SessionName, &Config),
    ) {
        let (event, state) = match self {
            Self::Purged => (HistoryEvent::Purged, ReceiptState::Purged),
            Self::Deleted => (HistoryEvent::Deleted, ReceiptState::Deleted),
            Self::Dropped => (HistoryEvent::Dropped, ReceiptState::Dropped),
        };
        let limit_bytes = config.settings.body_limit_bytes;
        if let Ok(envelope) = Envelope::parse(&message.body, limit_bytes) {
            let entry = HistoryEntry::new(Utc::now(), &envelope.id, event, name.as_str())
                .published_by(publisher_mark(message));
            // The command continues even if the history cannot be written or no sender waits.
            let _unrecorded = MessageHistory::of(&config.home).note(&entry);
            if let Some(queue) = message.receipt_to() {
                let receipt = Receipt {
                    id: envelope.id,
                    to: Some(name.to_string()),
                    state,
                    reason: None,
                    way: None,
                };
                let _unsent = peer.send_receipt(queue, &receipt).await;
            }
        }
        message.ack().await;
    }
}

/// What became of the messages in a queue and in its sessions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RemovalCounts {
    /// How many were removed.
    pub(super) count: u32,
    /// How many the agent or another command already has, so that they stay.
    pub(super) left: u64,
    /// How many attached consumers have not answered. What they hold is not removed, and not
    /// counted.
    unanswered: u32,
}

impl RemovalCounts {
    /// The error if a consumer has not answered, so that its messages may still be delivered.
    pub(super) fn all_answered(&self, name: &SessionName) -> Result<(), Error> {
        if self.unanswered == 0 {
            return Ok(());
        }
        let consumers = counted(self.unanswered, "consumer");
        let have = if self.unanswered == 1 { "has" } else { "have" };
        Err(
            Error::new(format!("{consumers} of `{name}` {have} not answered"))
                .caused_by("what is held there is not removed yet, and may still be delivered")
                .exit_with(Exit::Unconfirmed),
        )
    }
}

/// Removes messages from one queue and records the end of each in the history.
pub(super) struct Removed<'a> {
    /// The queue.
    pub(super) name: &'a SessionName,
    /// Whether they are purged, or deleted with their queue.
    pub(super) removal: Removal,
    /// The configuration, for the history's folder.
    pub(super) config: &'a Config,
}

impl Removed<'_> {
    /// Takes the waiting messages one by one. Returns their number. What exceeds the limit of a
    /// session's queue is left, and the broker deletes it at once.
    pub(super) async fn take_waiting(&self, peer: &Peer, waiting: u32) -> Result<u32, Error> {
        let end = match self.removal {
            Removal::Purged => MessageEnd::Purged,
            Removal::Deleted => MessageEnd::Deleted,
        };
        for taken in 0..waiting.min(MAX_LENGTH) {
            let Some(message) = peer.get(self.name).await? else {
                return Ok(taken);
            };
            end.of(&message, (peer, self.name, self.config)).await;
        }
        Ok(waiting.min(MAX_LENGTH))
    }

    /// Makes the attached sessions discard the messages that they hold. The sessions record the
    /// ends themselves.
    async fn take_held(&self, peer: &mut Peer, attached: u32) -> Result<RemovalCounts, Error> {
        let mut discarded = RemovalCounts::default();
        if attached == 0 {
            return Ok(discarded);
        }
        let request = Request::Discard {
            scope: RequestScope::Name(self.name.to_string()),
            removal: self.removal,
        };
        let awaited = sessions::answers_of(self.name, attached);
        let answers = peer.ask_sessions(&[request], &awaited).await?;
        let answered = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        if answered < attached {
            // Those that have gone have given back what they held.
            let now = peer.queue_counts(self.name).await?;
            let attached = now.map_or(0, |queue| queue.consumers).min(attached);
            discarded.unanswered = attached.saturating_sub(answered);
        }
        for answer in answers {
            if let Answer::Inbox { messages, left, .. } = answer {
                let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
                discarded.count = discarded.count.saturating_add(count);
                discarded.left += u64::from(left);
            }
        }
        Ok(discarded)
    }
}
