//! The store as its caller sees it: quick calls that return a ticket, and a number that says what
//! is durable.
//!
//! Only [`Store::open`], [`Store::read`] and [`Store::close`] wait for the disk.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use crate::committer::{Committer, GATHER};
use crate::disk::{lock, lock_folder};
use crate::extent::ExtentRun;
use crate::frame::{LARGE_BYTES, MESSAGE_BYTES};
use crate::handover::Handover;
use crate::index::Index;
use crate::log::{LogWriter, SpareSlots};
use crate::pending::{Chunk, Grouping, PendingQueue, QueueCopy, TargetBatch};
use crate::read_plan::{ReadLimit, ReadPlan};
use crate::recovery;
use crate::terms::{
    Demand, OpenError, OpenReport, Options, QueueId, ReadError, Recovered, Sequence, Settled,
    Stopped, StoreEvent, Stored, Ticket, Urgency,
};
use crate::tidying::TidyingHandle;

/// What [`Store::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The store, running.
    pub store: Store,
    /// All definitions, in the order of their keys.
    pub definitions: Vec<Stored>,
    /// Every queue that has had a message on disk and was not dropped, by rising number.
    pub queues: Vec<Recovered>,
    /// What was repaired.
    pub report: OpenReport,
}

/// A handle to a running store. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// A large body that is being written; its queue waits until this is dropped.
struct LargeBody {
    handover: Arc<Handover>,
    ticket: u64,
    /// Queue, sequence and length.
    message: (QueueId, Sequence, usize),
}

impl Drop for LargeBody {
    fn drop(&mut self) {
        self.handover.finish_body_ticket(self.ticket);
    }
}

impl LargeBody {
    /// Works on the message if it was not settled and the committer has not taken it.
    fn with<T>(&self, work: impl FnOnce(&mut Chunk) -> T) -> Option<T> {
        let (queue, sequence, _) = self.message;
        self.handover.with_large(queue, sequence, work)
    }

    /// Writes it, in pieces; gives up when the message is gone.
    fn write(&self, slots: &SpareSlots, index: &Mutex<Index>) -> Option<()> {
        self.with(|_| ())?;
        let (queue, sequence, length) = self.message;
        let copy = |at: usize, piece: &mut [u8]| {
            let copied = self.with(|chunk| {
                piece.copy_from_slice(&chunk.bytes[at..at + piece.len()]);
            });
            copied.is_some()
        };
        let written = slots.write_body((queue.0, sequence.0, length), copy);
        let written = written.ok()?;
        let file = Arc::clone(&written.file);
        let noted = self.with(|chunk| {
            let segments = &mut lock(index).segments;
            segments.add_body(written.number, Arc::clone(&written.file));
            chunk.written = Some(written);
        });
        if noted.is_none() {
            drop(slots.remove(&file));
        }
        noted
    }
}

type CommitterThread = JoinHandle<Result<(), Stopped>>;

struct Inner {
    handover: Arc<Handover>,
    index: Arc<Mutex<Index>>,
    slots: Arc<SpareSlots>,
    /// The committer, and the lock of the folder, until the store is closed.
    running: Mutex<Option<(CommitterThread, Arc<File>)>>,
}

/// While it lives no commit is begun: everything handed over meanwhile is durable together, or not
/// at all.
///
/// Hold it only for a few calls of the same store; it may be nested. One that is held for a second,
/// or while messages up to the limit wait, does not hold commits back any longer.
#[must_use]
pub struct CommitPause {
    handover: Arc<Handover>,
    /// `None` once it has yielded.
    round: Option<u64>,
}

impl CommitPause {
    /// Whether commits of the store wait for this guard, so that its owner must not wait for one.
    /// Not once it was held for too long, nor while too many bytes wait.
    pub fn is_awaited(&self) -> bool {
        let is_in_effect = |round| self.handover.is_pause_in_effect(round);
        self.round.is_some_and(is_in_effect)
    }

    /// Lets commits go on without it, so that its owner may wait for the store. What is handed over
    /// from now on may be durable later than what was, and never earlier.
    pub fn yield_to_commits(&mut self) {
        if let Some(round) = self.round.take() {
            self.handover.yield_pause(round);
        }
    }
}

