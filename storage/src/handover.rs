//! The work that callers hand to the committer.
//!
//! Pending changes are divided into shards by queue, so that connections rarely contend for a lock.
//! Closing a batch locks all shards at once: a change that was made before the batch was closed is
//! never committed after one that was made later, even in another queue. A ticket is the number of
//! the batch that contains a change.
//!
//! Lock order: the pauses, all shards by rising number, then the index; [`Handover::close_batch`]
//! explains why no deadlock is possible. A change costs one short mutex and one atomic addition.
//! It wakes the committer only if no earlier change has asked for a commit as soon.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::lock;
use crate::pending::{
    Atomicity, Chunk, CommitBatch, DefinitionChange, Grouping, PendingQueue, QueueCopy, TargetBatch,
};
use crate::read_plan::ReadLimit;
use crate::terms::{
    CommitSignal, Demand, PendingAccount, QueueId, Sequence, Stopped, StoreEvent, Ticket, Urgency,
};

const SHARDS: usize = 8;
/// How long a commit waits for callers that pause commits.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Distance between the tickets of large bodies, and from the current batch to the first of them:
/// so large that no batch gets their numbers while they are written.
const TICKET_DISTANCE: u64 = 1 << 32;
/// How many large bodies are written by threads of their own at once; the committer writes the
/// others. A thread may still wait for the disk after a consumer has taken its message.
const MAX_BODY_WRITERS: usize = 16;
/// How often the pending bytes are checked meanwhile.
const PAUSE_CHECK_EVERY: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Shard {
    batch: u64,
    /// Queues with pending changes.
    queues: BTreeMap<QueueId, PendingQueue>,
    spare: Vec<Chunk>,
    definitions: Vec<(u64, DefinitionChange)>,
}

/// The callers that pause commits, because all of their changes must be committed together.
#[derive(Default)]
struct PauseState {
    /// Pauses of the current round.
    count: usize,
    /// Rises when a commit has waited long enough: pauses of earlier rounds have no effect.
    round: u64,
    /// Of the batch that gathers.
    gathering: Atomicity,
    /// Of the batches that were closed and not taken yet.
    closed: Atomicity,
    awaited: AwaitedClose,
    /// Tickets of large bodies that are being written.
    bodies: BTreeSet<u64>,
    /// The highest ticket that a large body ever got.
    last_body_ticket: u64,
    /// How many threads write large bodies, or still wait for the disk to do so.
    writers: usize,
}

/// Whether the committer waits for the last pause to end, to close the batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum AwaitedClose {
    #[default]
    None,
    /// It waits; the end of the last pause closes the batch.
    Wanted,
    /// The batch was closed, with this result of [`Handover::close_batch`].
    Made(u64, Demand),
}

/// Everything that callers and the committer share.
pub(crate) struct Handover {
    shards: [Mutex<Shard>; SHARDS],
    pub(crate) signal: CommitSignal,
    pending: AtomicUsize,
    limit: usize,
    account: PendingAccount,
    is_backlogged: AtomicBool,
    /// Held while a crossing of the limit is announced, so that announcements come in the order of
    /// the crossings.
    crossing: Mutex<()>,
    durable: AtomicU64,
    pauses: Mutex<PauseState>,
    /// The number of pauses that have begun and not ended, of the current round and of earlier
    /// ones. Changes only while `pauses` is locked.
    open_pauses: AtomicUsize,
    pauses_ended: Condvar,
    stopped: OnceLock<Stopped>,
    pub(crate) progress: Box<dyn Fn(StoreEvent) + Send + Sync>,
}

impl Handover {
    pub(crate) fn new(
        (limit, account): (usize, PendingAccount),
        progress: Box<dyn Fn(StoreEvent) + Send + Sync>,
    ) -> Self {
        let handover = Self {
            shards: Default::default(),
            signal: CommitSignal::default(),
            pending: AtomicUsize::new(0),
            limit,
            account,
            is_backlogged: AtomicBool::new(false),
            crossing: Mutex::new(()),
            durable: AtomicU64::new(0),
            pauses: Mutex::default(),
            open_pauses: AtomicUsize::new(0),
            pauses_ended: Condvar::new(),
            stopped: OnceLock::new(),
            progress,
        };
        // Batch 0 is always durable.
        let _ = handover.close_batch();
        handover
    }

    fn shard(&self, queue: QueueId) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(queue.0 % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }

    pub(crate) fn check_running(&self) -> Result<(), Stopped> {
        self.stopped.get().cloned().map_or(Ok(()), Err)
    }

