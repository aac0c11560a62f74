//! The thread beside the committer: it frees dead segments, prepares spares and writes checkpoints,
//! so that none of these delays a commit. None of them can stop the store.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::checkpoint::{Image, Rows};
use crate::disk::lock;
use crate::index::Index;
use crate::log::Slots;

/// How often it tries again what did not succeed.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How long a clean stop waits for the last checkpoint.
const LAST_CHECKPOINT: Duration = Duration::from_secs(10);

/// The committer's end of the thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    wake: SyncSender<()>,
    done: Receiver<()>,
    /// The store was closed without a failure: a last checkpoint makes the next start quick.
    is_clean: Arc<AtomicBool>,
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn start(
        slots: Arc<Slots>,
        index: Arc<Mutex<Index>>,
        rows: Rows,
    ) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let (sender, done) = sync_channel(1);
        let is_clean = Arc::new(AtomicBool::new(false));
        let work = Work {
            slots,
            index,
            rows,
            is_clean: Arc::clone(&is_clean),
            has_warned: false,
        };
        let thread = std::thread::Builder::new().name("store-keeper".to_owned());
        thread.spawn(move || {
            // Gone when everything else of the thread is.
            let _sender: SyncSender<()> = sender;
            work.run(&woken);
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

struct Work {
    slots: Arc<Slots>,
    index: Arc<Mutex<Index>>,
    rows: Rows,
    is_clean: Arc<AtomicBool>,
    /// The last failure was reported.
    has_warned: bool,
}

impl Work {
    fn run(mut self, woken: &Receiver<()>) {
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

    /// Marks dead segments free, in rising order. `false` when there are more: readers hold them, or
    /// the disk failed.
    fn free_dead(&self) -> bool {
        loop {
            let dead = lock(&self.index).segments.take_dead();
            let Some((number, segment)) = dead else {
                return !lock(&self.index).segments.may_free;
            };
            if let Err(error) = self.slots.free(number, &segment) {
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
            if index.commit <= index.checkpoint {
                return;
            }
            Image::of(&index, &self.rows.meta)
        };
        match self.rows.save(&image) {
            Ok(()) => {
                self.has_warned = false;
                let (mut index, meta) = (lock(&self.index), &image.meta);
                index.checkpoint = index.checkpoint.max(meta.commit);
                index.defined = index.defined.max(meta.defined);
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