impl Drop for CommitPause {
    fn drop(&mut self) {
        self.handover.end_pause(self.round);
    }
}

impl std::fmt::Debug for CommitPause {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CommitPause")
    }
}

impl Store {
    /// Opens or creates the store in a folder. Damage is repaired or set aside and reported; it
    /// never prevents the opening.
    pub fn open(
        folder: &Path,
        options: Options,
        progress: impl Fn(StoreEvent) + Send + Sync + 'static,
    ) -> Result<Opened, OpenError> {
        let held = Arc::new(lock_folder(folder)?);
        let found = recovery::open(folder, &options)?;
        for line in &found.report.repairs {
            tracing::warn!("store: {line}");
        }
        for line in &found.report.losses {
            tracing::error!("store: {line}");
        }
        let definitions = found.index.definitions.clone().into_iter().collect();
        let queues = found.index.recovered();
        let report = found.report;
        let handover = Arc::new(Handover::new(
            (options.pending_limit_bytes, options.pending_account),
            Box::new(progress),
        ));
        let (slots, index) = (Arc::new(found.slots), Arc::new(Mutex::new(found.index)));
        let (kept_slots, kept_index) = (Arc::clone(&slots), Arc::clone(&index));
        let tidying = TidyingHandle::start(kept_slots, kept_index, found.rows, Arc::clone(&held));
        let started = tidying.and_then(|tidying| {
            let log = LogWriter::new(Arc::clone(&slots), Arc::clone(&index));
            let committer = Committer::new(Arc::clone(&handover), log, tidying, options);
            let thread = std::thread::Builder::new().name("store".to_owned());
            thread.spawn(move || committer.run())
        });
        let committer = started.map_err(OpenError::io(folder, "served"))?;
        handover.signal.set_committer(committer.thread());
        let running = Mutex::new(Some((committer, held)));
        let inner = Arc::new(Inner {
            handover,
            index,
            slots,
            running,
        });
        Ok(Opened {
            store: Self { inner },
            definitions,
            queues,
            report,
        })
    }

    /// Puts everything that is handed over while the guard lives into one commit. It must not be
    /// held while waiting for the store.
    pub fn pause_commits(&self) -> CommitPause {
        CommitPause {
            round: Some(self.inner.handover.begin_pause()),
            handover: Arc::clone(&self.inner.handover),
        }
    }

    /// Sets a definition. Keys up to 1 KiB, values up to 1 MiB. Asks for a commit at once.
    pub fn put(&self, key: &[u8], value: Vec<u8>) -> Result<Ticket, Stopped> {
        self.inner.handover.change_definition(key, Some(value))
    }

    /// Removes a definition, which may be absent. Asks for a commit at once.
    pub fn remove(&self, key: &[u8]) -> Result<Ticket, Stopped> {
        self.inner.handover.change_definition(key, None)
    }

    /// Adds a message of up to 128 MiB, given in parts that are joined. Its sequence is higher than
    /// all before it in this queue.
    pub fn append(
        &self,
        queue: QueueId,
        sequence: Sequence,
        message: &[&[u8]],
        urgency: Urgency,
    ) -> Result<Ticket, Stopped> {
        let handover = &self.inner.handover;
        let length: usize = message.iter().map(|part| part.len()).sum();
        let body_ticket = (length > LARGE_BYTES).then(|| handover.issue_body_ticket(queue));
        let ticket = handover.append(queue, sequence, message, urgency)?;
        if let Some(body_ticket) = body_ticket.flatten() {
            let delay = (urgency == Urgency::Eventually).then_some(GATHER);
            let handover = Arc::clone(handover);
            let body = LargeBody {
                handover,
                ticket: body_ticket,
                message: (queue, sequence, length),
            };
            self.inner
                .spawn_body_writer(body, delay.unwrap_or_default());
        }
        Ok(ticket)
    }

    /// Forgets a message that is not needed any more.
    pub fn settle(&self, queue: QueueId, sequence: Sequence) -> Result<Settled, Stopped> {
        self.settle_as(queue, sequence, None)
    }

