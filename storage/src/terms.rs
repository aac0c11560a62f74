//! What the store, its caller and its threads exchange: numbers, how soon a commit is wanted,
//! progress, options, what was found, and errors.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::disk::{Disk, FileDisk};
use crate::engine::{OpenIndex, open_sled};

/// A queue's number: chosen by the broker, never used for another queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// A message's number within its queue: chosen by the broker, strictly rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// The number of a batch of changes: what was done under it is durable once
/// [`durable`](crate::Store::durable) has reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// Always durable.
    pub const NONE: Self = Self(0);

    /// The ticket as a number that rises in the same order, for logs.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// How soon an appended message has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A caller waits: with the next commit, which begins as soon as the one before it is over.
    Confirmed,
    /// Nobody waits: within about 10 ms and a sync, so that a consumer that keeps up takes it off
    /// before.
    Eventually,
}

/// What became of a settled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was not on disk and never will be. Its publisher may be told at once that it is safe,
    /// unless it lives on elsewhere (a dead letter): then the ticket of that other message is the
    /// one to wait for.
    Elided,
    /// It is on disk, or about to be; it does not come back once this ticket is durable.
    Recorded(Ticket),
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
    pub(crate) fn take_demand(&self) -> Demand {
        // The bit of a close stays.
        let close = Demand::Close as u8;
        Demand::ALL[usize::from(self.demand.fetch_and(close, Ordering::AcqRel))]
    }

    pub(crate) fn demand(&self) -> Demand {
        Demand::ALL[usize::from(self.demand.load(Ordering::Acquire))]
    }

    /// The committer waits until the demand is higher than `than`, or until the time.
    pub(crate) fn wait_above(&self, than: Demand, until: Instant) -> Demand {
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

/// What the store tells of its own accord.
///
/// Called from the store's thread and, for `Backlogged` and `Drained`, from within the call that
/// crossed the limit, whatever locks that caller holds: note it down and return, and call nothing
/// of the store's.
#[derive(Debug, Clone)]
pub enum StoreEvent {
    /// Everything up to this ticket is durable.
    Durable(Ticket),
    /// The pending bytes have reached their limit: stop reading from publishers of persistent
    /// messages.
    Backlogged,
    /// They are down to half of it again.
    Drained,
    /// The disk is nearly full: commits wait, nothing is lost.
    NoRoom,
    /// There is room again, and commits go on.
    Room,
    /// Nothing more is promised.
    Stopped(Stopped),
}

/// Key and value of a definition.
pub type Stored = (Vec<u8>, Vec<u8>);

/// Why a file of definitions cannot be read. It is reported; no caller treats two causes
/// differently.
pub type ParseFailure = Box<dyn std::error::Error + Send + Sync>;

/// How definitions become a file that people can read, and back. The store itself knows only keys
/// and values.
#[derive(Debug, Clone, Copy)]
pub struct Definitions {
    /// Renders all definitions as one JSON object with at least one member.
    pub render: fn(&[Stored]) -> Vec<u8>,
    /// Reads back what [`render`](Self::render) wrote.
    pub parse: fn(&[u8]) -> Result<Vec<Stored>, ParseFailure>,
}

/// What can be chosen about a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of messages that may wait for their commit before [`StoreEvent::Backlogged`]. 16 MiB.
    pub pending_limit_bytes: usize,
    /// Below this many free bytes on the disk the caller pauses its publishers. 64 MiB.
    pub least_free_bytes: u64,
    /// Bytes of sealed segments from which half empty ones are compacted. 64 MiB.
    pub compact_from_bytes: u64,
    /// Length of a segment, a multiple of 4096. 16 MiB.
    pub segment_bytes: u64,
    /// How often the index is saved while there are changes. 30 s.
    pub checkpoint_every: Duration,
    /// Callbacks that count the memory of pending messages.
    pub pending_account: PendingAccount,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// Opens the engine of the index in a folder.
    pub open_index: OpenIndex,
    /// The readable second copy of the definitions; without it there is none.
    pub definitions: Option<Definitions>,
}

