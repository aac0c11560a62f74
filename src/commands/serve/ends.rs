//! Records which messages ended in the broker itself, as the commands and the sessions record those
//! that they end: in the history, and for a sender that waits.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use broker::{BrokerEnd, EndObserver, EndedMessage};
use chrono::Utc;
use tokio::runtime::Handle;

use super::archive::HomeArchive;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory};
use crate::name::SessionName;
use crate::peer::{EXCHANGE, RECEIPT_TO, Receipt, ReceiptState};
use crate::wrap::Publisher;

/// Records the ends of one broker's messages.
pub(super) struct EndRecorder {
    config: Config,
    /// The user of this home's sessions.
    user: String,
    receipts: ReceiptSender,
}

/// Receipts, each with the queue in which its sender waits.
type ReceiptBatch = Vec<(String, Receipt)>;

/// Sends receipts from one thread, so that recording does not wait for a broker that is slow to
/// take them.
struct ReceiptSender {
    waiting: SyncSender<ReceiptBatch>,
}

/// A message of a session, and how it ended.
struct SessionMessage {
    envelope: Envelope,
    to: SessionName,
    publisher: Publisher,
    event: HistoryEvent,
    state: ReceiptState,
    /// The queue in which its sender waits.
    receipt_to: Option<String>,
}

impl fmt::Debug for EndRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndRecorder").finish_non_exhaustive()
    }
}

impl EndRecorder {
    /// Must be called in the runtime.
    pub(super) fn new(config: &Config, archive: &Arc<HomeArchive>, user: String) -> Self {
        let (archive, runtime) = (Arc::clone(archive), Handle::current());
        let receipts = ReceiptSender::start(move |receipts| {
            if let Err(error) = runtime.block_on(send_receipts(&archive, receipts)) {
                tracing::debug!(error = %error.summary(), "receipts were not sent");
            }
        });
        Self {
            config: config.clone(),
            user,
            receipts,
        }
    }

    /// Reads an ended message; `None` if it was none to a session.
    fn read(&self, ended: &EndedMessage<'_>) -> Option<SessionMessage> {
        let to = SessionName::new(ended.queue).ok()?;
        if to.as_str() != ended.queue || to.is_answer_queue() {
            return None;
        }
        let limit_bytes = self.config.settings.body_limit_bytes;
        let envelope = Envelope::parse(ended.body, limit_bytes).ok()?;
        // Nobody vouches for a copy, which was published to another session.
        let is_copy = ended.routing_key != ended.queue.as_bytes();
        let user = ended.user().filter(|_| !is_copy);
        let publisher = Publisher::named(user, &self.user);
        let (event, state) = match ended.end {
            BrokerEnd::Expired => (HistoryEvent::Expired, ReceiptState::Expired),
            BrokerEnd::Dropped => (HistoryEvent::Dropped, ReceiptState::Dropped),
            BrokerEnd::Purged => (HistoryEvent::Purged, ReceiptState::Purged),
            BrokerEnd::Deleted => (HistoryEvent::Deleted, ReceiptState::Deleted),
        };
        // As sessions do, only of messages of their own user.
        let receipt_to = ended
            .header(RECEIPT_TO)
            .filter(|queue| publisher == Publisher::Own && Receipt::may_go_to(queue));
        Some(SessionMessage {
            envelope,
            to,
            publisher,
            event,
            state,
            receipt_to,
        })
    }
}

impl EndObserver for EndRecorder {
    fn exchange(&self) -> &'static str {
        EXCHANGE
    }

    fn largest_body(&self) -> usize {
        self.config.settings.body_limit_bytes
    }

    fn ended(&self, messages: &[EndedMessage<'_>]) {
        let history = MessageHistory::of(&self.config.home);
        let mut receipts = Vec::new();
        for message in messages.iter().filter_map(|ended| self.read(ended)) {
            let id = &message.envelope.id;
            let entry = HistoryEntry::new(Utc::now(), id, message.event, message.to.as_str())
                .published_by(message.publisher.mark().map(str::to_owned));
            if let Err(error) = history.note(&entry) {
                tracing::debug!(%error, "the end of a message was not recorded");
            }
            let receipt = Receipt {
                id: message.envelope.id,
                to: Some(message.to.to_string()),
                state: message.state,
                reason: None,
                way: None,
            };
            receipts.extend(message.receipt_to.map(|queue| (queue, receipt)));
        }
        if !receipts.is_empty() {
            self.receipts.send(receipts);
        }
    }
}

impl ReceiptSender {
    /// So many runs of receipts may wait. A sender whose receipt is not sent
    /// waits until its timeout; the history has the end.
    const WAITING: usize = 16;

    /// Starts the thread that calls `send`.
    fn start(send: impl Fn(&ReceiptBatch) + Send + 'static) -> Self {
        let (waiting, next) = sync_channel::<ReceiptBatch>(Self::WAITING);
        let run = move || next.iter().for_each(|receipts| send(&receipts));
        if let Err(error) = thread::Builder::new()
            .name("receipts".to_owned())
            .spawn(run)
        {
            tracing::error!(%error, "no receipts of ended messages are sent");
        }
        Self { waiting }
    }

    fn send(&self, receipts: ReceiptBatch) {
        let count = receipts.len();
        match self.waiting.try_send(receipts) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!(count, "receipts were not sent: too many wait already");
            }
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!(count, "receipts were not sent: their thread has ended");
            }
        }
    }
}

/// Sends these receipts to the queues in which their senders wait.
async fn send_receipts(archive: &HomeArchive, receipts: &ReceiptBatch) -> Result<(), Error> {
    let Some((peer, _)) = archive.connect("receipts").await? else {
        return Ok(());
    };
    for (queue, receipt) in receipts {
        peer.send_receipt(queue, receipt).await?;
    }
    peer.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn receipts() -> ReceiptBatch {
        let receipt = Receipt {
            id: "id".to_owned(),
            to: None,
            state: ReceiptState::Expired,
            reason: None,
            way: None,
        };
        vec![("queue".to_owned(), receipt)]
    }

    /// Each run of ended messages had a thread of its own.
    #[test]
    fn receipts_that_a_slow_broker_does_not_take_are_bounded() {
        const MANY: usize = 10 * ReceiptSender::WAITING;
        let (begun, has_begun) = sync_channel(MANY);
        let (go, go_on) = sync_channel::<()>(MANY);
        let go_on = Mutex::new(go_on);
        let sender = ReceiptSender::start(move |receipts| {
            let _ = begun.send((thread::current().id(), receipts.len()));
            let _ = go_on.lock().map(|go_on| go_on.recv());
        });
        sender.send(receipts());
        let first = has_begun.recv();
        for _ in 0..MANY {
            sender.send(receipts());
        }
        assert!(has_begun.try_recv().is_err(), "one after the other");
        drop((go, sender));
        let rest: Vec<_> = has_begun.iter().map(Ok).collect();
        assert_eq!(rest.len(), ReceiptSender::WAITING);
        assert!(rest.iter().all(|one| *one == first));
    }
}
