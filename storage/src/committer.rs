//! The store's thread. It closes a batch, writes it as one frame, syncs, and announces that the
//! batch is durable.
//!
//! The next batch gathers while a commit is synced, so confirmed publishing needs no timer.
//! Unconfirmed messages gather for 5 ms. Then their batch stays closed for another 5 ms, in which a
//! consumer that keeps up can still settle them, so that they need not be written. Settlements
//! alone wait for 50 ms. While the disk is full, the thread waits. A failed write is tried once
//! more in a new segment; if that fails too, the store stops for good.

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
use crate::pending::{Atomicity, Chunk, CommitBatch, CommitShare, Grouping};
use crate::terms::{Demand, Options, Stopped, StoreEvent};
use crate::tidying::{Compaction, TidyingHandle};

/// How long a batch of unconfirmed messages gathers, and how long it then stays closed.
pub(crate) const GATHER: Duration = Duration::from_millis(5);
/// Maximum delay of a batch of settlements only.
const SETTLE_LATEST: Duration = Duration::from_millis(50);
/// How often the free space is checked.
const CHECK_DISK_EVERY: Duration = Duration::from_millis(200);
/// How long the thread sleeps if nothing is pending. A demand wakes it earlier.
const IDLE: Duration = Duration::from_hours(1);

