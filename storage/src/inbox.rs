//! Where every caller leaves its work and the committer finds it.
//!
//! The inbox is cut into shards by queue so that connections rarely meet; a cut locks all of them
//! at once, so that what happened before it in one queue is never committed after what happened
//! later in another. A ticket is the number of the group that a piece of work falls into. Lock
//! order: shards by rising index, then the bell.
//!
//! # Cost
//! One short mutex and one atomic addition a call; the committer is woken only when nobody has
//! asked it to yet.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::pending::{Block, Elision, Line, Look, Taken, recycle};
use crate::terms::{Progress, QueueId, Sequence, Settled, Stopped, Ticket, Urgency};

const SHARDS: usize = 8;

/// One change of one fact: the new value, or none.
pub(crate) type FactChange = (Vec<u8>, Option<Vec<u8>>);

/// What one commit is made of.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) queues: Vec<(QueueId, Arc<Taken>)>,
    pub(crate) facts: Vec<FactChange>,
    /// Something in it must not be cut apart.
    pub(crate) is_whole: bool,
}

#[derive(Default)]
struct Shard {
    group: u64,
    lines: HashMap<QueueId, Line, BuildHasherDefault<QueueHasher>>,
    dirty: Vec<QueueId>,
    spare: Vec<Block>,
    facts: Vec<(u64, FactChange)>,
}

/// How long a commit waits for work that must not be cut apart.
const TOGETHER_LATEST: Duration = Duration::from_secs(1);

/// Callers that hold commits back.
#[derive(Default)]
struct Holders {
    count: usize,
    /// Rises when commits have waited long enough: those that entered before do not count any more.
    round: u64,
}

/// Everything that callers and the committer share.
pub(crate) struct Inbox {
    shards: [Mutex<Shard>; SHARDS],
    pub(crate) bell: Bell,
    pending: AtomicUsize,
    limit: usize,
    is_backlogged: AtomicBool,
    /// Held while a crossing of the limit is announced, so that announcements come in the order of
    /// the crossings.
    crossing: Mutex<()>,
    durable: AtomicU64,
    /// Callers whose work must not be cut apart.
    together: (Mutex<Holders>, Condvar),
    /// Somebody has entered since the last cut, and before it since the last take.
    has_entered: AtomicBool,
    is_whole: AtomicBool,
    stopped: OnceLock<Stopped>,
    progress: Box<dyn Fn(Progress) + Send + Sync>,
}

impl Inbox {
    pub(crate) fn new(limit: usize, progress: Box<dyn Fn(Progress) + Send + Sync>) -> Self {
        Self {
            shards: std::array::from_fn(|_| {
                Mutex::new(Shard {
                    group: 1,
                    ..Shard::default()
                })
            }),
            bell: Bell::default(),
            pending: AtomicUsize::new(0),
            limit,
            is_backlogged: AtomicBool::new(false),
            crossing: Mutex::new(()),
            durable: AtomicU64::new(0),
            together: (Mutex::default(), Condvar::new()),
            has_entered: AtomicBool::new(false),
            is_whole: AtomicBool::new(false),
            stopped: OnceLock::new(),
            progress,
        }
    }

