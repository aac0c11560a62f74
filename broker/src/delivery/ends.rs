//! Messages that ended in the broker, on their way to the program that observes them. Depends on
//! `observer`, `queue` and `persist`.
//!
//! They are collected in the effects of a unit of work and sent after all locks are released. A
//! thread calls the observer, so no unit of work waits for it. It also reads the messages that only
//! the store had: the read is planned before they are settled. Its backlog is bounded in messages
//! and bytes; messages beyond that are counted and not reported.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::observer::{BrokerEnd, EndObserver, EndedMessage};
use crate::persist::{ReadLimit, ReadPlan};
use crate::queue::message::Message;
use crate::wire::content::PROPERTIES_BYTES;

/// Maximum bytes of messages that wait for the observer.
const WAITING_BYTES: usize = 16 << 20;
/// Maximum number of these messages: four full queues of sessions.
const WAITING: usize = 4096;
/// Maximum number of messages in one call of the observer.
const BATCH: usize = 256;
/// Minimum interval between log lines about messages that were not reported.
const REPORT_EVERY: Duration = Duration::from_mins(1);
/// How often [`EndSender::recorded`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Messages of one queue that ended.
#[derive(Debug)]
pub(crate) struct EndedEntry {
    pub(crate) queue: Arc<str>,
    pub(crate) end: BrokerEnd,
    pub(crate) messages: EndedMessages,
}

#[derive(Debug)]
pub(crate) enum EndedMessages {
    /// One message, of the observed exchange.
    InMemory(Message),
    /// So many messages of any exchange, which are to be read.
    InStore(ReadPlan, u64),
}

/// Which messages are observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) exchange: &'static str,
    /// How messages are read that only the store has.
    pub(crate) limit: ReadLimit,
}

/// Sends to the observer's thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct EndSender {
    observed: Observed,
    entries: SyncSender<EndedEntry>,
    backlog: Arc<EndBacklog>,
}

#[derive(Debug, Default)]
struct EndBacklog {
    entries: AtomicUsize,
    bytes: AtomicUsize,
    /// The number of messages not reported since the last log line about them.
    lost: AtomicU64,
}

/// A message in memory: its queue, and how it ended.
type EndedMemory = (Arc<str>, BrokerEnd, Message);

/// The observer's thread.
struct EndTeller {
    observer: Arc<dyn EndObserver>,
    exchange: &'static str,
    backlog: Arc<EndBacklog>,
    /// When messages that were lost were last logged.
    reported: Option<Instant>,
}

impl EndSender {
    /// Starts the thread that calls the observer.
    pub(crate) fn start(observer: Arc<dyn EndObserver>) -> std::io::Result<Self> {
        let (entries, ended) = sync_channel(WAITING);
        let backlog = Arc::<EndBacklog>::default();
        let observed = Observed {
            exchange: observer.exchange(),
            limit: ReadLimit {
                bytes: WAITING_BYTES,
                message_bytes: observer.largest_body().saturating_add(PROPERTIES_BYTES),
            },
        };
        let mut teller = EndTeller {
            observer,
            exchange: observed.exchange,
            backlog: Arc::clone(&backlog),
            reported: None,
        };
        thread::Builder::new()
            .name("message ends".to_owned())
            .spawn(move || teller.run(&ended))?;
        Ok(Self {
            observed,
            entries,
            backlog,
        })
    }

    /// Which messages are observed.
    pub(crate) fn observed(&self) -> Observed {
        self.observed
    }

    /// Sends the messages that ended in one unit of work.
    pub(crate) fn send(&self, ended: impl Iterator<Item = EndedEntry>) {
        for entry in ended {
            let (bytes, count) = (entry.bytes(), entry.count());
            let before = self.backlog.bytes.load(Relaxed);
            let has_room = match entry.messages {
                EndedMessages::InMemory(_) => before + bytes <= WAITING_BYTES,
                // They are not in memory, and a whole queue may not fit.
                EndedMessages::InStore(..) => before < WAITING_BYTES,
            };
            // Counted before it can be told and taken off again.
            self.backlog.add(bytes);
            if !has_room || self.entries.try_send(entry).is_err() {
                self.backlog.subtract(1, bytes);
                self.backlog.lost.fetch_add(count, Relaxed);
            }
        }
    }