/// Callbacks for pending memory: messages that wait for their commit. They do nothing by default.
#[derive(Debug, Clone, Copy)]
pub struct PendingAccount {
    /// Adds bytes.
    pub charge: fn(usize),
    /// Removes bytes.
    pub release: fn(usize),
}

impl Default for PendingAccount {
    fn default() -> Self {
        Self {
            charge: |_| {},
            release: |_| {},
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pending_limit_bytes: 16 << 20,
            least_free_bytes: 64 << 20,
            compact_from_bytes: 64 << 20,
            segment_bytes: 16 << 20,
            checkpoint_every: Duration::from_secs(30),
            pending_account: PendingAccount::default(),
            disk: Arc::new(FileDisk),
            open_index: open_sled,
            definitions: None,
        }
    }
}

/// One queue as it was found. No body was read for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which queue.
    pub queue: QueueId,
    /// No live message has a lower sequence.
    pub first: Sequence,
    /// The first sequence that was never used.
    pub next: Sequence,
    /// How many messages are alive.
    pub ready: u64,
    /// The bytes that they hold.
    pub bytes: u64,
    /// Everything up to here may have been delivered before.
    pub delivered: Option<Sequence>,
}

/// What was done to a folder to open it, a line each, for the log. Empty after a clean stop, and
/// after most others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Repairs, in their order.
    pub repairs: Vec<String>,
    /// What could not be read and was left out; it was kept on disk.
    pub losses: Vec<String>,
}

impl OpenReport {
    pub(crate) fn repaired(&mut self, line: impl Into<String>) {
        self.repairs.push(line.into());
    }

    pub(crate) fn lost(&mut self, line: impl Into<String>) {
        self.losses.push(line.into());
    }
}

/// Why a folder could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder. It must be ended first, or another folder chosen.
    #[error("the store {} is in use by {}", folder.display(), holder_text(*.holder))]
    InUse {
        /// The store's folder.
        folder: PathBuf,
        /// The process that holds it, where it has written its number down.
        holder: Option<u32>,
    },
    /// The folder was written by a newer program.
    #[error(
        "the store {} has format {found}, this program reads up to {known}: use the newer program",
        folder.display()
    )]
    Newer {
        /// The store's folder.
        folder: PathBuf,
        /// The version found on disk.
        found: u16,
        /// The newest version that this program knows.
        known: u16,
    },
    /// The operating system refused something.
    #[error("the store {} cannot be {doing}: {source}", folder.display())]
    Io {
        /// The store's folder.
        folder: PathBuf,
        /// What was being done, as a participle: "created", "locked".
        doing: &'static str,
        /// The system's own reason.
        source: io::Error,
    },
    /// The folder holds a store of an older format, which this program cannot read.
    #[error(
        "the folder {} holds a store of an older format: \
         move it away, or use the program that wrote it",
        folder.display()
    )]
    OldFormat {
        /// The store's folder.
        folder: PathBuf,
    },
}

impl OpenError {
    /// An error of the system's while something was being done, as a participle.
    pub(crate) fn io(folder: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let folder = folder.to_owned();
        move |source| Self::Io {
            folder,
            doing,
            source,
        }
    }
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// Why a slice of a queue could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Some messages are damaged on disk. They are left there untouched; reading may go on at
    /// `next`.
    #[error("messages of queue {queue} from {first} up to {next} are damaged on disk")]
    Damaged {
        /// The queue read.
        queue: u64,
        /// The first sequence that the damage may cover.
        first: u64,
        /// The first sequence after it.
        next: u64,
    },
    /// The store has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why the store has stopped for good: nothing after the last durable ticket is promised.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Stopped {
    /// It was closed.
    #[error("the store has stopped: it was closed")]
    Closed,
    /// It was closed while commits waited for room on the disk.
    #[error(
        "the store has stopped: it was closed while the disk was full: what was not confirmed is \
         gone"
    )]
    ClosedWhileFull,
    /// The disk failed.
    #[error("the store has stopped: {0}")]
    Disk(#[source] Arc<io::Error>),
    /// The thread that commits panicked.
    #[error("the store has stopped: the committer panicked")]
    Panicked,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Disk(Arc::new(error))
    }
}
