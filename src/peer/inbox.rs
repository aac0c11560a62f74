//! The consumer of a wrapped session: it attaches, yields deliveries, and reconnects by itself, for
//! days.
//!
//! Its own task owns the connections (`link`, `outgoing`). It reports to the session
//! with [`InboxEvent`]s, and the session sends through an [`OutgoingSender`]. The task does not
//! wait for the session: at most `prefetch` deliveries are under way, and what the session sends is
//! queued, so both may be slow without a deadlock.

mod budget;
mod link;
mod outgoing;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::presence::{Answer, Presence, Request};
use super::{Backoff, PeerError, Receipt, ReceivedMessage};
use crate::config::Endpoint;
use crate::name::{GroupName, SessionName};

/// The limit of queued receipts and answers while the broker is away. Further ones are dropped:
/// they are about messages that will be delivered again.
const OUTGOING: usize = 1024;

/// Whether a second session of the name may attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Both share the queue; each message goes to one.
    Shared,
    /// No other session may attach (`--exclusive`).
    Exclusive,
}

/// The options of an inbox.
#[derive(Debug, Clone)]
pub struct InboxOptions {
    /// The broker.
    pub endpoint: Endpoint,
    /// The session, and so the queue.
    pub name: SessionName,
    /// The groups that the queue becomes a member of.
    pub groups: Vec<GroupName>,
    /// The TTL for a queue that has to be declared.
    pub ttl_ms: u64,
    /// The number of deliveries that may be unsettled, until [`Inbox::ask_for_more`] is called.
    pub prefetch: u16,
    /// Whether other sessions of the name may attach.
    pub sharing: Sharing,
    /// Finds the broker again after it has moved, if that is possible.
    pub endpoint_finder: Option<EndpointFinder>,
}

/// Returns the current address of the broker, before each attempt to reach it. `None` means that
/// it has not moved.
#[derive(Clone)]
pub struct EndpointFinder(Arc<dyn Fn() -> Option<Endpoint> + Send + Sync>);

impl EndpointFinder {
    /// Calls `find`, which may read files but must not wait for anything else.
    pub fn new(find: impl Fn() -> Option<Endpoint> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl fmt::Debug for EndpointFinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointFinder")
    }
}

/// The state of the queue when the inbox attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedQueue {
    /// Messages that wait.
    pub waiting: u32,
    /// Other sessions on the same queue.
    pub others: u32,
    /// How the queue differs from the one that was requested, if it does.
    pub difference: Option<QueueDifference>,
}

/// How a queue that existed differs from an ordinary one of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueDifference {
    /// Only its TTL differs, or it has none.
    Ttl(Option<u64>),
    /// More than that differs: the argument that the broker names first. The user who declared it
    /// may have its messages sent elsewhere too.
    Unusual(Option<String>),
}

impl fmt::Display for QueueDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ttl(Some(ttl)) => write!(f, "it has a TTL of {ttl} ms"),
            Self::Ttl(None) => f.write_str("it has no TTL"),
            Self::Unusual(argument) => {
                f.write_str("it is not an ordinary one, ")?;
                match argument {
                    Some(argument) => write!(f, "its {argument} differs")?,
                    None => f.write_str("its arguments differ")?,
                }
                f.write_str(", and whoever declared it may get what is sent to it")
            }
        }
    }
}

/// An event for the session.
#[derive(Debug)]
pub enum InboxEvent {
    /// The inbox consumes, at first and again after each loss.
    Attached(AttachedQueue),
    /// A message.
    Delivery(Box<ReceivedMessage>),
    /// The broker is not reachable, or another client uses the queue exclusively; further attempts
    /// follow. Unsettled deliveries will be delivered again.
    Lost(PeerError),
    /// The broker refuses permanently, or this session wants the queue exclusively and another
    /// session is attached. No more events follow.
    Refused(PeerError),
    /// A request was ignored, because it does not come from this session's own user. Reported
    /// once.
    Ignored(String),
    /// A request that only the session can answer; answer with [`OutgoingSender::answer`].
    Request(Request, ReplyTo),
}

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo(String);