    /// Waits until the observer was told of everything that was sent, for `limit` at most. Returns
    /// how many entries are left.
    pub(crate) async fn recorded(&self, limit: Duration) -> usize {
        let until = Instant::now() + limit;
        loop {
            let left = self.backlog.entries.load(Relaxed);
            if left == 0 || Instant::now() >= until {
                return left;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl EndBacklog {
    fn add(&self, bytes: usize) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn subtract(&self, entries: usize, bytes: usize) {
        self.entries.fetch_sub(entries, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

impl EndTeller {
    fn run(&mut self, ended: &Receiver<EndedEntry>) {
        while let Ok(first) = ended.recv() {
            let mut batch = vec![first];
            batch.extend(ended.try_iter().take(BATCH - 1));
            let (entries, bytes) = (batch.len(), batch.iter().map(EndedEntry::bytes).sum());
            // One that panics must not cost the ends of all later messages.
            if catch_unwind(AssertUnwindSafe(|| self.notify_observer(batch))).is_err() {
                tracing::error!(
                    entries,
                    "ends of messages were not recorded: the recorder panicked"
                );
            }
            self.backlog.subtract(entries, bytes);
            self.report();
        }
    }

    /// Tells the observer of these entries, in their order.
    fn notify_observer(&self, batch: Vec<EndedEntry>) {
        let mut in_memory = Vec::new();
        for entry in batch {
            let EndedEntry {
                queue,
                end,
                messages,
            } = entry;
            match messages {
                EndedMessages::InMemory(message) => in_memory.push((queue, end, message)),
                EndedMessages::InStore(plan, count) => {
                    self.observe(&in_memory);
                    in_memory.clear();
                    self.notify_of_stored(&queue, end, (plan, count));
                }
            }
        }
        self.observe(&in_memory);
    }

    /// Reads messages from the store, and tells of those that are observed.
    fn notify_of_stored(
        &self,
        queue: &Arc<str>,
        end: BrokerEnd,
        (mut plan, count): (ReadPlan, u64),
    ) {
        let is_cut = plan.bytes() >= WAITING_BYTES;
        let (mut read, mut has_some) = (0, false);
        while read < WAITING
            && let Some(slice) = plan.read_next()
        {
            read += slice.len();
            let decoded = slice
                .iter()
                .filter_map(|(_, bytes)| Message::from_stored(bytes).ok());
            let observed = decoded
                .filter(|message| message.content().exchange == self.exchange.as_bytes())
                .map(|message| (Arc::clone(queue), end, message));
            let observed: Vec<_> = observed.collect();
            has_some |= !observed.is_empty();
            observed.chunks(BATCH).for_each(|some| self.observe(some));
        }
        if has_some && (is_cut || read >= WAITING) {
            let lost = count.saturating_sub(read as u64);
            self.backlog.lost.fetch_add(lost, Relaxed);
        }
    }

    fn observe(&self, ended: &[EndedMemory]) {
        let views: Vec<_> = ended.iter().map(view).collect();
        if !views.is_empty() {
            self.observer.ended(&views);
        }
    }

    /// Logs how many messages were lost, now and then.
    fn report(&mut self) {
        let is_due = self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if is_due && self.backlog.lost.load(Relaxed) > 0 {
            self.reported = Some(Instant::now());
            let lost = self.backlog.lost.swap(0, Relaxed);
            tracing::warn!(
                lost,
                "messages ended faster than their ends could be recorded"
            );
        }
    }
}

impl EndedEntry {
    fn bytes(&self) -> usize {
        match &self.messages {
            EndedMessages::InMemory(message) => message.footprint(),
            EndedMessages::InStore(plan, _) => plan.bytes(),
        }
    }

    fn count(&self) -> u64 {
        match self.messages {
            EndedMessages::InMemory(_) => 1,
            EndedMessages::InStore(_, count) => count,
        }
    }
}

fn view((queue, end, message): &EndedMemory) -> EndedMessage<'_> {
    let content = message.content();
    EndedMessage {
        end: *end,
        queue,
        routing_key: content.routing_key,
        properties: content.properties,
        body: content.body,
    }
}

#[cfg(test)]
mod tests;