/// Which settlements of a batch are added to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settlements {
    /// All: the frame also holds the messages of the batch.
    WithMessages,
    /// Those of messages that the log has: the frame is written before the messages of the batch.
    Ahead,
    /// Those of [`Self::Ahead`] that belong to no pause ([`Grouping::Alone`]).
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
    /// A segment was begun since [`work_between_commits`](Self::work_between_commits) last ran.
    began_segment: bool,
    /// Too little disk space is free, and the caller was informed.
    is_short: bool,
    /// When the free space is checked again: after a write, and while it is short.
    check_disk_at: Option<Instant>,
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
            began_segment: false,
            is_short: false,
            check_disk_at: Some(Instant::now()),
        }
    }

    /// Runs until the store is closed or fails. A panic counts as a failure, so that callers that
    /// wait for a commit get an error.
    pub(crate) fn run(mut self) -> Result<(), Stopped> {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.serve())).unwrap_or(Err(Stopped::Panicked));
        self.handover.latch_stop(outcome.clone());
        self.tidying.close(outcome.is_ok());
        outcome
    }

    fn serve(&mut self) -> Result<(), Stopped> {
        loop {
            match self.wait_for_work() {
                Demand::Close => return self.commit_all(),
                Demand::Now => self.commit_all()?,
                Demand::Soon | Demand::Later => self.advance_batches()?,
                Demand::Never if self.compaction.is_under_way() => {
                    self.commit(CommitBatch::default())?;
                }
                Demand::Never => {}
            }
            self.work_between_commits();
        }
    }

    /// Waits until there is work. Returns how soon a commit is wanted: `Never` if only compaction
    /// or the check of the disk is due, and `Soon` also if the closed batch is due.
    fn wait_for_work(&self) -> Demand {
        let commit_at = self.closed_batch.map(|(_, commit_at)| commit_at);
        let (mut demand, mut since) = (Demand::Never, Instant::now());
        loop {
            let due = match demand {
                Demand::Now | Demand::Close => return demand,
                Demand::Soon => since + GATHER,
                Demand::Later => since + SETTLE_LATEST,
                Demand::Never if self.compaction.is_under_way() => since,
                Demand::Never => self.check_disk_at.map_or(since + IDLE, |at| at.max(since)),
            };
            let due = commit_at.map_or(due, |commit_at| commit_at.min(due));
            let risen = self.handover.signal.wait_above(demand, due);
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

    /// Commits the closed batch, and closes the batch that gathers.
    fn advance_batches(&mut self) -> Result<(), Stopped> {
        if let Some((closed, _)) = self.closed_batch.take() {
            self.commit(self.handover.take_batch(closed))?;
        }
        if self.handover.signal.demand() > Demand::Never {
            let (closed, demand) = self.handover.close_batch();
            if demand >= Demand::Now {
                // Since the demand was read above, a caller has begun to wait.
                return self.commit(self.handover.take_batch(closed));
            }
            self.closed_batch = Some((closed, Instant::now() + GATHER));
        }
        Ok(())
    }

    fn commit_all(&mut self) -> Result<(), Stopped> {
        self.closed_batch = None;
        let (through, _) = self.handover.close_batch();
        self.commit(self.handover.take_batch(through))
    }

    /// Writes a batch as one frame, with a piece of compaction, and announces it.
    ///
    /// While the disk has no room for its messages, later batches wait behind it, and only changes
    /// that free space are written.
    fn commit(&mut self, batch: CommitBatch) -> Result<(), Stopped> {
        let mut batches = VecDeque::from([batch]);
        let (mut written, mut is_last_try) = (0, false);
        while let Some(batch) = batches.front() {
            match self.write_batch(batch) {
                Err(error) if !is_no_room(&error) => return Err(error.into()),
                Err(_) if is_last_try => return Err(Stopped::ClosedWhileFull),
                Err(error) => {
                    if !self.is_short {
                        tracing::warn!(%error, "a commit waits for space on the disk");
                    }
                    self.write_freeing_changes(&batches, &mut written)?;
                    if self.wait_for_room(&mut batches) == Demand::Close {
                        // Compaction must not take the room of settlements, nor fail a close that
                        // has nothing else to write.
                        self.compaction = Compaction::default();
                        self.write_freeing_changes(&batches, &mut written)?;
                        is_last_try = true;
                    }
                }
                Ok(is_whole) => {
                    // A waiting batch may settle a message of this one, and is looked at again.
                    (written, is_last_try) = (0, false);
                    if let Some(batch) = batches.pop_front_if(|_| is_whole) {
                        self.handover.finish(batch);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a batch; `true` if all of it. A long batch is written in parts, one part a call,
    /// unless it must be one frame.
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
        let limit = match batch.atomicity {
            Atomicity::None => self.max_frame_bytes(),
            Atomicity::Whole | Atomicity::Continued => usize::MAX,
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

    /// Writes the changes that free space, of the batches from index `*written` on, and a piece of
    /// compaction. Sets `*written` to the number of batches.
    fn write_freeing_changes(
        &mut self,
        batches: &VecDeque<CommitBatch>,
        written: &mut usize,
    ) -> Result<(), Stopped> {
        self.frame.clear();
        self.compaction.add_piece(&self.index, &mut self.frame);
        let later = batches.range(*written..);
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
        *written = batches.len();
        Ok(())
    }

    /// What the log has of a queue: its next sequence, and the sequence below which all messages
    /// were delivered.
    fn known(&self, queue: u64) -> Option<(u64, u64)> {
        let index = lock(&self.index);
        let queue = index.queues.get(&queue)?;
        Some((queue.next, queue.delivered_below))
    }

    /// Bytes of messages after which a frame ends, unless the batch must be one frame.
    fn max_frame_bytes(&self) -> usize {
        let whole = self.options.segment_bytes / 2;
        // On a full disk there may be no room but the rest of the segment.
        let rest = self.log.segment_bytes_left().saturating_sub(2 * BLOCK);
        let is_tight = self.is_short && rest >= BLOCK;
        to_usize(if is_tight { whole.min(rest) } else { whole })
    }

    /// Adds to the frame the messages that the log does not have. Large bodies are written at once,
    /// to files of their own. Returns `false` if not all messages fit.
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
                let (file, packed) = match taken.written_body(sequence) {
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

    /// Adds to the frame the settlements and the delivery mark of a queue, or its drop. Both are
    /// limited to the sequences that the log has, or has with this frame.
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
        self.check_disk_at
            .get_or_insert(Instant::now() + CHECK_DISK_EVERY);
        self.began_segment |= self.log.write(&mut self.frame, purpose)?;
        Ok(())
    }

    /// Waits until the disk may have room again. Changes that come meanwhile become a further
    /// batch.
    fn wait_for_room(&mut self, batches: &mut VecDeque<CommitBatch>) -> Demand {
        self.report_shortage();
        self.tidying.wake();
        let until = Instant::now() + SETTLE_LATEST;
        let demand = self.handover.signal.wait_above(Demand::Now, until);
        if demand > Demand::Never {
            let (through, _) = self.handover.close_batch();
            batches.push_back(self.handover.take_batch(through));
        }
        self.compaction.choose(&lock(&self.index), 0);
        demand
    }

    fn report_shortage(&mut self) {
        self.check_disk_at
            .get_or_insert(Instant::now() + CHECK_DISK_EVERY);
        if !std::mem::replace(&mut self.is_short, true) {
            tracing::warn!("the store's disk is nearly full: publishers have to wait");
            (self.handover.progress)(StoreEvent::NoRoom);
        }
    }

    /// Wakes the tidying thread, chooses a segment to compact, and checks the free space,
    /// each if that is due. A failure of these does not stop the store.
    fn work_between_commits(&mut self) {
        let began_segment = std::mem::take(&mut self.began_segment);
        let must_check_disk = self.check_disk_at.is_some_and(|at| at <= Instant::now());
        let index = lock(&self.index);
        if began_segment || index.segments.may_free || !self.log.slots.is_prepared() {
            self.tidying.wake();
        }
        if began_segment || must_check_disk || self.compaction.is_over() {
            // On a full disk even a little garbage is worth compacting.
            let from = self.options.compact_from_bytes;
            self.compaction
                .choose(&index, if self.is_short { 0 } else { from });
        }
        drop(index);
        if must_check_disk {
            self.check_disk_space();
            self.check_disk_at = self.is_short.then(|| Instant::now() + CHECK_DISK_EVERY);
        }
    }

    fn check_disk_space(&mut self) {
        let least = self.options.least_free_bytes;
        let slots = &self.log.slots;
        let free = slots.disk.free_bytes(&slots.folder);
        let (next, reserved) = slots.ready_bytes();
        // Bytes that messages may still use. The reserve for settlements counts towards the bytes
        // that must stay free, up to half of them.
        let room = free.saturating_add(next + self.log.segment_bytes_left());
        let least = least - reserved.min(least / 2);
        if room < least {
            self.report_shortage();
        } else if self.is_short && room >= least.saturating_add(least / 4) && slots.is_prepared() {
            self.is_short = false;
            tracing::info!("the store's disk has room again");
            (self.handover.progress)(StoreEvent::Room);
        }
    }
}
