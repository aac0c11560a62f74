//! The work that callers hand to the committer.
//!
//! The handover is cut into shards by queue so that connections rarely meet; a cut locks all of
//! them at once, so that what happened before it in one queue is never committed after what
//! happened later in another. A ticket is the number of the batch that a piece of work falls into.
//! Lock order: the holders, all shards by rising number, then the index; [`Handover::cut`] says why
//! nobody waits for ever. A call is one short mutex and one atomic addition; the committer is woken
//! only when nobody has asked it to yet.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::lock;
use crate::pending::{
    Chunk, CommitBatch, DefinitionChange, Grouping, PendingQueue, QueueCopy, TargetBatch, Unity,
};
use crate::read_plan::ReadLimit;
use crate::terms::{
    CommitSignal, Demand, PendingAccount, QueueId, Sequence, Stopped, StoreEvent, Ticket, Urgency,
};

const SHARDS: usize = 8;
/// How long a commit waits for work that must not be cut apart.
const TOGETHER_LATEST: Duration = Duration::from_secs(1);
/// Tickets of large bodies lie so far ahead that no batch reaches them while they are written.
const AHEAD: u64 = 1 << 32;
/// So many large bodies have a thread at once; the committer writes the others. A message that a
/// consumer takes off is pending no more, but its thread may still wait for the disk.
const MOST_AHEAD: usize = 16;
/// How often it then looks whether too many bytes wait.
const TOGETHER_SLICE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Shard {
    batch: u64,
    /// Queues of which something waits.
    queues: BTreeMap<QueueId, PendingQueue>,
    spare: Vec<Chunk>,
    definitions: Vec<(u64, DefinitionChange)>,
}

/// Callers whose work must not be cut apart: they hold commits back.
#[derive(Default)]
struct Holders {
    count: usize,
    /// Rises when commits have waited long enough: those that entered before do not count any more.
    round: u64,
    /// How many of those have not left yet.
    overdue: usize,
    /// Of the batch that gathers.
    gathering: Unity,
    /// Of what was closed since the last take.
    closed: Unity,
    cut: AwaitedCut,
    /// Tickets of large bodies that are being written, and the last of all that were drawn.
    bodies: BTreeSet<u64>,
    last_ahead: u64,
    /// How many threads write them, or have not noticed yet that they need not.
    writers: usize,
}