    /// Records why the store has stopped; only the first call has an effect. Announces a failure.
    pub(crate) fn latch_stop(&self, outcome: Result<(), Stopped>) {
        let failure = outcome.err();
        let _ = self.stopped.set(failure.clone().unwrap_or(Stopped::Closed));
        if let Some(stopped) = failure {
            tracing::error!("{stopped}");
            (self.progress)(StoreEvent::Stopped(stopped));
        }
    }

    /// Changes what is pending for a queue, under its shard's lock. Does nothing for a queue that
    /// was dropped.
    pub(crate) fn change<T: Default>(
        &self,
        queue: QueueId,
        change: impl FnOnce(&mut PendingQueue, TargetBatch, &mut Vec<Chunk>) -> T,
    ) -> Result<(Ticket, T), Stopped> {
        self.check_running()?;
        let shard = &mut *self.shard(queue);
        let pending = shard.queues.entry(queue).or_default();
        let batch = TargetBatch {
            number: shard.batch.max(pending.not_before),
            grouping: self.grouping(),
        };
        let outcome = if pending.is_dropped() {
            T::default()
        } else {
            change(pending, batch, &mut shard.spare)
        };
        Ok((Ticket(batch.number), outcome))
    }

    /// Whether a change that is made now may belong to a pause. The caller of a pause finds at
    /// least its own, which has begun before the change and ends after it.
    fn grouping(&self) -> Grouping {
        match self.open_pauses.load(Ordering::SeqCst) {
            0 => Grouping::Alone,
            _ => Grouping::Together,
        }
    }

    /// Issues a ticket far above the current batch for a large body, which a thread writes before
    /// the batches reach that number. The later changes of its queue get the same ticket and wait
    /// for the body; those of other queues do not.
    ///
    /// Returns `None` if the committer must write the body: while commits are paused, because all
    /// changes of such a caller must have one ticket, and while too many threads write.
    pub(crate) fn issue_body_ticket(&self, queue: QueueId) -> Option<u64> {
        let mut pauses = lock(&self.pauses);
        if self.grouping() == Grouping::Together || pauses.writers >= MAX_BODY_WRITERS {
            return None;
        }
        pauses.writers += 1;
        let shard = &mut *self.shard(queue);
        let ticket = pauses.last_body_ticket.max(shard.batch) + TICKET_DISTANCE;
        pauses.last_body_ticket = ticket;
        pauses.bodies.insert(ticket);
        shard.queues.entry(queue).or_default().not_before = ticket;
        Some(ticket)
    }

    /// Ends what [`issue_body_ticket`](Self::issue_body_ticket) began: the body is written, or is
    /// left to the committer. The current batch gets the highest number below which no large body
    /// is being written.
    pub(crate) fn finish_body_ticket(&self, ticket: u64) {
        let mut pauses = lock(&self.pauses);
        pauses.writers -= 1;
        pauses.bodies.remove(&ticket);
        // The ticket before the first whose body is still being written.
        let first = pauses.bodies.first();
        self.raise_batch(first.map_or(pauses.last_body_ticket, |first| first - TICKET_DISTANCE));
        drop(pauses);
        self.signal.raise(Demand::Now);
    }

