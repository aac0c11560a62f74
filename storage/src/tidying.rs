//! What frees space: copies of live messages out of the emptiest segment, and the thread beside the
//! committer, which frees dead segments, prepares spares and writes checkpoints, so that none of
//! these delays a commit. None of them can stop the store.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::checkpoint::{CheckpointImage, CheckpointRows};
use crate::disk::lock;
use crate::extent::{ExtentRun, Segment};
use crate::frame::FrameBuilder;
use crate::index::Index;
use crate::log::SpareSlots;

/// How often it tries again what did not succeed.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How long a clean stop waits for the last checkpoint.
const LAST_CHECKPOINT: Duration = Duration::from_secs(3);

/// The committer's end of the thread.
#[derive(Debug)]
pub(crate) struct TidyingHandle {
    wake: SyncSender<()>,
    done: Receiver<()>,
    /// The store was closed without a failure: a last checkpoint makes the next start quick.
    is_clean: Arc<AtomicBool>,
}

impl TidyingHandle {
    /// Starts the thread. The folder stays locked for as long as it runs: one that a slow disk
    /// holds up must not write into the store of the next process.
    pub(crate) fn start(
        slots: Arc<SpareSlots>,
        index: Arc<Mutex<Index>>,
        rows: CheckpointRows,
        held: Arc<File>,
    ) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let (sender, done) = sync_channel(1);
        let is_clean = Arc::new(AtomicBool::new(false));
        let work = TidyingThread {
            slots,
            index,
            rows,
            is_clean: Arc::clone(&is_clean),
            has_warned: false,
        };
        let thread = std::thread::Builder::new().name("store-tidying".to_owned());
        thread.spawn(move || {
            // Dropped in this order: what the thread works with and sled's own lock, the folder's
            // lock, and the sender, by whose end `close` returns.
            let _sender: SyncSender<()> = sender;
            let _held: Arc<File> = held;
            let mut work = work;
            let every = work.rows.options.checkpoint_every;
            while catch_unwind(AssertUnwindSafe(|| work.run(&woken))).is_err() {
                tracing::error!("tidying of the store panicked; it is restarted after {every:?}");
                if woken.recv_timeout(every) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
        Ok(Self {
            wake,
            done,
            is_clean,
        })
    }

    /// Says that there may be something to do.
    pub(crate) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Ends the thread, after a last checkpoint if all is well; waits for a slow disk only a while.
    pub(crate) fn close(self, is_clean: bool) {
        self.is_clean.store(is_clean, Ordering::Release);
        drop(self.wake);
        let _ = self.done.recv_timeout(LAST_CHECKPOINT);
    }
}

struct TidyingThread {
    slots: Arc<SpareSlots>,
    index: Arc<Mutex<Index>>,
    rows: CheckpointRows,
    is_clean: Arc<AtomicBool>,
    /// The last failure was reported.
    has_warned: bool,
}

impl TidyingThread {
    fn run(&mut self, woken: &Receiver<()>) {
        let every = self.rows.options.checkpoint_every;
        // The first segment after an opening seals nothing that the rows lack.
        let (mut due, mut active) = (Instant::now() + every, 0);
        loop {
            let is_done = self.free_dead() && self.slots.prepare().is_ok();
            let now = Instant::now();
            let newest = lock(&self.index).segments.active;
            if now >= due || newest != active && active > 0 {
                self.checkpoint();
                due = now + every;
            }
            active = newest;
            let rest = due.saturating_duration_since(Instant::now());
            let rest = if is_done { rest } else { rest.min(RETRY_EVERY) };
            if woken.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected) {
                if self.is_clean.load(Ordering::Acquire) {
                    self.checkpoint();
                }
                return;
            }
        }
    }

    /// Marks dead segments free, in rising order. `false` when there are more: readers hold them,
    /// or the disk failed.
    fn free_dead(&self) -> bool {
        loop {
            let dead = lock(&self.index).segments.remove_dead();
            let Some((number, segment)) = dead else {
                return !lock(&self.index).segments.may_free;
            };
            if let Err(error) = self.slots.free(number, &segment.file, segment.is_body) {
                tracing::debug!(%error, "a dead segment could not be freed yet");
                let segments = &mut lock(&self.index).segments;
                segments.all.insert(number, segment);
                return false;
            }
        }
    }

    /// Writes a checkpoint where something has changed.
    fn checkpoint(&mut self) {
        let image = {
            let index = lock(&self.index);
            if index.commit <= self.rows.meta.commit {
                return;
            }
            CheckpointImage::of(&index, &self.rows.meta)
        };
        match self.rows.save(&image) {
            Ok(()) => {
                self.has_warned = false;
                let (mut index, meta) = (lock(&self.index), &image.meta);
                index.checkpointed_definitions = index
                    .checkpointed_definitions
                    .max(meta.checkpointed_definitions);
                index.changed.retain(|_, commit| *commit > meta.commit);
            }
            Err(reason) => {
                // The log has everything that the rows lack.
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!("the index could not be saved: {reason}");
                }
                self.rows.engine = None;
            }
        }
    }
}