    /// Like [`Self::settle`], for a message that is part of no [`CommitPause`]. On a full disk, its
    /// settlement is committed without waiting for changes that are.
    pub fn settle_alone(&self, queue: QueueId, sequence: Sequence) -> Result<Settled, Stopped> {
        self.settle_as(queue, sequence, Some(Grouping::Alone))
    }

    /// Settles with this grouping, by default with that of a change made now.
    fn settle_as(
        &self,
        queue: QueueId,
        sequence: Sequence,
        grouping: Option<Grouping>,
    ) -> Result<Settled, Stopped> {
        let handover = &self.inner.handover;
        let settled = handover.change(queue, |waiting, batch, spare| {
            let target = TargetBatch {
                grouping: grouping.unwrap_or(batch.grouping),
                ..batch
            };
            waiting.settle(sequence.0, target, spare)
        });
        let (ticket, freed) = settled?;
        if let Some(freed) = freed {
            handover.release_pending(freed);
            return Ok(Settled::Elided);
        }
        handover.signal.raise(Demand::Later);
        Ok(Settled::Recorded(ticket))
    }

    /// Forgets every message from the first to the last of these, whichever of them there are.
    pub fn settle_all(
        &self,
        queue: QueueId,
        first: Sequence,
        last: Sequence,
    ) -> Result<Ticket, Stopped> {
        self.inner
            .handover
            .change_all(queue, |waiting, batch, spare| {
                // What is committed in between waits until the index has it.
                let index = lock(&self.inner.index);
                let known = index.queues.get(&queue.0).map_or(0, |queue| queue.next);
                waiting.settle_all((first.0, last.0), known, batch, spare)
            })
    }

    /// Notes that everything up to here was delivered at least once. It rides along with the next
    /// commit.
    pub fn delivered(&self, queue: QueueId, through: Sequence) {
        let delivered = |waiting: &mut PendingQueue, _, _: &mut _| waiting.delivered(through.0);
        // It does not matter once the store has stopped.
        let _ = self.inner.handover.change(queue, delivered);
    }

    /// Forgets every message up to here.
    pub fn purge(&self, queue: QueueId, through: Sequence) -> Result<Ticket, Stopped> {
        self.settle_all(queue, Sequence(0), through)
    }

    /// Forgets a queue. Its number is not used again.
    pub fn drop_queue(&self, queue: QueueId) -> Result<Ticket, Stopped> {
        self.inner
            .handover
            .change_all(queue, PendingQueue::drop_all)
    }

    /// Live messages from a sequence on, in order, also those that are not durable yet: up to about
    /// `limit_bytes`, at least one if there is any. The bodies share the groups they came from:
    /// copy what is kept for long.
    pub fn read(
        &self,
        queue: QueueId,
        from: Sequence,
        limit_bytes: usize,
    ) -> Result<Vec<(Sequence, Bytes)>, ReadError> {
        self.inner.handover.check_running()?;
        // What waits is copied first: a message that is committed in between is seen twice and
        // counted once.
        let limit = ReadLimit {
            bytes: limit_bytes,
            message_bytes: usize::MAX,
        };
        let copy = self.inner.handover.copy_pending(queue, from, limit);
        self.inner.read(queue, (from, limit_bytes), copy)
    }

    /// Plans a read of the messages that are live now, from a sequence on. It can be made after
    /// they are settled or their queue is dropped. Reads nothing.
    pub fn plan_read(
        &self,
        queue: QueueId,
        from: Sequence,
        limit: ReadLimit,
    ) -> Result<ReadPlan, Stopped> {
        self.inner.handover.check_running()?;
        let copy = self.inner.handover.copy_pending(queue, from, limit);
        let index = lock(&self.inner.index);
        let message_bytes = limit.message_bytes as u64;
        let is_read = |run: &ExtentRun| run.has_any_within(message_bytes);
        let groups = index.plan(queue, (from.0, limit.bytes as u64), is_read);
        let known = index.queues.get(&queue.0);
        let settled = known.map(|known| known.settled.clone());
        drop(index);
        let found = (groups, settled.unwrap_or_default());
        Ok(ReadPlan::new((queue, from), limit, found, copy))
    }

