//! The store as its caller sees it: quick calls that return a ticket, and a number that says what
//! is durable.
//!
//! Only [`Store::open`], [`Store::read`] and [`Store::close`] wait for the disk.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;

use crate::checkpoint::Keeper;
use crate::committer::{self, Committer};
use crate::compaction::{Compaction, read_group};
use crate::disk::lock_folder;
use crate::extent::{MESSAGE_BYTES, Piece, SegmentFile};
use crate::frame::FrameBuilder;
use crate::inbox::Inbox;
use crate::index::{Index, lock};
use crate::log::{Log, Slots};
use crate::pending::Look;
use crate::recovery::{self, Found};
use crate::terms::{
    OpenError, Options, Progress, QueueId, ReadError, Recovered, Report, Sequence, Settled,
    Stopped, Ticket, Urgency,
};

/// What [`Store::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The store, running.
    pub store: Store,
    /// All facts, in the order of their keys.
    pub facts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Every queue that has had a message on disk and was not dropped, by rising number.
    pub queues: Vec<Recovered>,
    /// What was repaired.
    pub report: Report,
}

/// A handle to a running store. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    inbox: Arc<Inbox>,
    index: Arc<Mutex<Index>>,
    slots: Arc<Slots>,
    committer: Mutex<Option<JoinHandle<Result<(), Stopped>>>>,
    /// Held until the store is closed.
    folder: Mutex<Option<File>>,
}

/// While it lives no commit is begun: everything handed over meanwhile is durable together, or not
/// at all.
///
/// Hold it only for a few calls of the same store; it may be nested. One that is held for a second,
/// or while messages up to the limit wait, does not hold commits back any longer.
#[must_use]
pub struct Together {
    inbox: Arc<Inbox>,
    round: u64,
}

impl Drop for Together {
    fn drop(&mut self) {
        self.inbox.leave(self.round);
    }
}

impl std::fmt::Debug for Together {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Together")
    }
}

