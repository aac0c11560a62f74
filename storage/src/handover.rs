//! The work that callers hand to the committer.
//!
//! The handover is cut into shards by queue so that connections rarely meet; a cut locks all of
//! them at once, so that what happened before it in one queue is never committed after what
//! happened later in another. A ticket is the number of the batch that a piece of work falls into.
//! Lock order: the holders, all shards by rising number, then the index; [`Handover::cut`] says why
//! nobody waits for ever. A call is one short mutex and one atomic addition; the committer is woken
//! only when nobody has asked it to yet.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::disk::lock;
use crate::pending::{Chunk, CommitBatch, DefinitionChange, PendingQueue, QueueCopy, Unity};
use crate::terms::{PendingAccount, QueueId, Sequence, Stopped, StoreEvent, Ticket, Urgency};

const SHARDS: usize = 8;
/// How long a commit waits for work that must not be cut apart.
const TOGETHER_LATEST: Duration = Duration::from_secs(1);
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
        change: impl FnOnce(&mut PendingQueue, u64, &mut Vec<Chunk>) -> T,
    ) -> Result<(Ticket, T), Stopped> {
        self.check()?;
        let shard = &mut *self.shard(queue);
        let waiting = shard.queues.entry(queue).or_default();
        let outcome = if waiting.is_dropped() {
            T::default()
        } else {
            change(waiting, shard.batch, &mut shard.spare)
        };
        Ok((Ticket(shard.batch), outcome))
    }

    pub(crate) fn append(
        &self,
        queue: QueueId,
        sequence: Sequence,
        parts: &[&[u8]],
        urgency: Urgency,
    ) -> Result<Ticket, Stopped> {
        let (ticket, pending) = self.change(queue, |waiting, batch, spare| {
            let added = waiting.append(sequence.0, (parts, urgency), batch, spare);
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
        change: impl FnOnce(&mut PendingQueue, u64, &mut Vec<Chunk>) -> usize,
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
    pub(crate) fn look(&self, queue: QueueId, from: Sequence, limit_bytes: usize) -> QueueCopy {
        let shard = self.shard(queue);
        let waiting = shard.queues.get(&queue);
        waiting.map_or_else(QueueCopy::default, |waiting| {
            waiting.look(from, limit_bytes)
        })
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
    /// bytes. So all that a caller hands over between its `enter` and its `leave` has one number,
    /// and a batch in which anybody entered is committed as one frame. What a caller hands over
    /// after it has lost its hold is never committed before what it handed over until then.
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
        let batch = shards[0].batch;
        for shard in &mut shards {
            shard.batch = batch + 1;
        }
        (batch, demand)
    }

    /// From here to [`leave`](Self::leave) no batch is closed. May be nested. Returns what `leave`
    /// needs.
    pub(crate) fn enter(&self) -> u64 {
        let mut holders = lock(&self.holders);
        holders.count += 1;
        holders.gathering = holders.gathering.max(Unity::Whole);
        holders.round
    }

    /// Ends what [`enter`](Self::enter) began. The last to leave makes the cut that is waited for.
    pub(crate) fn leave(&self, round: u64) {
        let mut holders = lock(&self.holders);
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

/// How soon a commit is wanted, from never to at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Demand {
    /// Nothing waits.
    Never,
    /// Settlements wait: within 50 ms.
    Later,
    /// Unconfirmed messages wait: after the gather window of 5 ms.
    Soon,
    /// A caller waits for the disk.
    Now,
    /// The store is being closed.
    Close,
}

impl Demand {
    const ALL: [Self; 5] = [Self::Never, Self::Later, Self::Soon, Self::Now, Self::Close];
}

/// What callers ask of the committer, and its thread, which they wake.
#[derive(Debug, Default)]
pub(crate) struct CommitSignal {
    demand: AtomicU8,
    committer: OnceLock<Thread>,
}

impl CommitSignal {
    /// Says which thread is to be woken, before anybody asks.
    pub(crate) fn set_committer(&self, thread: &Thread) {
        let _ = self.committer.set(thread.clone());
    }

    /// Asks for a commit at least so soon.
    pub(crate) fn raise(&self, demand: Demand) {
        if self.demand.load(Ordering::Acquire) < demand as u8
            && self.demand.fetch_max(demand as u8, Ordering::AcqRel) < demand as u8
            && let Some(committer) = self.committer.get()
        {
            committer.unpark();
        }
    }

    /// Returns the demand so far and resets it, except for a close. Called under the locks of all
    /// shards.
    fn take(&self) -> Demand {
        // The bit of a close stays.
        let close = Demand::Close as u8;
        Demand::ALL[usize::from(self.demand.fetch_and(close, Ordering::AcqRel))]
    }

    pub(crate) fn demand(&self) -> Demand {
        Demand::ALL[usize::from(self.demand.load(Ordering::Acquire))]
    }

    /// The committer waits until the demand is higher than `than`, or until the time.
    pub(crate) fn wait(&self, than: Demand, until: Instant) -> Demand {
        loop {
            let demand = self.demand();
            let left = until.saturating_duration_since(Instant::now());
            if demand > than || left.is_zero() {
                return demand;
            }
            thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn handover() -> Handover {
        let account = PendingAccount {
            charge: |_| {},
            release: |_| {},
        };
        Handover::new((1 << 20, account), Box::new(|_| {}))
    }

    fn append(handover: &Handover, queue: u64) -> Ticket {
        let appended = handover.append(QueueId(queue), Sequence(0), &[b"x"], Urgency::Confirmed);
        appended.unwrap()
    }

    /// The committer takes a while to wake. Callers that leave no gap as long as that kept it from
    /// every commit for as long as one may be held back.
    #[test]
    fn a_commit_goes_between_callers_that_leave_no_time_between_them() {
        let handover = handover();
        let mut round = handover.enter();
        for queue in 0..100 {
            thread::scope(|scope| {
                let cutting = scope.spawn(|| handover.cut());
                while lock(&handover.holders).cut != AwaitedCut::Wanted {
                    thread::yield_now();
                }
                let nested = handover.enter();
                let first = append(&handover, 2 * queue);
                handover.leave(nested);
                let second = append(&handover, 2 * queue + 1);
                assert_eq!(first, second, "a nested call does not end what it is in");
                handover.leave(round);
                round = handover.enter();
                assert!(append(&handover, 2 * queue) > second);
                assert_eq!(cutting.join().unwrap().0, second.0);
            });
        }
    }
}