/// Bytes read for one piece.
const PIECE_BYTES: u64 = 16 * 1024;
/// What the copy of a message takes beside its bytes, at most.
const COPY_BYTES: u64 = 32;

/// What copies of everything live in a segment would take.
fn weight(segment: &Segment) -> u64 {
    segment.bytes + segment.live * COPY_BYTES
}

/// The segment that is emptied.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    victim: u64,
    /// Queues with messages in the victim.
    queues: Vec<u64>,
}

impl Compaction {
    /// Looks for a segment to empty, if less than half of the sealed bytes are live.
    pub(crate) fn choose(&mut self, index: &Index, from_bytes: u64) {
        if self.is_under_way() {
            return;
        }
        self.victim = 0;
        let sealed = || index.segments.sealed();
        let allocated: u64 = sealed().map(|(_, segment)| segment.file.length).sum();
        let live: u64 = sealed().map(|(_, segment)| weight(segment)).sum();
        if allocated < from_bytes || live >= allocated / 2 {
            return;
        }
        let candidates = sealed().filter(|(_, segment)| {
            let is_worth = weight(segment) < segment.file.length / 4 * 3;
            !segment.is_damaged && segment.live > 0 && is_worth
        });
        let emptiest =
            candidates.min_by_key(|(_, segment)| weight(segment) * 1024 / segment.file.length);
        if let Some((victim, _)) = emptiest {
            self.victim = victim;
            let queues = index.queues.iter();
            let inside =
                queues.filter(|(_, queue)| queue.runs.iter().any(|run| run.segment == victim));
            self.queues = inside.map(|(number, _)| *number).collect();
        }
    }

    /// Whether there is something to copy.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Whether a segment was emptied and none chosen since.
    pub(crate) fn is_over(&self) -> bool {
        self.victim > 0 && self.queues.is_empty()
    }

    /// Adds one piece of copies to a frame. What is damaged stays where it is.
    pub(crate) fn add_piece(&mut self, index: &Mutex<Index>, frame: &mut FrameBuilder) {
        let mut left = PIECE_BYTES;
        while let Some(number) = self.queues.last().copied() {
            let (groups, file) = {
                let index = lock(index);
                let segment = index.segments.all.get(&self.victim);
                let Some((segment, queue)) = segment.zip(index.queues.get(&number)) else {
                    self.queues.pop();
                    continue;
                };
                let groups = queue.live_groups(0, left, |run| run.segment == self.victim);
                (groups, Arc::clone(&segment.file))
            };
            let bodies = groups.iter().map(|group| group.read_bodies(&file, number));
            let bodies: Option<Vec<_>> = bodies.collect();
            let mut index = lock(index);
            let (Some(bodies), Some(queue)) = (bodies, index.queues.get(&number)) else {
                tracing::error!(number, "damaged messages of a queue cannot be moved");
                if let Some(segment) = index.segments.all.get_mut(&self.victim) {
                    segment.is_damaged = true;
                }
                self.queues.clear();
                return;
            };
            let copies = groups.iter().zip(&bodies).flat_map(|(group, bodies)| {
                let entries = group.entries(0, u64::MAX);
                let live = entries.filter(|entry| !queue.settled.has(entry.sequence));
                live.map(|entry| (entry.sequence, &bodies[entry.range()]))
            });
            frame.messages((number, queue.next), copies);
            left = left.saturating_sub(groups.iter().map(ExtentRun::cost).sum());
            if left == 0 {
                // The copies count from the next commit on; the rest of the queue follows then.
                return;
            }
            self.queues.pop();
        }
    }
}
