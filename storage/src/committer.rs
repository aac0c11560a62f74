//! The thread that writes: it gathers a batch, writes it as one frame, and announces it.
//!
//! While one commit is synced the next batch gathers, so confirmed publishing needs no timer.
//! Unconfirmed messages gather for 5 ms and then wait another 5 ms, in which a consumer that keeps
//! up still takes them off; settlements alone wait 50 ms. A full disk makes it wait; a failed write
//! goes on once in a new segment and then stops the store for good.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::disk::{is_no_room, lock, to_usize};
use crate::extent::Ranges;
use crate::frame::{BLOCK, FrameBuilder, LARGE_BYTES, Record, pack_ranges};
use crate::handover::Handover;
use crate::index::Index;
use crate::log::{FramePurpose, LogWriter};
use crate::pending::{Chunk, CommitBatch, CommitShare, Grouping, Unity};
use crate::terms::{Demand, Options, Stopped, StoreEvent};
use crate::tidying::{Compaction, TidyingHandle};

/// How long a batch of unconfirmed messages gathers, and how long it then stays closed.
pub(crate) const GATHER: Duration = Duration::from_millis(5);
/// Maximum delay of a batch of settlements only.
const SETTLE_LATEST: Duration = Duration::from_millis(50);
/// How often the free space is checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the thread rests when nothing comes.
const IDLE: Duration = Duration::from_hours(1);

/// Which settlements of a batch a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settlements {
    /// All, beside the messages of the batch.
    WithMessages,
    /// Those of messages that the log has.
    Ahead,
    /// Of these, those that were handed over alone.
    AheadAlone,
}

/// What the committer owns.
pub(crate) struct Committer {
    handover: Arc<Handover>,
    index: Arc<Mutex<Index>>,
    log: LogWriter,
    tidying: TidyingHandle,
    options: Options,
    compaction: Compaction,
    frame: FrameBuilder,
    /// The closed batch that waits for its commit, and until when.
    closed_batch: Option<(u64, Instant)>,
    /// A segment was begun since the last time that there was nothing else to do.
    has_begun: bool,
    /// The caller was told that the disk is full.
    is_short: bool,
    /// When the disk's free space is checked again: after a write, and while it is short.
    look_at: Option<Instant>,
}

impl Committer {
    pub(crate) fn new(
        handover: Arc<Handover>,
        log: LogWriter,
        tidying: TidyingHandle,
        options: Options,
    ) -> Self {
        Self {
            handover,
            index: Arc::clone(&log.index),
            log,
            tidying,
            options,
            compaction: Compaction::default(),
            frame: FrameBuilder::default(),
            closed_batch: None,
            has_begun: false,
            is_short: false,
            look_at: Some(Instant::now()),
        }
    }