    /// Raises the number of the batch that gathers to `ticket`. The pauses must be locked, so that
    /// the batch is not closed meanwhile.
    fn raise_batch(&self, ticket: u64) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.batch = shard.batch.max(ticket);
        }
    }

    /// Gives access to a large body that the committer has not taken.
    pub(crate) fn with_large<T>(
        &self,
        queue: QueueId,
        sequence: Sequence,
        work: impl FnOnce(&mut Chunk) -> T,
    ) -> Option<T> {
        let mut shard = self.shard(queue);
        shard
            .queues
            .get_mut(&queue)?
            .large_body_chunk(sequence.0)
            .map(work)
    }

    pub(crate) fn append(
        &self,
        queue: QueueId,
        sequence: Sequence,
        parts: &[&[u8]],
        urgency: Urgency,
    ) -> Result<Ticket, Stopped> {
        let (ticket, total) = self.change(queue, |pending, batch, spare| {
            let added = pending.append(sequence.0, (parts, urgency), batch.number, spare);
            (self.account.charge)(added);
            // Counted before the shard is unlocked: these bytes cannot be released earlier.
            self.pending.fetch_add(added, Ordering::SeqCst) + added
        })?;
        let is_urgent = urgency == Urgency::Confirmed || total * 2 > self.limit;
        let demand = if is_urgent { Demand::Now } else { Demand::Soon };
        self.signal.raise(demand);
        if total >= self.limit && !self.is_backlogged.load(Ordering::Relaxed) {
            self.announce_crossing();
        }
        Ok(ticket)
    }

    /// Changes a whole queue at once. `change` returns the bytes of memory that became free.
    pub(crate) fn change_all(
        &self,
        queue: QueueId,
        change: impl FnOnce(&mut PendingQueue, TargetBatch, &mut Vec<Chunk>) -> usize,
    ) -> Result<Ticket, Stopped> {
        let (ticket, freed) = self.change(queue, change)?;
        self.release_pending(freed);
        self.signal.raise(Demand::Now);
        Ok(ticket)
    }

    /// Sets a definition, or removes it.
    pub(crate) fn change_definition(
        &self,
        key: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<Ticket, Stopped> {
        self.check_running()?;
        let mut shard = self.shard(QueueId(0));
        let batch = shard.batch;
        shard.definitions.push((batch, (key.to_vec(), value)));
        self.signal.raise(Demand::Now);
        Ok(Ticket(batch))
    }

    /// Copies what is pending for a queue, as a reader needs it.
    pub(crate) fn copy_pending(
        &self,
        queue: QueueId,
        from: Sequence,
        limit: ReadLimit,
    ) -> QueueCopy {
        let shard = self.shard(queue);
        let pending = shard.queues.get(&queue);
        pending.map_or_else(QueueCopy::default, |pending| {
            pending.copy_pending(from, limit)
        })
    }

    /// Closes the batch that gathers. Returns its number and how soon its commit was wanted. Later
    /// changes belong to the next batch.
    ///
    /// Waits until no caller pauses commits, but at most for [`MAX_PAUSE`], and not while the
    /// pending bytes are at their limit. The store must go on when a caller is stuck, or itself
    /// waits for earlier messages to be committed.
    ///
    /// # No deadlock
    /// Only the committer waits here. While it waits, the end of the last pause closes the batch
    /// before another pause can begin. Otherwise callers that pause commits one after the other
    /// without a gap would keep the committer waiting, because it takes a while to wake.
    /// [`begin_pause`](Self::begin_pause), nested or not, never waits for the committer.
    ///
    /// Closing a batch locks the pauses and then the shards by rising number, on whichever thread.
    /// A caller has neither a shard nor the index locked when it ends a pause, because these locks
    /// do not outlive a call of this type. A thread that has a shard locked waits at most for the
    /// index. So the lock order has no cycle, whatever other locks a caller holds.
    ///
    /// # A transaction is committed as a whole
    /// A batch is closed by [`close_batch_locked`](Self::close_batch_locked) alone, with the pauses
    /// locked, and only while none is in effect: either there is none, or they have lost their
    /// effect by time or pending bytes. No other queue has a higher ticket meanwhile
    /// ([`issue_body_ticket`](Self::issue_body_ticket)). So all changes that a caller makes between
    /// `begin_pause` and `end_pause` have one ticket, and a batch in which a pause began is
    /// committed as one frame. Changes that a caller makes after its pause has lost its effect are
    /// never committed before its earlier ones.
    pub(crate) fn close_batch(&self) -> (u64, Demand) {
        let until = Instant::now() + MAX_PAUSE;
        let mut pauses = lock(&self.pauses);
        while pauses.count > 0 {
            pauses.awaited = AwaitedClose::Wanted;
            // Only for a short time: a rise of the pending bytes does not notify.
            let waited = self.pauses_ended.wait_timeout(pauses, PAUSE_CHECK_EVERY);
            pauses = waited.unwrap_or_else(PoisonError::into_inner).0;
            if let AwaitedClose::Made(batch, demand) = pauses.awaited {
                pauses.awaited = AwaitedClose::None;
                return (batch, demand);
            }
            if Instant::now() >= until || self.pending_bytes() >= self.limit {
                pauses.count = 0;
                pauses.round += 1;
            }
        }
        pauses.awaited = AwaitedClose::None;
        self.close_batch_locked(&mut pauses)
    }

    /// Closes the batch that gathers. The pauses must be locked, so that no pause begins before all
    /// shards are in the next batch. None is in effect: those that are open are of earlier rounds,
    /// or were yielded.
    fn close_batch_locked(&self, pauses: &mut PauseState) -> (u64, Demand) {
        let mut shards = self.shards.each_ref().map(lock);
        pauses.closed = pauses.closed.max(pauses.gathering);
        pauses.gathering = match self.grouping() {
            Grouping::Together => Atomicity::Continued,
            Grouping::Alone => Atomicity::None,
        };
        // Reset under all locks: earlier changes are in the closed batch, later ones raise the
        // demand again.
        let demand = self.signal.take_demand();
        // At a close the committer writes the large bodies that no thread has written.
        let last_body = Some(pauses.last_body_ticket).filter(|_| demand == Demand::Close);
        let batch = shards[0].batch.max(last_body.unwrap_or(0));
        for shard in &mut shards {
            shard.batch = batch + 1;
        }
        (batch, demand)
    }

    /// From here to [`end_pause`](Self::end_pause) no batch is closed. May be nested. Returns what
    /// `end_pause` needs.
    pub(crate) fn begin_pause(&self) -> u64 {
        let mut pauses = lock(&self.pauses);
        self.open_pauses.fetch_add(1, Ordering::SeqCst);
        pauses.count += 1;
        if !std::mem::take(&mut pauses.bodies).is_empty() {
            // From now on changes must have the same ticket in all queues.
            self.raise_batch(pauses.last_body_ticket);
        }
        pauses.gathering = pauses.gathering.max(Atomicity::Whole);
        pauses.round
    }

    /// Lets commits go on without the pause of this round, which goes on otherwise. Bodies are
    /// still written in the order of their tickets, as during every open pause.
    pub(crate) fn yield_pause(&self, round: u64) {
        self.leave_round(&mut lock(&self.pauses), round);
    }

    /// Ends what [`begin_pause`](Self::begin_pause) began: the pause of this round, or of none if
    /// it was yielded.
    pub(crate) fn end_pause(&self, round: Option<u64>) {
        let mut pauses = lock(&self.pauses);
        self.open_pauses.fetch_sub(1, Ordering::SeqCst);
        if let Some(round) = round {
            self.leave_round(&mut pauses, round);
        }
    }

    /// The last pause that leaves its round closes the batch if the committer waits for that.
    fn leave_round(&self, pauses: &mut PauseState, round: u64) {
        if pauses.round != round {
            return;
        }
        pauses.count -= 1;
        if pauses.count == 0 && pauses.awaited == AwaitedClose::Wanted {
            let (batch, demand) = self.close_batch_locked(pauses);
            pauses.awaited = AwaitedClose::Made(batch, demand);
            self.pauses_ended.notify_one();
        }
    }

    /// Whether commits wait for this pause: not once it was held for too long, nor while the
    /// pending bytes are at their limit.
    pub(crate) fn is_pause_in_effect(&self, round: u64) -> bool {
        self.pending_bytes() < self.limit && lock(&self.pauses).round == round
    }

    /// Takes all changes of the batches up to `through`.
    pub(crate) fn take_batch(&self, through: u64) -> CommitBatch {
        let atomicity = std::mem::take(&mut lock(&self.pauses).closed);
        let (mut queues, mut definitions) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.queues.retain(|queue, pending| {
                queues.extend(pending.take_share(through).map(|taken| (*queue, taken)));
                !pending.is_idle()
            });
            let ready = shard.definitions.partition_point(|(of, _)| *of <= through);
            definitions.extend(shard.definitions.drain(..ready).map(|(_, change)| change));
        }
        CommitBatch {
            through,
            queues,
            definitions,
            atomicity,
        }
    }

    /// Announces that a batch is durable, and releases its memory.
    pub(crate) fn finish(&self, batch: CommitBatch) {
        if batch.through == 0 {
            return;
        }
        let mut freed = 0;
        for (queue, taken) in batch.queues {
            let shard = &mut *self.shard(queue);
            if let Entry::Occupied(mut pending) = shard.queues.entry(queue) {
                pending.get_mut().committed(batch.through);
                if pending.get().is_idle() {
                    pending.remove();
                }
            }
            freed += taken.chunks.iter().map(Chunk::memory_bytes).sum::<usize>();
            let chunks = Arc::into_inner(taken).map(|taken| taken.chunks);
            for chunk in chunks.into_iter().flatten() {
                chunk.recycle(&mut shard.spare);
            }
        }
        self.durable.store(batch.through, Ordering::Release);
        (self.progress)(StoreEvent::Durable(Ticket(batch.through)));
        self.release_pending(freed);
    }

    pub(crate) fn durable(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    pub(crate) fn release_pending(&self, bytes: usize) {
        if bytes > 0 {
            (self.account.release)(bytes);
            let pending = self.pending.fetch_sub(bytes, Ordering::SeqCst) - bytes;
            if pending <= self.limit / 2 && self.is_backlogged.load(Ordering::SeqCst) {
                self.announce_crossing();
            }
        }
    }

    /// Announces that the pending bytes have reached the limit, or have fallen to half of it.
    fn announce_crossing(&self) {
        let _order = lock(&self.crossing);
        let was_backlogged = self.is_backlogged.swap(true, Ordering::SeqCst);
        // Set before this read: a concurrent release either sees the flag or is seen here.
        let pending = self.pending_bytes();
        if was_backlogged && pending <= self.limit / 2 {
            self.is_backlogged.store(false, Ordering::SeqCst);
            (self.progress)(StoreEvent::Drained);
        } else if !was_backlogged && pending >= self.limit {
            (self.progress)(StoreEvent::Backlogged);
        } else {
            self.is_backlogged.store(was_backlogged, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests;
