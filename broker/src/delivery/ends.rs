//! Messages that ended in the broker, on their way to the program that observes them. Depends on
//! `observer` and `queue`.
//!
//! They are collected in the effects of a unit of work and sent after all locks are released. A
//! thread calls the observer, so no unit of work waits for it. Its backlog is bounded in messages
//! and bytes; messages beyond that are counted and not reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::observer::{BrokerEnd, EndObserver, EndedMessage};
use crate::queue::message::Message;

/// Maximum bytes of messages that wait for the observer.
const WAITING_BYTES: usize = 16 << 20;
/// Maximum number of these messages: four full queues of sessions.
const WAITING: usize = 4096;
/// Maximum number of messages in one call of the observer.
const BATCH: usize = 256;
/// Minimum interval between log lines about messages that were not reported.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// A message that ended.
#[derive(Debug)]
pub(crate) struct EndedEntry {
    pub(crate) queue: Arc<str>,
    pub(crate) message: Message,
    pub(crate) end: BrokerEnd,
}

/// Sends to the observer's thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct EndSender {
    exchange: &'static str,
    entries: SyncSender<EndedEntry>,
    waiting: Arc<EndBacklog>,
}

#[derive(Debug, Default)]
struct EndBacklog {
    bytes: AtomicUsize,
    /// The number of messages not reported since the last log line about them.
    lost: AtomicU64,
}

impl EndSender {
    /// Starts the thread that calls the observer.
    pub(crate) fn start(observer: Arc<dyn EndObserver>) -> std::io::Result<Self> {
        let (entries, ended) = sync_channel(WAITING);
        let waiting = Arc::<EndBacklog>::default();
        let (exchange, backlog) = (observer.exchange(), Arc::clone(&waiting));
        thread::Builder::new()
            .name("message ends".to_owned())
            .spawn(move || tell(&*observer, &ended, &backlog))?;
        Ok(Self {
            exchange,
            entries,
            waiting,
        })
    }

    /// The exchange whose messages are observed.
    pub(crate) fn exchange(&self) -> &'static str {
        self.exchange
    }

    /// Sends the messages that ended in one unit of work.
    pub(crate) fn send(&self, ended: impl Iterator<Item = EndedEntry>) {
        for entry in ended {
            let bytes = entry.message.footprint();
            let has_room = self.waiting.bytes.load(Relaxed) + bytes <= WAITING_BYTES;
            // Counted before it can be told and taken off again.
            self.waiting.bytes.fetch_add(bytes, Relaxed);
            if !has_room || self.entries.try_send(entry).is_err() {
                self.waiting.bytes.fetch_sub(bytes, Relaxed);
                self.waiting.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

fn tell(observer: &dyn EndObserver, ended: &Receiver<EndedEntry>, backlog: &EndBacklog) {
    let mut reported = None;
    while let Ok(first) = ended.recv() {
        let mut batch = vec![first];
        batch.extend(ended.try_iter().take(BATCH - 1));
        let messages: Vec<_> = batch.iter().map(EndedEntry::view).collect();
        observer.ended(&messages);
        let bytes = batch.iter().map(|entry| entry.message.footprint()).sum();
        backlog.bytes.fetch_sub(bytes, Relaxed);
        let is_due = reported.is_none_or(|at: Instant| at.elapsed() >= REPORT_EVERY);
        if is_due && backlog.lost.load(Relaxed) > 0 {
            reported = Some(Instant::now());
            let lost = backlog.lost.swap(0, Relaxed);
            tracing::warn!(
                lost,
                "messages ended faster than their ends could be recorded"
            );
        }
    }
}

impl EndedEntry {
    fn view(&self) -> EndedMessage<'_> {
        let content = self.message.content();
        EndedMessage {
            end: self.end,
            queue: &self.queue,
            routing_key: content.routing_key,
            properties: content.properties,
            body: content.body,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    /// Notes what it is told, and waits each time for a word.
    #[derive(Debug)]
    struct Slow {
        told: SyncSender<usize>,
        go_on: Mutex<Receiver<()>>,
    }

    impl EndObserver for Slow {
        fn exchange(&self) -> &'static str {
            "x"
        }

        fn ended(&self, messages: &[EndedMessage<'_>]) {
            self.told.send(messages.len()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
    }

    fn ended(bytes: usize) -> EndedEntry {
        EndedEntry {
            queue: "q".into(),
            message: Message::transient((b"x", b"q"), &vec![0; bytes]),
            end: BrokerEnd::Expired,
        }
    }

    #[test]
    fn what_waits_for_a_slow_observer_is_bounded() {
        let (told, was_told) = sync_channel(100);
        let (go, go_on) = sync_channel(100);
        let go_on = Mutex::new(go_on);
        let sender = EndSender::start(Arc::new(Slow { told, go_on })).unwrap();
        sender.send(std::iter::once(ended(1)));
        assert_eq!(was_told.recv().unwrap(), 1);
        // It is behind: 40 MiB are too much.
        sender.send((0..40).map(|_| ended(1 << 20)));
        assert_eq!(sender.waiting.lost.load(Relaxed), 25);
        go.send(()).unwrap();
        assert_eq!(was_told.recv().unwrap(), 15);
        go.send(()).unwrap();
        // Once it is told of another one, it is not behind any more.
        sender.send(std::iter::once(ended(1)));
        assert_eq!(was_told.recv().unwrap(), 1);
        sender.send((0..15).map(|_| ended(1 << 20)));
        go.send(()).unwrap();
        assert_eq!(was_told.recv().unwrap(), 15);
        go.send(()).unwrap();
    }
}