    /// Runs until the store is closed or fails. A panic is a failure too, which callers that wait
    /// for a commit must learn.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.serve())).unwrap_or(Err(Stopped::Panicked));
        self.handover.end(outcome.clone());
        self.tidying.close(outcome.is_ok());
        outcome
    }

    fn serve(&mut self) -> Result<(), Stopped> {
        loop {
            match self.wait() {
                Demand::Close => return self.commit_all(),
                Demand::Now => self.commit_all()?,
                Demand::Soon | Demand::Later => self.advance_batches()?,
                Demand::Never if self.compaction.is_under_way() => {
                    self.commit(CommitBatch::default())?;
                }
                Demand::Never => {}
            }
            self.tidy();
        }
    }

    /// Waits until something has to be done: a commit at once, or because a window is over, or
    /// nothing but tidying up.
    fn wait(&self) -> Demand {
        let commit_at = self.closed_batch.map(|(_, commit_at)| commit_at);
        let (mut demand, mut since) = (Demand::Never, Instant::now());
        loop {
            let due = match demand {
                Demand::Now | Demand::Close => return demand,
                Demand::Soon => since + GATHER,
                Demand::Later => since + SETTLE_LATEST,
                Demand::Never if self.compaction.is_under_way() => since,
                Demand::Never => self.look_at.map_or(since + IDLE, |at| at.max(since)),
            };
            let due = commit_at.map_or(due, |commit_at| commit_at.min(due));
            let risen = self.handover.signal.wait(demand, due);
            if risen == demand {
                let is_due = commit_at.is_some_and(|commit_at| commit_at <= due);
                return match demand {
                    _ if is_due => Demand::Soon,
                    Demand::Later => Demand::Now,
                    demand => demand,
                };
            }
            if demand == Demand::Never {
                since = Instant::now();
            }
            demand = risen;
        }
    }

    /// One tick: commits the closed batch and closes the one that gathered.
    fn advance_batches(&mut self) -> Result<(), Stopped> {
        if let Some((closed, _)) = self.closed_batch.take() {
            self.commit(self.handover.take(closed))?;
        }
        if self.handover.signal.demand() > Demand::Never {
            let (closed, demand) = self.handover.cut();
            if demand >= Demand::Now {
                // A caller asked between the tick and the cut, and waits.
                return self.commit(self.handover.take(closed));
            }
            self.closed_batch = Some((closed, Instant::now() + GATHER));
        }
        Ok(())
    }

    fn commit_all(&mut self) -> Result<(), Stopped> {
        self.closed_batch = None;
        let (through, _) = self.handover.cut();
        self.commit(self.handover.take(through))
    }

    /// Writes a batch as one frame, with a piece of compaction, and announces it.
    ///
    /// While there is no room for its messages later batches wait behind it. What frees space is
    /// written meanwhile.
    fn commit(&mut self, batch: CommitBatch) -> Result<(), Stopped> {
        let mut batches = VecDeque::from([batch]);
        let (mut relieved, mut is_last_try) = (0, false);
        while let Some(batch) = batches.front() {
            match self.write_batch(batch) {
                Err(error) if !is_no_room(&error) => return Err(error.into()),
                Err(_) if is_last_try => return Err(Stopped::ClosedWhileFull),
                Err(error) => {
                    if !self.is_short {
                        tracing::warn!(%error, "a commit waits for space on the disk");
                    }
                    self.relieve(&batches, &mut relieved)?;
                    if self.wait_for_room(&mut batches) == Demand::Close {
                        // Copies must not take the room of acks, nor fail a stop that has no more
                        // to write.
                        self.compaction = Compaction::default();
                        self.relieve(&batches, &mut relieved)?;
                        is_last_try = true;
                    }
                }
                Ok(is_whole) => {
                    // What is written now may be settled in a batch that waits.
                    (relieved, is_last_try) = (0, false);
                    if let Some(batch) = batches.pop_front_if(|_| is_whole) {
                        self.handover.finish(batch);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a batch, or a part of one that is long and may be cut apart: `false`.
    fn write_batch(&mut self, batch: &CommitBatch) -> io::Result<bool> {
        self.frame.clear();
        let mut purpose = FramePurpose::Relief;
        for (key, value) in &batch.definitions {
            if let Some(value) = value {
                purpose = FramePurpose::Messages;
                self.frame.push(&Record::Put(key, value));
            } else {
                self.frame.push(&Record::Remove(key));
            }
        }
        let before = self.frame.body().len();
        let limit = match batch.unity {
            Unity::None => self.part_bytes(),
            Unity::Whole | Unity::Continued => usize::MAX,
        };
        let mut is_whole = true;
        for (queue, taken) in batch.queues.iter().filter(|(_, taken)| !taken.is_dropped) {
            is_whole = is_whole && self.add_messages(queue.0, taken, limit)?;
        }
        if self.frame.body().len() > before {
            purpose = FramePurpose::Messages;
        }
        if !self.is_short || batch.queues.is_empty() {
            self.compaction.add_piece(&self.index, &mut self.frame);
        }
        if is_whole {
            for (queue, taken) in &batch.queues {
                self.add_settlements(queue.0, taken, Settlements::WithMessages);
            }
        }
        if !self.frame.body().is_empty() {
            self.write_frame(purpose)?;
        }
        Ok(is_whole)
    }

    /// Writes what frees space, of those batches that were not relieved before.
    fn relieve(
        &mut self,
        batches: &VecDeque<CommitBatch>,
        relieved: &mut usize,
    ) -> Result<(), Stopped> {
        self.frame.clear();
        self.compaction.add_piece(&self.index, &mut self.frame);
        let later = batches.range(*relieved..);
        for batch in later {
            let settlements = if batch.may_go_ahead() {
                for (key, value) in &batch.definitions {
                    if value.is_none() {
                        self.frame.push(&Record::Remove(key));
                    }
                }
                Settlements::Ahead
            } else {
                Settlements::AheadAlone
            };
            for (queue, taken) in &batch.queues {
                self.add_settlements(queue.0, taken, settlements);
            }
        }
        if self.log.seal() || !self.frame.body().is_empty() {
            match self.write_frame(FramePurpose::Relief) {
                Err(error) if is_no_room(&error) => return Ok(()),
                outcome => outcome?,
            }
        }
        *relieved = batches.len();
        Ok(())
    }

    /// What the log has of a queue: its next sequence, and below which everything was delivered.
    fn known(&self, queue: u64) -> Option<(u64, u64)> {
        let index = lock(&self.index);
        let queue = index.queues.get(&queue)?;
        Some((queue.next, queue.delivered_below))
    }

    /// Bytes of messages after which a frame ends, unless it must not be cut apart.
    fn part_bytes(&self) -> usize {
        let whole = self.options.segment_bytes / 2;
        // On a full disk the rest of the segment may be all that there is.
        let rest = self.log.rest().saturating_sub(2 * BLOCK);
        let is_tight = self.is_short && rest >= BLOCK;
        to_usize(if is_tight { whole.min(rest) } else { whole })
    }

    /// Puts messages that the log does not have into the frame; large bodies are written at once.
    /// `false` when there are more than a frame should hold.
    fn add_messages(&mut self, queue: u64, taken: &CommitShare, limit: usize) -> io::Result<bool> {
        let (mut next, _) = self.known(queue).unwrap_or_default();
        let (from, live) = (next, taken.chunks.iter().flat_map(Chunk::live));
        let mut messages = live.skip_while(|(sequence, _)| *sequence < from).peekable();
        while let Some((sequence, body)) = messages.peek().copied() {
            let base = next;
            if self.frame.body().len() >= limit {
                return Ok(false);
            }
            if body.len() > LARGE_BYTES {
                let (file, packed) = match taken.written(sequence) {
                    Some(written) => (written.number, written.packed.clone()),
                    None => self.log.write_body((queue, sequence), body)?,
                };
                self.frame.push(&Record::Run([queue, base, file], &packed));
                next = sequence.saturating_add(1);
                messages.next();
                continue;
            }
            let mut room = limit - self.frame.body().len();
            let small = std::iter::from_fn(|| {
                let fits = |(_, body): &(u64, &[u8])| room > 0 && body.len() <= LARGE_BYTES;
                let (sequence, body) = messages.next_if(fits)?;
                room = room.saturating_sub(body.len());
                next = sequence.saturating_add(1);
                Some((sequence, body))
            });
            self.frame.messages((queue, base), small);
        }
        Ok(true)
    }

    /// Puts what happened to older messages into the frame, no further than what the log has of the
    /// queue, or has with the messages in this frame.
    fn add_settlements(&mut self, queue: u64, taken: &CommitShare, which: Settlements) {
        let known = self.known(queue);
        if taken.is_dropped {
            if known.is_some() && which != Settlements::AheadAlone {
                self.frame.push(&Record::Drop(queue));
            }
            return;
        }
        let (known, delivered_below) = known.unwrap_or_default();
        let mut chunks = taken.chunks.iter().rev();
        let newest = chunks.find_map(|chunk| chunk.live().next_back());
        let written = newest.map_or(0, |(sequence, _)| sequence + 1);
        let next = match which {
            Settlements::WithMessages => known.max(written),
            Settlements::Ahead | Settlements::AheadAlone => known,
        };
        let mut settled = Ranges::default();
        for ((first, last), grouping) in &taken.settled {
            let goes = which != Settlements::AheadAlone || *grouping == Grouping::Alone;
            if goes && *first < next {
                settled.add(*first, next.saturating_sub(1).min(*last));
            }
        }
        let settled = pack_ranges(settled.iter());
        if !settled.is_empty() {
            self.frame.push(&Record::Settled(queue, &settled));
        }
        if next > 0 && taken.delivered_below > delivered_below {
            let numbers = [queue, next, taken.delivered_below];
            self.frame.push(&Record::Numbers(numbers, &[]));
        }
    }

    fn write_frame(&mut self, purpose: FramePurpose) -> io::Result<()> {
        self.look_at.get_or_insert(Instant::now() + LOOK_EVERY);
        self.has_begun |= self.log.write(&mut self.frame, purpose)?;
        Ok(())
    }

    /// Waits until the disk may have room again, and takes in what comes meanwhile.
    fn wait_for_room(&mut self, batches: &mut VecDeque<CommitBatch>) -> Demand {
        self.tell_shortage();
        self.tidying.wake();
        let until = Instant::now() + SETTLE_LATEST;
        let demand = self.handover.signal.wait(Demand::Now, until);
        if demand > Demand::Never {
            let (through, _) = self.handover.cut();
            batches.push_back(self.handover.take(through));
        }
        self.compaction.choose(&lock(&self.index), 0);
        demand
    }

    fn tell_shortage(&mut self) {
        self.look_at.get_or_insert(Instant::now() + LOOK_EVERY);
        if !std::mem::replace(&mut self.is_short, true) {
            tracing::warn!("the store's disk is nearly full: publishers have to wait");
            (self.handover.progress)(StoreEvent::NoRoom);
        }
    }

    /// What is done between commits: more work for the tidying thread, the next segment to compact,
    /// the disk's room. None of it can stop the store.
    fn tidy(&mut self) {
        let has_begun = std::mem::take(&mut self.has_begun);
        let has_to_look = self.look_at.is_some_and(|at| at <= Instant::now());
        let index = lock(&self.index);
        if has_begun || index.segments.may_free || !self.log.slots.is_prepared() {
            self.tidying.wake();
        }
        if has_begun || has_to_look || self.compaction.is_over() {
            // On a full disk every byte counts.
            let from = self.options.compact_from_bytes;
            self.compaction
                .choose(&index, if self.is_short { 0 } else { from });
        }
        drop(index);
        if has_to_look {
            self.look_at_disk();
            self.look_at = self.is_short.then(|| Instant::now() + LOOK_EVERY);
        }
    }

    fn look_at_disk(&mut self) {
        let least = self.options.least_free_bytes;
        let slots = &self.log.slots;
        let free = slots.disk.free_bytes(&slots.folder);
        let (next, reserved) = slots.ready_bytes();
        // What messages may still use; the reserve for settlements counts as kept free, up to a
        // half of it.
        let room = free.saturating_add(next + self.log.rest());
        let least = least - reserved.min(least / 2);
        if room < least {
            self.tell_shortage();
        } else if self.is_short && room >= least.saturating_add(least / 4) && slots.is_prepared() {
            self.is_short = false;
            tracing::info!("the store's disk has room again");
            (self.handover.progress)(StoreEvent::Room);
        }
    }
}