impl Store {
    /// Opens or creates the store in a folder. Damage is repaired or set aside and reported; it
    /// never prevents the opening.
    pub fn open(
        folder: &Path,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Opened, OpenError> {
        let held = lock_folder(folder)?;
        let found = recovery::open(folder, &options)?;
        for line in &found.report.repairs {
            tracing::warn!("store: {line}");
        }
        for line in &found.report.losses {
            tracing::error!("store: {line}");
        }
        Self::start((folder, held), options, found, Box::new(progress)).map_err(|source| {
            OpenError::Io {
                folder: folder.to_owned(),
                doing: "served",
                source,
            }
        })
    }

    fn start(
        (folder, held): (&Path, File),
        options: Options,
        found: Found,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> std::io::Result<Opened> {
        let inbox = Arc::new(Inbox::new(options.pending_limit_bytes, progress));
        let slots = Arc::new(found.slots);
        let facts = found.index.definitions.clone().into_iter().collect();
        let queues = found.index.recovered();
        let commit = found.index.commit;
        let index = Arc::new(Mutex::new(found.index));
        let keeper = Keeper::start(
            (folder, &options),
            Arc::clone(&slots),
            Arc::clone(&index),
            (found.engine, found.meta),
        )?;
        let now = Instant::now();
        let committer = Committer {
            inbox: Arc::clone(&inbox),
            index: Arc::clone(&index),
            log: Log::new(Arc::clone(&slots), found.tail, found.next_number),
            keeper,
            compaction: Compaction::default(),
            frame: FrameBuilder::default(),
            written: HashMap::new(),
            commit,
            ripening: None,
            has_begun: false,
            is_short: false,
            next_look: now,
            has_to_look: true,
            next_checkpoint: now + options.checkpoint_every,
            options,
        };
        let inner = Inner {
            inbox,
            index,
            slots,
            committer: Mutex::new(Some(committer::spawn(committer)?)),
            folder: Mutex::new(Some(held)),
        };
        Ok(Opened {
            store: Self {
                inner: Arc::new(inner),
            },
            facts,
            queues,
            report: found.report,
        })
    }

    /// Puts everything that is handed over while the guard lives into one commit. It must not be
    /// held while waiting for the store.
    pub fn together(&self) -> Together {
        Together {
            round: self.inner.inbox.enter(),
            inbox: Arc::clone(&self.inner.inbox),
        }
    }

    /// Sets a fact. Keys up to 1 KiB, values up to 1 MiB. Asks for a commit at once.
    pub fn put(&self, key: &[u8], value: Vec<u8>) -> Result<Ticket, Stopped> {
        self.inner.inbox.change_fact((key.to_vec(), Some(value)))
    }

    /// Removes a fact, which may be absent. Asks for a commit at once.
    pub fn remove(&self, key: &[u8]) -> Result<Ticket, Stopped> {
        self.inner.inbox.change_fact((key.to_vec(), None))
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
        self.inner.inbox.append(queue, sequence, message, urgency)
    }

    /// Forgets a message that is not needed any more.
    pub fn settle(&self, queue: QueueId, sequence: Sequence) -> Result<Settled, Stopped> {
        self.inner.inbox.settle(queue, sequence)
    }

    /// Forgets every message from the first to the last of these, whichever of them there are.
    pub fn settle_all(
        &self,
        queue: QueueId,
        first: Sequence,
        last: Sequence,
    ) -> Result<Ticket, Stopped> {
        let known = self.inner.known(queue);
        self.inner.inbox.settle_all(queue, (first, last), known)
    }

    /// Notes that everything up to here was delivered at least once. It rides along with the next
    /// commit.
    pub fn delivered(&self, queue: QueueId, through: Sequence) {
        self.inner.inbox.delivered(queue, through);
    }

    /// Forgets every message up to here.
    pub fn purge(&self, queue: QueueId, through: Sequence) -> Result<Ticket, Stopped> {
        let known = self.inner.known(queue);
        self.inner.inbox.purge(queue, through, known)
    }

    /// Forgets a queue. Its number is not used again.
    pub fn drop_queue(&self, queue: QueueId) -> Result<Ticket, Stopped> {
        self.inner.inbox.drop_queue(queue)
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
        self.inner.inbox.check()?;
        // What waits is copied first: a message that is committed in between is seen twice and
        // counted once.
        let look = self.inner.inbox.look(queue, from, limit_bytes);
        self.inner.read(queue, (from, limit_bytes), look)
    }

    /// Everything up to here is on disk for good.
    pub fn durable(&self) -> Ticket {
        self.inner.inbox.durable()
    }

    /// Bytes of messages in memory that wait for their commit.
    pub fn pending_bytes(&self) -> usize {
        self.inner.inbox.pending_bytes()
    }

    /// Bytes that the log occupies on the disk, with the slots that wait for their use.
    pub fn disk_bytes(&self) -> u64 {
        self.inner.slots.bytes.load(Ordering::Relaxed)
    }

    /// Commits everything, syncs, saves the index, and ends the threads. Other handles get
    /// [`Stopped`] from then on.
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
    /// The first sequence of a queue that the log does not have.
    fn known(&self, queue: QueueId) -> Sequence {
        let index = lock(&self.index);
        Sequence(index.queues.get(&queue.0).map_or(0, |queue| queue.next))
    }

    fn read(
        &self,
        queue: QueueId,
        (from, limit_bytes): (Sequence, usize),
        look: Look,
    ) -> Result<Vec<(Sequence, Bytes)>, ReadError> {
        let limit = limit_bytes as u64;
        let pieces = self.plan(queue, (from.0.max(look.gone_below), limit), &look);
        let mut messages: Vec<(Sequence, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (piece, file) in pieces {
            let Some(data) = read_group(file.file.as_ref(), queue.0, &piece) else {
                // What was read before the damage is good, and the damage comes up again at the
                // next call.
                return if messages.is_empty() {
                    Err(ReadError::Damaged {
                        queue: queue.0,
                        first: piece.wanted[0].sequence,
                        next: piece.last.saturating_add(1),
                    })
                } else {
                    Ok(messages)
                };
            };
            for entry in &piece.wanted {
                bytes += entry.length + MESSAGE_BYTES;
                let body = data.slice(Piece::range(entry));
                messages.push((Sequence(entry.sequence), body));
            }
        }
        let after = messages
            .last()
            .map_or(from, |(last, _)| Sequence(last.0.saturating_add(1)));
        for (sequence, body) in look.waiting {
            if bytes >= limit && !messages.is_empty() {
                break;
            }
            if sequence >= after {
                bytes += body.len() as u64 + MESSAGE_BYTES;
                messages.push((sequence, Bytes::from(body)));
            }
        }
        Ok(messages)
    }

    /// Which groups to read, with their files, which are not used again while they are held.
    fn plan(
        &self,
        queue: QueueId,
        bounds: (u64, u64),
        look: &Look,
    ) -> Vec<(Piece, Arc<SegmentFile>)> {
        let index = lock(&self.index);
        let Some(found) = index.queues.get(&queue.0) else {
            return Vec::new();
        };
        let pieces = found.plan(bounds, |sequence| look.is_live(Sequence(sequence)));
        pieces
            .into_iter()
            .filter_map(|piece| {
                let file = Arc::clone(&index.segments.get(&piece.segment)?.file);
                Some((piece, file))
            })
            .collect()
    }

    fn close(&self) -> Result<(), Stopped> {
        let Some(thread) = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return Ok(());
        };
        self.inbox.bell.close();
        let outcome = thread
            .join()
            .unwrap_or_else(|_| Err(Stopped::because("the committer panicked")));
        drop(
            self.folder
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        outcome
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever wants to know the outcome calls `close`; a failure has been announced by the
        // committer.
        let _ = self.close();
    }
}
