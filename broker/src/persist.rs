//! Saves queues and definitions in the store and reads them back; the only file that names the
//! storage crate.
//!
//! A [`QueueStore`] is a durable queue's place in the store: one store queue for each of its
//! priorities, so that each is in order of its positions. Topology is kept as
//! [`definition::Definition`]s. Relies on the storage crate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

pub(crate) use storage::{
    CommitPause, OpenError, ReadLimit, ReadPlan, Recovered, Settled, Stopped, Store, StoreEvent,
    Ticket, Urgency,
};
use storage::{Definitions, Options, PendingAccount, QueueId, ReadError, Sequence};

use crate::lock::lock;
use crate::memory;

pub mod definition;
mod definitions_file;

use definition::Definition;

/// Queue numbers are reserved in runs of this many, so that not every declare writes the counter.
const RESERVED: u64 = 4096;
/// A queue has a number for each of its priorities.
const MOST_LEVELS: u64 = 256;
const COUNTER: &str = "queue";

/// The contents of the opened store.
pub(crate) struct OpenedStore {
    pub(crate) store: Store,
    pub(crate) definitions: DefinitionStore,
    pub(crate) topology: Vec<Definition>,
    /// Whether every stored definition was decoded and the store lost nothing, so that nothing
    /// exists that `topology` lacks.
    pub(crate) is_whole: bool,
    /// Waiting messages, by number in the store.
    pub(crate) messages: HashMap<u64, Recovered>,
}

/// Opens the store in `folder`; `progress` is called from the store's own thread.
pub(crate) fn open(
    folder: &Path,
    progress: impl Fn(StoreEvent) + Send + Sync + 'static,
) -> Result<OpenedStore, OpenError> {
    let options = Options {
        pending_limit_bytes: memory::store_pending_bytes(),
        pending_account: PendingAccount {
            charge: memory::charge,
            release: memory::release,
        },
        definitions: Some(Definitions {
            render: definitions_file::render,
            parse: definitions_file::parse,
        }),
        ..Options::default()
    };
    let opened = Store::open(folder, options, progress)?;
    let mut topology = Vec::with_capacity(opened.definitions.len());
    let mut is_whole = opened.report.losses.is_empty();
    for (key, value) in &opened.definitions {
        match Definition::decode(key, value) {
            Ok(definition) => topology.push(definition),
            Err(error) => {
                is_whole = false;
                tracing::error!(
                    ?key, %error, "ignored a stored definition that cannot be decoded"
                );
            }
        }
    }
    let counted = topology.iter().find_map(|definition| match definition {
        Definition::Counter { name, next } if name == COUNTER => Some(*next),
        _ => None,
    });
    let messages: HashMap<u64, Recovered> = opened
        .queues
        .into_iter()
        .map(|queue| (queue.queue.0, queue))
        .collect();
    let seen = messages.keys().max().map_or(1, |last| last + 1);
    let next = counted.unwrap_or_else(|| after_queues(&topology)).max(seen);
    let definitions = DefinitionStore {
        store: opened.store.clone(),
        numbers: Arc::new(Mutex::new(QueueNumbers {
            next,
            reserved: next,
        })),
        budget: Arc::default(),
    };
    Ok(OpenedStore {
        store: opened.store,
        definitions,
        topology,
        is_whole,
        messages,
    })
}

/// The first number that no queue can have, if the counter cannot be read.
fn after_queues(topology: &[Definition]) -> u64 {
    let ends = topology.iter().map(|definition| match definition {
        Definition::Queue(queue) => queue.id.saturating_add(MOST_LEVELS),
        Definition::Vhost(_)
        | Definition::DeletedVhost { .. }
        | Definition::Exchange(_)
        | Definition::Binding(_)
        | Definition::User(_)
        | Definition::Permission(_)
        | Definition::SignIn(_)
        | Definition::Quota(_)
        | Definition::Counter { .. } => 1,
    });
    ends.max().unwrap_or(1)
}

/// Saves definitions in the store.
#[derive(Debug, Clone)]
pub struct DefinitionStore {
    store: Store,
    numbers: Arc<Mutex<QueueNumbers>>,
    budget: Arc<WindowBudget>,
}

#[derive(Debug)]
struct QueueNumbers {
    next: u64,
    reserved: u64,
}

impl DefinitionStore {
    /// Keeps a definition, in place of the one with its key.
    pub(crate) fn save(&self, definition: &Definition) -> Result<Ticket, Stopped> {
        self.store.put(&definition.key(), definition.value())
    }

    /// Removes the definition with this one's key.
    pub(crate) fn forget(&self, definition: &Definition) -> Result<Ticket, Stopped> {
        self.store.remove(&definition.key())
    }

    /// Puts every change that is made while the guard lives into one commit of the store.
    pub(crate) fn pause_commits(&self) -> CommitPause {
        self.store.pause_commits()
    }

    /// Assigns a place in the store to a new queue with this many priorities.
    pub(crate) fn queue_store(&self, levels: u64) -> Result<QueueStore, Stopped> {
        let mut numbers = lock(&self.numbers);
        let base = numbers.next;
        numbers.next += levels;
        if numbers.next > numbers.reserved {
            numbers.reserved = numbers.next + RESERVED;
            self.save(&Definition::Counter {
                name: COUNTER.to_owned(),
                next: numbers.reserved,
            })?;
        }
        Ok(QueueStore::new(self, base))
    }