/// The cut that the committer waits for while callers hold commits back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum AwaitedCut {
    #[default]
    None,
    /// The last caller to leave makes it.
    Wanted,
    /// It was made, with this result of [`Handover::cut`].
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
    holders: Mutex<Holders>,
    /// How many callers have entered and not left.
    inside: AtomicUsize,
    has_left: Condvar,
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
            holders: Mutex::default(),
            inside: AtomicUsize::new(0),
            has_left: Condvar::new(),
            stopped: OnceLock::new(),
            progress,
        };
        // Batch 0 is always durable.
        let _ = handover.cut();
        handover
    }

    fn shard(&self, queue: QueueId) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(queue.0 % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }

    pub(crate) fn check(&self) -> Result<(), Stopped> {
        self.stopped.get().cloned().map_or(Ok(()), Err)
    }

    /// Latches the end, once. A failure is announced.
    pub(crate) fn end(&self, outcome: Result<(), Stopped>) {
        let failure = outcome.err();
        let _ = self.stopped.set(failure.clone().unwrap_or(Stopped::Closed));
        if let Some(stopped) = failure {
            tracing::error!("{stopped}");
            (self.progress)(StoreEvent::Stopped(stopped));
        }
    }

    /// Changes what waits of a queue, under its shard's lock. Of a dropped queue nothing waits any
    /// more.
    pub(crate) fn change<T: Default>(
        &self,
        queue: QueueId,
        change: impl FnOnce(&mut PendingQueue, TargetBatch, &mut Vec<Chunk>) -> T,
    ) -> Result<(Ticket, T), Stopped> {
        self.check()?;
        let shard = &mut *self.shard(queue);
        let waiting = shard.queues.entry(queue).or_default();
        let batch = TargetBatch {
            number: shard.batch.max(waiting.not_before),
            grouping: self.grouping(),
        };
        let outcome = if waiting.is_dropped() {
            T::default()
        } else {
            change(waiting, batch, &mut shard.spare)
        };
        Ok((Ticket(batch.number), outcome))
    }

    /// What a change belongs to that a caller hands over now. One that holds commits back has
    /// entered before and will leave later, so it never finds nobody inside.
    fn grouping(&self) -> Grouping {
        match self.inside.load(Ordering::SeqCst) {
            0 => Grouping::Alone,
            _ => Grouping::Together,
        }
    }

    /// Draws a ticket for a large body, which is written before that is reached: the changes of
    /// other queues do not wait for it, those of its own do. Not while a caller holds commits back,
    /// since all of its work must have one ticket.
    pub(crate) fn draw_ahead(&self, queue: QueueId) -> Option<u64> {
        let mut holders = lock(&self.holders);
        if holders.count + holders.overdue > 0 || holders.writers >= MOST_AHEAD {
            return None;
        }
        holders.writers += 1;
        let shard = &mut *self.shard(queue);
        let ticket = holders.last_ahead.max(shard.batch) + AHEAD;
        holders.last_ahead = ticket;
        holders.bodies.insert(ticket);
        shard.queues.entry(queue).or_default().not_before = ticket;
        Some(ticket)
    }

    /// The large body of a ticket is written, or is left to the committer.
    pub(crate) fn written_ahead(&self, ticket: u64) {
        let mut holders = lock(&self.holders);
        holders.writers -= 1;
        holders.bodies.remove(&ticket);
        // The ticket before the first that is not.
        let first = holders.bodies.first();
        self.reach(first.map_or(holders.last_ahead, |first| first - AHEAD));
        drop(holders);
        self.signal.raise(Demand::Now);
    }

    /// Lets the batch that gathers have a higher number. The holders must be locked, so that it is
    /// not closed meanwhile.
    fn reach(&self, ticket: u64) {
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
        shard.queues.get_mut(&queue)?.large(sequence.0).map(work)
    }

    pub(crate) fn append(
        &self,
        queue: QueueId,
        sequence: Sequence,
        parts: &[&[u8]],
        urgency: Urgency,
    ) -> Result<Ticket, Stopped> {
        let (ticket, pending) = self.change(queue, |waiting, batch, spare| {
            let added = waiting.append(sequence.0, (parts, urgency), batch.number, spare);
            (self.account.charge)(added);
            // Counted before the shard is unlocked: these bytes cannot be released earlier.
            self.pending.fetch_add(added, Ordering::SeqCst) + added
        })?;
        let is_urgent = urgency == Urgency::Confirmed || pending * 2 > self.limit;
        let demand = if is_urgent { Demand::Now } else { Demand::Soon };
        self.signal.raise(demand);
        if pending >= self.limit && !self.is_backlogged.load(Ordering::Relaxed) {
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
        self.release(freed);
        self.signal.raise(Demand::Now);
        Ok(ticket)
    }

    /// Sets a definition, or removes it.
    pub(crate) fn change_definition(
        &self,
        key: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<Ticket, Stopped> {
        self.check()?;
        let mut shard = self.shard(QueueId(0));
        let batch = shard.batch;
        shard.definitions.push((batch, (key.to_vec(), value)));
        self.signal.raise(Demand::Now);
        Ok(Ticket(batch))
    }

    /// What waits of a queue, as a reader needs it.
    pub(crate) fn look(&self, queue: QueueId, from: Sequence, limit: ReadLimit) -> QueueCopy {
        let shard = self.shard(queue);
        let waiting = shard.queues.get(&queue);
        waiting.map_or_else(QueueCopy::default, |waiting| waiting.look(from, limit))
    }

    /// Closes the batch that gathers and returns its number, and how soon it was wanted. Everything
    /// later falls into the next one.
    ///
    /// Waits until no caller holds commits back, for a while: neither a caller that is stuck nor
    /// one that waits for the messages before its own to be committed may stop the store.
    ///
    /// # Why nobody waits for ever
    /// While it waits, the cut is made by the caller that leaves last, before anyone can enter
    /// again: callers that enter and leave without a pause would otherwise keep the committer,
    /// which takes a while to wake, from ever finding nobody inside. So only the committer waits,
    /// and never longer than [`TOGETHER_LATEST`]; [`enter`](Self::enter), nested or not, does not
    /// wait for it. A cut, whoever makes it, takes the holders and then the shards by rising
    /// number. No caller has a shard or the index locked when it leaves, because those locks do not
    /// outlive a call of this type; and whoever has a shard locked waits for the index at most. So
    /// the order of the locks has no circle, whatever locks of its own a caller holds.
    ///
    /// # Why a transaction stays whole
    /// A batch is closed by [`close_batch`](Self::close_batch) alone, under the lock of the holders
    /// and either with none inside or after those inside have lost their hold by the time or the
    /// bytes; and no ticket is ahead of the others meanwhile ([`draw_ahead`](Self::draw_ahead)). So
    /// all that a caller hands over between its `enter` and its `leave` has one number, and a batch
    /// in which anybody entered is committed as one frame. What a caller hands over after it has
    /// lost its hold is never committed before what it handed over until then.
    pub(crate) fn cut(&self) -> (u64, Demand) {
        let until = Instant::now() + TOGETHER_LATEST;
        let mut holders = lock(&self.holders);
        while holders.count > 0 {
            holders.cut = AwaitedCut::Wanted;
            // In slices: the pending bytes rise without a notice.
            let waited = self.has_left.wait_timeout(holders, TOGETHER_SLICE);
            holders = waited.unwrap_or_else(PoisonError::into_inner).0;
            if let AwaitedCut::Made(batch, demand) = holders.cut {
                holders.cut = AwaitedCut::None;
                return (batch, demand);
            }
            if Instant::now() >= until || self.pending_bytes() >= self.limit {
                holders.overdue += std::mem::take(&mut holders.count);
                holders.round += 1;
            }
        }
        holders.cut = AwaitedCut::None;
        self.close_batch(&mut holders)
    }

    /// Closes the batch that gathers. The holders stay locked until it is over, so that no change
    /// of a caller that enters comes in between.
    fn close_batch(&self, holders: &mut Holders) -> (u64, Demand) {
        let mut shards = self.shards.each_ref().map(lock);
        holders.closed = holders.closed.max(holders.gathering);
        holders.gathering = if holders.overdue > 0 {
            Unity::Continued
        } else {
            Unity::None
        };
        // Reset under all locks: work that comes later asks again, earlier work is in the batch
        // that was cut.
        let demand = self.signal.take();
        // What is not written at the end the committer writes.
        let ahead = Some(holders.last_ahead).filter(|_| demand == Demand::Close);
        let batch = shards[0].batch.max(ahead.unwrap_or(0));
        for shard in &mut shards {
            shard.batch = batch + 1;
        }
        (batch, demand)
    }

    /// From here to [`leave`](Self::leave) no batch is closed. May be nested. Returns what `leave`
    /// needs.
    pub(crate) fn enter(&self) -> u64 {
        let mut holders = lock(&self.holders);
        self.inside.fetch_add(1, Ordering::SeqCst);
        holders.count += 1;
        if !std::mem::take(&mut holders.bodies).is_empty() {
            // Work in those queues must have the same ticket as in others.
            self.reach(holders.last_ahead);
        }
        holders.gathering = holders.gathering.max(Unity::Whole);
        holders.round
    }

    /// Ends what [`enter`](Self::enter) began. The last to leave makes the cut that is waited for.
    pub(crate) fn leave(&self, round: u64) {
        let mut holders = lock(&self.holders);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        if holders.round != round {
            holders.overdue -= 1;
            return;
        }
        holders.count -= 1;
        if holders.count == 0 && holders.cut == AwaitedCut::Wanted {
            let (batch, demand) = self.close_batch(&mut holders);
            holders.cut = AwaitedCut::Made(batch, demand);
            self.has_left.notify_one();
        }
    }

    /// Whether commits wait for what [`enter`](Self::enter) began, and not because too much waits.
    pub(crate) fn is_awaited(&self, round: u64) -> bool {
        self.pending_bytes() < self.limit && lock(&self.holders).round == round
    }

    /// Takes all work of the batches up to `through`.
    pub(crate) fn take(&self, through: u64) -> CommitBatch {
        let unity = std::mem::take(&mut lock(&self.holders).closed);
        let (mut queues, mut definitions) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.queues.retain(|queue, waiting| {
                queues.extend(waiting.take(through).map(|taken| (*queue, taken)));
                !waiting.is_idle()
            });
            let ready = shard.definitions.partition_point(|(of, _)| *of <= through);
            definitions.extend(shard.definitions.drain(..ready).map(|(_, change)| change));
        }
        CommitBatch {
            through,
            queues,
            definitions,
            unity,
        }
    }

    /// Publishes that a batch is durable, and gives its memory back.
    pub(crate) fn finish(&self, batch: CommitBatch) {
        if batch.through == 0 {
            return;
        }
        let mut freed = 0;
        for (queue, taken) in batch.queues {
            let shard = &mut *self.shard(queue);
            if let Entry::Occupied(mut waiting) = shard.queues.entry(queue) {
                waiting.get_mut().committed(batch.through);
                if waiting.get().is_idle() {
                    waiting.remove();
                }
            }
            freed += taken.chunks.iter().map(Chunk::charge).sum::<usize>();
            let chunks = Arc::into_inner(taken).map(|taken| taken.chunks);
            for chunk in chunks.into_iter().flatten() {
                chunk.recycle(&mut shard.spare);
            }
        }
        self.durable.store(batch.through, Ordering::Release);
        (self.progress)(StoreEvent::Durable(Ticket(batch.through)));
        self.release(freed);
    }

    pub(crate) fn durable(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            (self.account.release)(bytes);
            let pending = self.pending.fetch_sub(bytes, Ordering::SeqCst) - bytes;
            if pending <= self.limit / 2 && self.is_backlogged.load(Ordering::SeqCst) {
                self.announce_crossing();
            }
        }
    }

    /// Says that the pending bytes have reached the limit, or come down to half of it.
    fn announce_crossing(&self) {
        let _order = lock(&self.crossing);
        let was_backlogged = self.is_backlogged.swap(true, Ordering::SeqCst);
        // Set before this look: a release in between either sees the flag or is seen here.
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