    fn shard(&self, queue: QueueId) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(queue.0 % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn check(&self) -> Result<(), Stopped> {
        self.stopped
            .get()
            .map_or(Ok(()), |stopped| Err(stopped.clone()))
    }

    /// Latches the failure, first one wins, and announces it.
    pub(crate) fn stop(&self, stopped: &Stopped) {
        if self.stopped.set(stopped.clone()).is_ok() {
            (self.progress)(Progress::Stopped(stopped.clone()));
        }
    }

    /// Latches the ordinary end, which nobody has to be told.
    pub(crate) fn end(&self) {
        let _ = self.stopped.set(Stopped::closed());
    }

    pub(crate) fn append(
        &self,
        queue: QueueId,
        sequence: Sequence,
        parts: &[&[u8]],
        urgency: Urgency,
    ) -> Result<Ticket, Stopped> {
        let (ticket, pending) = self.change_line(queue, |line, group, spare| {
            let added = line.append(sequence, (parts, urgency), group, spare);
            // Counted before the shard is free: nobody can release these bytes earlier.
            self.pending.fetch_add(added, Ordering::SeqCst) + added
        })?;
        let Some(pending) = pending else {
            return Ok(ticket);
        };
        let demand = match urgency {
            Urgency::Confirmed => Demand::Now,
            Urgency::Eventually if pending * 2 > self.limit => Demand::Now,
            Urgency::Eventually => Demand::Soon,
        };
        self.bell.raise(demand);
        if pending >= self.limit && !self.is_backlogged.load(Ordering::Relaxed) {
            self.announce_backlog();
        }
        Ok(ticket)
    }

    /// Changes what waits of a queue, under its shard's lock. Of a dropped queue nothing waits any
    /// more.
    fn change_line<T>(
        &self,
        queue: QueueId,
        change: impl FnOnce(&mut Line, u64, &mut Vec<Block>) -> T,
    ) -> Result<(Ticket, Option<T>), Stopped> {
        self.check()?;
        let mut shard = self.shard(queue);
        let Shard {
            group,
            lines,
            dirty,
            spare,
            ..
        } = &mut *shard;
        let line = lines.entry(queue).or_default();
        let ticket = Ticket(*group);
        if line.is_dropped() {
            return Ok((ticket, None));
        }
        let outcome = change(line, *group, spare);
        if line.soil() {
            dirty.push(queue);
        }
        Ok((ticket, Some(outcome)))
    }

    pub(crate) fn settle(&self, queue: QueueId, sequence: Sequence) -> Result<Settled, Stopped> {
        self.check()?;
        let mut shard = self.shard(queue);
        let Shard {
            group,
            lines,
            dirty,
            spare,
            ..
        } = &mut *shard;
        let line = lines.entry(queue).or_default();
        match line.elide(sequence, *group, spare) {
            Elision::Done { freed } => {
                drop(shard);
                self.release(freed);
                Ok(Settled::Elided)
            }
            Elision::TooLate => {
                let ticket = Ticket(*group);
                if line.is_dropped() {
                    return Ok(Settled::Recorded(ticket));
                }
                let demand = if line.settle(sequence, *group) {
                    Demand::Soon
                } else {
                    Demand::Later
                };
                if line.soil() {
                    dirty.push(queue);
                }
                drop(shard);
                self.bell.raise(demand);
                Ok(Settled::Recorded(ticket))
            }
        }
    }

    pub(crate) fn settle_all(
        &self,
        queue: QueueId,
        (first, last): (Sequence, Sequence),
        known: Sequence,
    ) -> Result<Ticket, Stopped> {
        self.whole_queue(queue, |line, group, spare| {
            line.settle_all((first, line.clipped(last, known)), group, spare)
        })
    }

    pub(crate) fn delivered(&self, queue: QueueId, through: Sequence) {
        let mut shard = self.shard(queue);
        let Shard { lines, dirty, .. } = &mut *shard;
        let line = lines.entry(queue).or_default();
        line.delivered(through);
        if line.soil() {
            dirty.push(queue);
        }
    }

    pub(crate) fn purge(
        &self,
        queue: QueueId,
        through: Sequence,
        known: Sequence,
    ) -> Result<Ticket, Stopped> {
        self.whole_queue(queue, |line, group, spare| {
            line.purge(line.clipped(through, known), group, spare)
        })
    }

    pub(crate) fn drop_queue(&self, queue: QueueId) -> Result<Ticket, Stopped> {
        self.whole_queue(queue, Line::drop_all)
    }

    fn whole_queue(
        &self,
        queue: QueueId,
        change: impl FnOnce(&mut Line, u64, &mut Vec<Block>) -> usize,
    ) -> Result<Ticket, Stopped> {
        let (ticket, freed) = self.change_line(queue, change)?;
        if let Some(freed) = freed {
            self.release(freed);
            self.bell.raise(Demand::Now);
        }
        Ok(ticket)
    }

    pub(crate) fn change_fact(&self, change: FactChange) -> Result<Ticket, Stopped> {
        self.check()?;
        let mut shard = self.shard(QueueId(0));
        let group = shard.group;
        shard.facts.push((group, change));
        drop(shard);
        self.bell.raise(Demand::Now);
        Ok(Ticket(group))
    }

    pub(crate) fn look(&self, queue: QueueId, from: Sequence, limit_bytes: usize) -> Look {
        self.shard(queue)
            .lines
            .get(&queue)
            .map(|line| line.look(from, limit_bytes))
            .unwrap_or_default()
    }

    /// Closes the group that gathers and returns its number, and how soon it was wanted. Everything
    /// later falls into the next one.
    pub(crate) fn cut(&self) -> (u64, Demand) {
        // Held until the cut is over: nobody enters in between.
        let _none = self.wait_for_holders();
        let mut shards = self
            .shards
            .each_ref()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        if self.has_entered.swap(false, Ordering::AcqRel) {
            self.is_whole.store(true, Ordering::Release);
        }
        // Reset under all locks: work that comes later asks again, earlier work is in the group
        // that was cut.
        let demand = self.bell.answer();
        let group = shards[0].group;
        for shard in &mut shards {
            shard.group = group + 1;
        }
        (group, demand)
    }

    /// Waits until no caller holds commits back, for a while: neither a caller that is stuck nor
    /// one that waits for the messages before its own to be committed may stop the store.
    fn wait_for_holders(&self) -> MutexGuard<'_, Holders> {
        let (holders, is_left) = &self.together;
        let until = Instant::now() + TOGETHER_LATEST;
        let mut holders = holders.lock().unwrap_or_else(PoisonError::into_inner);
        while holders.count > 0 {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() || self.pending_bytes() >= self.limit {
                holders.count = 0;
                holders.round += 1;
                break;
            }
            // In slices: the pending bytes rise without a notice.
            let slice = rest.min(Duration::from_millis(10));
            (holders, _) = is_left
                .wait_timeout(holders, slice)
                .unwrap_or_else(PoisonError::into_inner);
        }
        holders
    }