/// Sends receipts, answers and announcements of a session. Never waits; cheap to clone.
#[derive(Debug, Clone)]
pub struct OutgoingSender {
    outgoing: mpsc::Sender<OutgoingMessage>,
    presence: watch::Sender<Option<Presence>>,
}

#[derive(Debug)]
enum OutgoingMessage {
    Receipt { queue: String, receipt: Receipt },
    Answer { to: ReplyTo, answer: Box<Answer> },
}

impl OutgoingMessage {
    /// The queue that it goes to, and its body.
    fn into_message(self) -> (String, Vec<u8>) {
        match self {
            Self::Receipt { queue, receipt } => (queue, receipt.to_json()),
            Self::Answer { to, answer } => (to.0, serde_json::to_vec(&*answer).unwrap_or_default()),
        }
    }
}

/// A consumer that reconnects by itself. Dropping it closes the connections at once.
#[derive(Debug)]
pub struct Inbox {
    events: mpsc::Receiver<InboxEvent>,
    outgoing_sender: OutgoingSender,
    prefetch: u16,
    more: Arc<Notify>,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl OutgoingSender {
    /// Sends a receipt to a sender; `queue` is the delivery's `receipt_to`.
    pub fn receipt(&self, queue: &str, receipt: Receipt) {
        let _ = self.outgoing.try_send(OutgoingMessage::Receipt {
            queue: queue.to_owned(),
            receipt,
        });
    }

    /// Sets the state of the session. A change is announced, and `who` is answered with the last
    /// state.
    pub fn announce(&self, presence: Presence) {
        self.presence.send_if_modified(|last| {
            let changed = last.as_ref() != Some(&presence);
            *last = Some(presence);
            changed
        });
    }

    /// Answers a request of [`InboxEvent::Request`].
    pub fn answer(&self, to: ReplyTo, answer: Answer) {
        let _ = self.outgoing.try_send(OutgoingMessage::Answer {
            to,
            answer: Box::new(answer),
        });
    }
}

impl Inbox {
    /// Starts to attach in the background, and returns at once.
    pub fn open(options: InboxOptions) -> Self {
        let (events_in, events) = mpsc::channel(usize::from(options.prefetch) + 16);
        let (outgoing, outgoing_out) = mpsc::channel(OUTGOING);
        let (presence, presence_out) = watch::channel(None);
        let (closing, closing_out) = watch::channel(false);
        let prefetch = options.prefetch;
        let more = Arc::new(Notify::new());
        let link = link::InboxConnection {
            options,
            more: Arc::clone(&more),
            events: events_in,
            outgoing: outgoing_out,
            presence: presence_out,
            round: 0,
            has_reported_stranger: false,
            for_strangers: budget::AnswerBudget::new(Instant::now()),
        };
        let task = tokio::spawn(link.run(closing_out));
        Self {
            events,
            outgoing_sender: OutgoingSender { outgoing, presence },
            prefetch,
            more,
            closing,
            task,
        }
    }

    /// The next event; `None` after [`InboxEvent::Refused`]. Safe to drop half-way in a select.
    pub async fn next(&mut self) -> Option<InboxEvent> {
        self.events.recv().await
    }

    /// How many deliveries of one round may be unsettled.
    pub fn prefetch(&self) -> usize {
        self.prefetch.into()
    }

    /// Begins a new round: the deliveries up to now no longer count, and `prefetch` more may be
    /// unsettled beside them. They still have to be settled.
    pub fn ask_for_more(&self) {
        self.more.notify_one();
    }

    /// A handle that sends receipts, answers and announcements.
    pub fn outgoing_sender(&self) -> OutgoingSender {
        self.outgoing_sender.clone()
    }

    /// Closes the connections. Unsettled messages are back in the queue when this returns. Waits at
    /// most `limit`.
    pub async fn close(mut self, limit: Duration) {
        let _ = self.closing.send(true);
        self.events.close();
        let _ = tokio::time::timeout(limit, &mut self.task).await;
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A number between 0 and 1 that differs between sessions: the jitter of their attempts.
fn jitter() -> f64 {
    let mut byte = [0; 1];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}