    /// The place of a recovered queue.
    pub(crate) fn queue_store_at(&self, base: u64) -> QueueStore {
        QueueStore::new(self, base)
    }
}

/// Bytes of waiting messages that all queues together keep in memory although the store has them.
///
/// A level reports only larger changes, so that the shared counter is rarely contended.
#[derive(Debug, Default)]
pub(crate) struct WindowBudget {
    held_bytes: AtomicUsize,
}

/// The smallest change that a level reports, except to 0.
const REPORT_BYTES: usize = 16 * 1024;

impl WindowBudget {
    /// Brings what a level last reported up to what it holds, where these differ by
    /// [`REPORT_BYTES`] or more; 0 is always reported.
    pub(crate) fn report(&self, reported: &mut usize, holds: usize) {
        if holds.abs_diff(*reported) < REPORT_BYTES && (holds > 0 || *reported == 0) {
            return;
        }
        if holds > *reported {
            self.held_bytes.fetch_add(holds - *reported, Relaxed);
        } else {
            self.held_bytes.fetch_sub(*reported - holds, Relaxed);
        }
        *reported = holds;
    }

    /// True when windows should not grow.
    pub(crate) fn is_spent(&self) -> bool {
        self.held_bytes.load(Relaxed) >= memory::windows_bytes()
    }
}

/// A durable queue's place in the store.
#[derive(Debug, Clone)]
pub(crate) struct QueueStore {
    store: Store,
    base: u64,
    budget: Arc<WindowBudget>,
}

/// A slice could not be read from the store.
#[derive(Debug, thiserror::Error)]
#[error("cannot read waiting messages: {0}")]
pub(crate) struct ReadFailed(#[source] ReadError);

impl QueueStore {
    fn new(definitions: &DefinitionStore, base: u64) -> Self {
        let (store, budget) = (definitions.store.clone(), Arc::clone(&definitions.budget));
        Self {
            store,
            base,
            budget,
        }
    }

    pub(crate) fn budget(&self) -> &Arc<WindowBudget> {
        &self.budget
    }

    /// The store's number for priority 0; the others follow it.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    fn queue(&self, level: u8) -> QueueId {
        QueueId(self.base + u64::from(level))
    }

    pub(crate) fn append(
        &self,
        level: u8,
        position: u64,
        message: &[u8],
        urgency: Urgency,
    ) -> Result<Ticket, Stopped> {
        self.store
            .append(self.queue(level), Sequence(position), &[message], urgency)
    }

    pub(crate) fn settle(&self, level: u8, position: u64) -> Result<Settled, Stopped> {
        self.store.settle(self.queue(level), Sequence(position))
    }

    /// Like [`Self::settle`], for a settle outside of transactions and moves: on a full disk it
    /// does not wait for them.
    pub(crate) fn settle_alone(&self, level: u8, position: u64) -> Result<Settled, Stopped> {
        self.store
            .settle_alone(self.queue(level), Sequence(position))
    }

    /// Records that everything up to this position was delivered.
    pub(crate) fn delivered(&self, level: u8, through: u64) {
        self.store.delivered(self.queue(level), Sequence(through));
    }

    /// Settles everything up to `through`, delivered or not.
    pub(crate) fn purge(&self, level: u8, through: u64) -> Result<Ticket, Stopped> {
        self.store.purge(self.queue(level), Sequence(through))
    }

    /// Settles everything from `first` to `last`.
    pub(crate) fn settle_all(&self, level: u8, first: u64, last: u64) -> Result<Ticket, Stopped> {
        self.store
            .settle_all(self.queue(level), Sequence(first), Sequence(last))
    }

    /// Removes the whole queue from the store.
    pub(crate) fn drop_all(&self, max_priority: u8) -> Result<Ticket, Stopped> {
        let mut last = Ticket::NONE;
        for level in 0..=max_priority {
            last = last.max(self.store.drop_queue(self.queue(level))?);
        }
        Ok(last)
    }

    /// Plans a read of everything from a position on, which can be made when it is settled.
    pub(crate) fn plan_read(
        &self,
        level: u8,
        from: u64,
        limit: ReadLimit,
    ) -> Result<ReadPlan, Stopped> {
        self.store
            .plan_read(self.queue(level), Sequence(from), limit)
    }

    /// Reads a slice; blocks on the disk. Damaged messages stay where they are, and are logged and
    /// skipped.
    pub(crate) fn read(
        &self,
        level: u8,
        from: u64,
        limit_bytes: usize,
    ) -> Result<Vec<(u64, bytes::Bytes)>, ReadFailed> {
        let mut from = Sequence(from);
        let slice = loop {
            match self.store.read(self.queue(level), from, limit_bytes) {
                Ok(slice) => break slice,
                Err(ReadError::Damaged { queue, first, next }) => {
                    tracing::error!(queue, first, next, "skipped damaged messages");
                    from = Sequence(next);
                }
                Err(error) => return Err(ReadFailed(error)),
            }
        };
        let numbered = slice
            .into_iter()
            .map(|(sequence, bytes)| (sequence.0, bytes));
        Ok(numbered.collect())
    }
}