    /// From here to [`leave`](Self::leave) no group is closed. May be nested. Returns what `leave`
    /// needs.
    pub(crate) fn enter(&self) -> u64 {
        let holders = self.together.0.lock();
        let mut holders = holders.unwrap_or_else(PoisonError::into_inner);
        holders.count += 1;
        self.has_entered.store(true, Ordering::Release);
        holders.round
    }

    pub(crate) fn leave(&self, round: u64) {
        let (holders, is_left) = &self.together;
        let mut holders = holders.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.round != round {
            return;
        }
        holders.count -= 1;
        if holders.count == 0 {
            is_left.notify_one();
        }
    }

    /// Takes all work of the groups up to `through`.
    pub(crate) fn take(&self, through: u64) -> Group {
        let mut group = Group {
            is_whole: self.is_whole.swap(false, Ordering::AcqRel),
            ..Group::default()
        };
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let Shard {
                lines,
                dirty,
                facts,
                ..
            } = &mut *shard;
            dirty.retain(|queue| {
                let Some(line) = lines.get_mut(queue) else {
                    return false;
                };
                let (taken, has_more) = line.take(through);
                group.queues.push((*queue, taken));
                has_more
            });
            let ready = facts.partition_point(|(of, _)| *of <= through);
            group
                .facts
                .extend(facts.drain(..ready).map(|(_, change)| change));
        }
        group
    }

    /// Makes the groups up to `through` durable in the eyes of everybody and gives their memory
    /// back.
    pub(crate) fn finish(&self, through: u64, group: Group) {
        let mut freed = 0;
        for (queue, taken) in group.queues {
            let mut shard = self.shard(queue);
            let Shard { lines, spare, .. } = &mut *shard;
            if lines.get_mut(&queue).is_some_and(Line::committed) {
                lines.remove(&queue);
            }
            freed += taken.blocks.iter().map(Block::charge).sum::<usize>();
            if let Some(taken) = Arc::into_inner(taken) {
                taken
                    .blocks
                    .into_iter()
                    .for_each(|block| recycle(block, spare));
            }
        }
        self.durable.store(through, Ordering::Release);
        (self.progress)(Progress::Durable(Ticket(through)));
        self.release(freed);
    }

    pub(crate) fn announce(&self, progress: Progress) {
        (self.progress)(progress);
    }

    pub(crate) fn durable(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let pending = self.pending.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if pending <= self.limit / 2 && self.is_backlogged.load(Ordering::SeqCst) {
            let _order = self.crossing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.pending.load(Ordering::SeqCst) <= self.limit / 2
                && self.is_backlogged.swap(false, Ordering::SeqCst)
            {
                (self.progress)(Progress::Drained);
            }
        }
    }

    fn announce_backlog(&self) {
        let _order = self.crossing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_backlogged.swap(true, Ordering::SeqCst) {
            return;
        }
        // Set before the second look: a release in between either sees the flag or is seen here.
        if self.pending.load(Ordering::SeqCst) < self.limit {
            self.is_backlogged.store(false, Ordering::SeqCst);
        } else {
            (self.progress)(Progress::Backlogged);
        }
    }
}

