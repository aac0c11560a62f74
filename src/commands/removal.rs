//! What `purge` and `delete` have in common: neither loses a message without counting it and without
//! its end in the local history.

use std::time::Duration;

use chrono::Utc;

use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::journal::{Entry, Event, Journal};
use crate::name::SessionName;
use crate::output::counted;
use crate::peer::{MAX_LENGTH, Peer, QueueState, Removal, Reply, Request, Scope};

/// A session answers at once, or it is not there.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What cannot be undone is done only with `--yes`.
pub(super) fn confirmed(is_meant: bool, what: &str) -> Result<(), Error> {
    if is_meant {
        return Ok(());
    }
    Err(Error::usage(format!("{what} cannot be undone")).hint("say --yes if you mean it"))
}

/// The queue, or an error where there is none.
pub(super) async fn existing(peer: &mut Peer, name: &SessionName) -> Result<QueueState, Error> {
    peer.look(name).await?.ok_or_else(|| {
        Error::new(format!("there is no queue `{name}`"))
            .hint("`cbroker list` shows those that are")
    })
}

/// Refuses where somebody has the queue: what a session holds would be lost under its hands.
pub(super) async fn unattended(
    peer: &Peer,
    name: &SessionName,
    queue: &QueueState,
) -> Result<(), Error> {
    if queue.consumers == 0 {
        return Ok(());
    }
    let is_of_it =
        |reply: &Reply| matches!(reply, Reply::State(state) if state.name == name.as_str());
    let enough = |replies: &[Reply]| {
        replies.iter().filter(|reply| is_of_it(reply)).count() >= queue.consumers as usize
    };
    let replies = peer
        .ask_sessions(&Request::Who, ANSWER_WITHIN, enough)
        .await?;
    let held: Vec<u32> = replies
        .iter()
        .filter_map(|reply| match reply {
            Reply::State(state) if state.name == name.as_str() => Some(state.held),
            _ => None,
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
    Err(refused.hint("end the session first, or say --force: what it holds goes too"))
}

/// Messages that are removed from one queue, each with its end in the history.
pub(super) struct Removed<'a> {
    /// The queue.
    pub(super) name: &'a SessionName,
    /// How.
    pub(super) removal: Removal,
    /// Where the history lies.
    pub(super) config: &'a Config,
}

impl Removed<'_> {
    /// Takes what waits, one by one; how many. More than a session's queue holds is left for the
    /// broker to drop at once.
    pub(super) async fn take_waiting(&self, peer: &Peer, waiting: u32) -> Result<u32, Error> {
        let journal = Journal::of(&self.config.home);
        let event = match self.removal {
            Removal::Purged => Event::Purged,
            Removal::Deleted => Event::Deleted,
        };
        for taken in 0..waiting.min(MAX_LENGTH) {
            let Some(message) = peer.get(self.name).await? else {
                return Ok(taken);
            };
            let limit_bytes = self.config.settings.body_limit_bytes;
            if let Ok(envelope) = Envelope::parse(&message.body, limit_bytes) {
                let end = Entry::new(Utc::now(), &envelope.id, event, self.name.as_str());
                // A history that cannot be written stops nothing.
                let _untold = journal.note(&end);
            }
            message.ack().await;
        }
        Ok(waiting.min(MAX_LENGTH))
    }

    /// Has the sessions of the queue let go of what they hold; how many messages. They note the
    /// ends themselves.
    pub(super) async fn take_held(&self, peer: &Peer, sessions: u32) -> Result<u32, Error> {
        if sessions == 0 {
            return Ok(0);
        }
        let request = Request::Discard {
            scope: Scope::Name(self.name.to_string()),
            removal: self.removal,
        };
        let enough = |replies: &[Reply]| replies.len() >= sessions as usize;
        let replies = peer.ask_sessions(&request, ANSWER_WITHIN, enough).await?;
        let held = replies.iter().map(|reply| match reply {
            Reply::Inbox { messages, .. } => messages.len(),
            Reply::State(_) => 0,
        });
        Ok(u32::try_from(held.sum::<usize>()).unwrap_or(u32::MAX))
    }
}
