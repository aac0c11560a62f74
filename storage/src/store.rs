//! The store as its caller sees it: quick calls that return a ticket, and a number that says what is durable.
//!
//! Nothing here waits for the disk but [`Store::open`], [`Store::read`] and [`Store::close`]. Relies on the inbox for
//! hand-over, on the committer's thread for writing.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::committer::Committer;
use crate::disk::{Disk, Slot, close};
use crate::engine::{Engine, EngineError};
use crate::error::{OpenError, ReadError, Stopped};
use crate::folder::Folder;
use crate::inbox::Inbox;
use crate::recovery::{self, Found};
use crate::terms::{
    Options, Progress, QueueId, Recovered, Report, Sequence, Settled, Ticket, Urgency,
};
use crate::{reading, repair};

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

/// What a store runs on.
struct Ground {
    engine: Arc<dyn Engine>,
    disk: Box<dyn Disk>,
    found: Found,
}

fn log_report(report: &Report) {
    report
        .repairs
        .iter()
        .for_each(|line| tracing::warn!("store: {line}"));
    report
        .losses
        .iter()
        .for_each(|line| tracing::error!("store: {line}"));
}

struct Inner {
    inbox: Arc<Inbox>,
    engine: Arc<Slot>,
    committer: Mutex<Option<JoinHandle<Result<(), Stopped>>>>,
}

impl Store {
    /// Opens or creates the store in a folder and repairs what a crash left behind. At most about a second, whatever is in it.
    pub fn open(
        folder: &Path,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Opened, OpenError> {
        let disk = Folder::hold(folder, options)?;
        let repaired = repair::open(&disk)?;
        log_report(&repaired.report);
        let ground = Ground {
            engine: Arc::new(repaired.engine),
            disk: Box::new(disk),
            found: repaired.found,
        };
        let mut opened =
            Self::start(ground, options, Box::new(progress)).map_err(|source| OpenError::Io {
                folder: folder.to_owned(),
                doing: "served",
                source,
            })?;
        opened.report = repaired.report;
        Ok(opened)
    }

    /// Runs a store on any engine and disk: what the tests do, to be the disk themselves.
    pub fn open_on(
        mut disk: Box<dyn Disk>,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Opened, EngineError> {
        let engine = disk.open()?;
        recovery::version(engine.as_ref())?;
        recovery::finish_parts(engine.as_ref())?;
        let found = recovery::find(engine.as_ref())?;
        let opened = Self::start(
            Ground {
                engine,
                disk,
                found,
            },
            options,
            Box::new(progress),
        );
        opened.map_err(|error| EngineError::from(&error))
    }

    fn start(
        ground: Ground,
        options: Options,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> io::Result<Opened> {
        let Ground {
            engine,
            disk,
            found,
        } = ground;
        let inbox = Arc::new(Inbox::new(options.pending_limit_bytes, progress));
        inbox
            .disk_bytes
            .store(engine.disk_bytes(), Ordering::Relaxed);
        let engine = Arc::new(Slot::new(engine));
        let committer = Committer::new(
            Arc::clone(&inbox),
            Arc::clone(&engine),
            disk,
            found.committed,
        );
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || committer.run())?;
        let inner = Inner {
            inbox,
            engine,
            committer: Mutex::new(Some(thread)),
        };
        let report = Report {
            repairs: Vec::new(),
            losses: found.damage,
        };
        Ok(Opened {
            store: Self {
                inner: Arc::new(inner),
            },
            facts: found.facts,
            queues: found.queues,
            report,
        })
    }

    /// Sets a fact. Keys up to 1 KiB, values up to 1 MiB. Asks for a commit at once.
    pub fn put(&self, key: &[u8], value: Vec<u8>) -> Result<Ticket, Stopped> {
        self.inner.inbox.change_fact((key.to_vec(), Some(value)))
    }

    /// Removes a fact, which may be absent. Asks for a commit at once.
    pub fn remove(&self, key: &[u8]) -> Result<Ticket, Stopped> {
        self.inner.inbox.change_fact((key.to_vec(), None))
    }

    /// Adds a message of up to 128 MiB, given in parts that are joined. Its sequence is higher than all before it in this queue.
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
        self.inner.inbox.settle_all(queue, first, last)
    }

    /// Notes that everything up to here was delivered at least once. It rides along with the next commit.
    pub fn delivered(&self, queue: QueueId, through: Sequence) {
        self.inner.inbox.delivered(queue, through);
    }

    /// Forgets every message up to here.
    pub fn purge(&self, queue: QueueId, through: Sequence) -> Result<Ticket, Stopped> {
        self.inner.inbox.purge(queue, through)
    }

    /// Forgets a queue. Its number is not used again.
    pub fn drop_queue(&self, queue: QueueId) -> Result<Ticket, Stopped> {
        self.inner.inbox.drop_queue(queue)
    }

    /// Live messages from a sequence on, in order, also those that are not durable yet: up to about `limit_bytes`, at least one
    /// if there is any. The bodies share the rows they came from: copy what is kept for long.
    pub fn read(
        &self,
        queue: QueueId,
        from: Sequence,
        limit_bytes: usize,
    ) -> Result<Vec<(Sequence, Bytes)>, ReadError> {
        self.inner.inbox.check()?;
        let look = self.inner.inbox.look(queue, from, limit_bytes);
        let engine = self.inner.engine.get().map_err(|_| ReadError::NoRoom)?;
        let slice = reading::read(engine.as_ref(), queue, (from, limit_bytes), look);
        if matches!(slice, Err(ReadError::Damaged { .. })) {
            self.inner.inbox.suspect();
        }
        slice
    }

    /// Everything up to here is on disk for good.
    pub fn durable(&self) -> Ticket {
        self.inner.inbox.durable()
    }

    /// Bytes of messages in memory that wait for their commit.
    pub fn pending_bytes(&self) -> usize {
        self.inner.inbox.pending_bytes()
    }

    /// Bytes that the rows occupy on the disk, as of the last commit.
    pub fn disk_bytes(&self) -> u64 {
        self.inner.inbox.disk_bytes.load(Ordering::Relaxed)
    }

    /// Commits everything, syncs, and ends the committer. Other handles get [`Stopped`] from then on.
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
        if let Some(engine) = self.engine.take() {
            close(engine);
        }
        outcome
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever wants to know the outcome calls `close`; a failure has been announced by the committer.
        let _ = self.close();
    }
}