/// How soon a commit is wanted, from never to at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Demand {
    /// Nothing waits.
    Never = 0,
    /// Settlements wait: within 50 ms.
    Later = 1,
    /// Unconfirmed messages wait, or a queue was drained: after the gather window of 5 ms.
    Soon = 2,
    /// Somebody waits for the disk.
    Now = 3,
    /// The store is being closed.
    Close = 4,
}

impl Demand {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Never,
            1 => Self::Later,
            2 => Self::Soon,
            3 => Self::Now,
            _ => Self::Close,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Bell {
    demand: AtomicU8,
    closing: AtomicBool,
    lock: Mutex<()>,
    ring: Condvar,
}

impl Bell {
    /// Asks for a commit at least so soon.
    pub(crate) fn raise(&self, demand: Demand) {
        if self.demand.load(Ordering::Acquire) < demand as u8
            && self.demand.fetch_max(demand as u8, Ordering::AcqRel) < demand as u8
        {
            let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.ring.notify_one();
        }
    }

    /// Asks the committer to end after one last commit.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.raise(Demand::Close);
    }

    /// Takes note of all demands so far. Called under the locks of all shards.
    pub(crate) fn answer(&self) -> Demand {
        Demand::from_number(self.demand.swap(Demand::Never as u8, Ordering::AcqRel))
    }

    pub(crate) fn demand(&self) -> Demand {
        if self.closing.load(Ordering::Acquire) {
            return Demand::Close;
        }
        Demand::from_number(self.demand.load(Ordering::Acquire))
    }

    /// Waits until the demand is higher than `than`, or until the time.
    pub(crate) fn wait(&self, than: Demand, until: Instant) -> Demand {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let demand = self.demand();
            let left = until.saturating_duration_since(Instant::now());
            if demand > than || left.is_zero() {
                return demand;
            }
            lock = self
                .ring
                .wait_timeout(lock, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for a while, shorter only when the store is being closed.
    pub(crate) fn rest(&self, length: Duration) -> Demand {
        self.wait(Demand::Now, Instant::now() + length)
    }
}

/// Queue numbers are chosen by the broker, so spreading them is enough.
#[derive(Default)]
struct QueueHasher(u64);

impl Hasher for QueueHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The upper half of the product depends on every bit below it, and the table uses the top
        // and the bottom bits.
        let product = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}