    /// Everything up to here is on disk for good.
    pub fn durable(&self) -> Ticket {
        self.inner.handover.durable()
    }

    /// Bytes of messages in memory that wait for their commit.
    pub fn pending_bytes(&self) -> usize {
        self.inner.handover.pending_bytes()
    }

    /// Bytes that the log occupies on the disk, with the slots that wait for their use.
    pub fn disk_bytes(&self) -> u64 {
        self.inner.slots.bytes.load(Ordering::Relaxed)
    }

    /// Commits everything, syncs, saves the index, and ends the threads. Other handles get
    /// [`Stopped`] from then on.
    ///
    /// Where the disk is slow, it waits for the index for three seconds at most. The folder then
    /// stays locked until the index is saved, and an opening before that gets
    /// [`OpenError::InUse`](crate::OpenError::InUse).
    pub fn close(self) -> Result<(), Stopped> {
        self.inner.close()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn read(
        &self,
        queue: QueueId,
        (from, limit): (Sequence, usize),
        copy: QueueCopy,
    ) -> Result<Vec<(Sequence, Bytes)>, ReadError> {
        let (mut messages, mut from, limit) = (Vec::new(), from.0, limit as u64);
        let mut bytes = 0;
        // A group may hold little that is live.
        while bytes < limit.max(1) {
            let wanted = (from, limit.saturating_sub(bytes));
            let groups = lock(&self.index).plan(queue, wanted, |_| true);
            let Some((newest, _)) = groups.last() else {
                break;
            };
            let next = newest.last + 1;
            for (group, file) in &groups {
                let (first, last) = (group.first.max(from), group.last);
                let Some(data) = group.read_bodies(file, queue.0) else {
                    // What was read before the damage is good, and the damage comes up again at the
                    // next call.
                    let (queue, next) = (queue.0, last + 1);
                    let damaged = ReadError::Damaged { queue, first, next };
                    let has_some = !messages.is_empty();
                    return if has_some { Ok(messages) } else { Err(damaged) };
                };
                let index = lock(&self.index);
                let Some(found) = index.queues.get(&queue.0) else {
                    break;
                };
                let settled = [&found.settled, &copy.settled];
                let has_settled = settled.map(|all| all.touches(first, last));
                for entry in group.entries(first, last) {
                    let at = entry.sequence;
                    let is_in = |which: usize| has_settled[which] && settled[which].has(at);
                    if is_in(0) || is_in(1) {
                        continue;
                    }
                    bytes += entry.length + MESSAGE_BYTES as u64;
                    messages.push((Sequence(at), data.slice(entry.range())));
                }
            }
            from = next;
        }
        let after = messages.last().map_or(from, |(last, _)| last.0 + 1);
        for (sequence, body) in copy.waiting {
            if bytes >= limit.max(1) {
                break;
            }
            if sequence.0 >= after {
                bytes += (body.len() + MESSAGE_BYTES) as u64;
                messages.push((sequence, Bytes::from(body)));
            }
        }
        Ok(messages)
    }

    /// Writes a large body in a thread of its own. Where that fails the committer writes it.
    fn spawn_body_writer(&self, body: LargeBody, delay: Duration) {
        let (slots, index) = (Arc::clone(&self.slots), Arc::clone(&self.index));
        // The folder stays locked while it is written.
        let running = lock(&self.running);
        let folder = running.as_ref().map(|(_, folder)| Arc::clone(folder));
        let thread = std::thread::Builder::new().name("store-body".to_owned());
        let spawned = thread.spawn(move || {
            let _folder = folder;
            // A consumer that keeps up takes it off before.
            std::thread::sleep(delay);
            body.write(&slots, &index);
        });
        drop(spawned);
    }

    fn close(&self) -> Result<(), Stopped> {
        let Some((committer, folder)) = lock(&self.running).take() else {
            return Ok(());
        };
        self.handover.signal.raise(Demand::Close);
        let outcome = committer.join();
        drop(folder);
        outcome.unwrap_or(Err(Stopped::Panicked))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A caller that needs the outcome calls `close`; the committer has already announced a
        // failure.
        let _ = self.close();
    }
}
