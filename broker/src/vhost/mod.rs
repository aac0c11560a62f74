//! One vhost: its exchanges, queues and bindings by name.
//!
//! Look-ups take the read lock of the tables, declares and deletes the write lock. Every change
//! increments a generation, which tells channels that the routes they have cached are stale. While
//! the write lock is held, a queue's lock is taken only to read its counters and to close it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock, RwLockWriteGuard};

use crate::exchange::{Declaration, Exchange, ExchangeType};
use crate::fault::Fault;
use crate::lock::{lock, read, write};
use crate::memory::{self, ACCESS, KindCharge};
use crate::persist::{DefinitionStore, Stopped, Ticket};
use crate::queue::{Counters, Queue};
use crate::stats::ChannelCounters;
use crate::wire::table::Table;

mod bindings;
mod dead_letters;
mod definitions;
mod detaching;
mod exchanges;
mod publish;
mod queues;
mod recovery;
mod removal;
mod reply_to;
mod routing;

pub(crate) use bindings::BindRequest;
use dead_letters::LetterLogs;
pub(crate) use dead_letters::routing_keys;
use detaching::Detaching;
pub use publish::Published;
pub(crate) use publish::{ONE_OF_MANY_STEPS, RoutedPublish, copy_steps};
pub(crate) use queues::{Declare, DeclareOrigin, DeleteCondition};
pub(crate) use removal::VhostContents;
pub(crate) use reply_to::ReplyConsumer;
pub(crate) use reply_to::{REPLY_TO, REPLY_TO_PREFIX};

/// What a binding routes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A queue in the same vhost.
    Queue(Arc<str>),
    /// Another exchange in the same vhost.
    Exchange(Arc<str>),
}

/// The description and tags of a vhost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VhostLabels {
    /// The description.
    pub description: String,
    /// The tags.
    pub tags: Vec<String>,
}

/// The bytes of a vhost without its texts and its predeclared exchanges.
const VHOST_BYTES: usize = 2048;

impl VhostLabels {
    /// Returns about how much memory a vhost with these labels and nothing in it uses, in bytes.
    pub(crate) fn footprint(&self, name: &str) -> usize {
        let tags = self.tags.iter().map(|tag| 64 + tag.len());
        VHOST_BYTES + 2 * name.len() + self.description.len() + tags.sum::<usize>()
    }
}

/// One vhost.
#[derive(Debug)]
pub struct Vhost {
    name: Arc<str>,
    labels: RwLock<(VhostLabels, KindCharge)>,
    /// The sums of all closed channels.
    pub(crate) closed_channels: ChannelCounters,
    /// The sums of all deleted queues.
    deleted_queues: Mutex<Counters>,
    tables: RwLock<Tables>,
    /// Incremented by every change that can make a cached route wrong.
    generation: AtomicU64,
    replies: Mutex<HashMap<Box<str>, ReplyConsumer>>,
    definitions: DefinitionStore,
    /// The ticket of the newest change to durable topology.
    changed: Mutex<Ticket>,
    letter_logs: LetterLogs,
}

#[derive(Debug, Default)]
struct Tables {
    exchanges: HashMap<Arc<str>, Exchange<Destination>>,
    queues: HashMap<Arc<str>, Arc<Queue>>,
    /// The names of exclusive queues, by their connection.
    exclusive: BTreeSet<(u64, Arc<str>)>,
    /// For each destination, the exchanges that have bindings to it.
    sources: HashMap<Destination, HashSet<Arc<str>>>,
    /// What was deleted and has bindings left.
    detaching: Detaching,
    /// The vhost is deleted: a connection that is still in it makes nothing new.
    is_deleted: bool,
}

/// The exchanges that every vhost has.
const PREDECLARED: [(&str, ExchangeType); 7] = [
    ("", ExchangeType::Direct),
    ("amq.direct", ExchangeType::Direct),
    ("amq.fanout", ExchangeType::Fanout),
    ("amq.topic", ExchangeType::Topic),
    ("amq.headers", ExchangeType::Headers),
    ("amq.match", ExchangeType::Headers),
    ("amq.rabbitmq.trace", ExchangeType::Topic),
];

impl Vhost {
    /// Combines everything that is published and settled while the guard exists into one commit.
    pub(crate) fn pause_commits(&self) -> crate::persist::CommitPause {
        self.definitions.pause_commits()
    }

    /// Creates a vhost with the predeclared exchanges.
    pub(crate) fn new(name: Arc<str>, labels: VhostLabels, definitions: DefinitionStore) -> Self {
        let mut tables = Tables::default();
        for (exchange, _) in PREDECLARED {
            if let Some(declaration) = Self::predeclared(exchange) {
                let made = Exchange::new(exchange, declaration);
                tables.exchanges.insert(exchange.into(), made);
            }
        }
        let charge = ACCESS.charge(labels.footprint(&name));
        Self {
            name,
            labels: RwLock::new((labels, charge)),
            closed_channels: ChannelCounters::default(),
            deleted_queues: Mutex::default(),
            tables: RwLock::new(tables),
            generation: AtomicU64::new(1),
            replies: Mutex::default(),
            definitions,
            changed: Mutex::new(Ticket::NONE),
            letter_logs: LetterLogs::default(),
        }
    }

    /// Refuses a new vhost for whose predeclared exchanges there is no room.
    pub(crate) fn check_room(name: &str) -> Result<(), Fault> {
        let predeclared = PREDECLARED.iter().filter_map(|(exchange, _)| {
            let declaration = Self::predeclared(exchange)?;
            Some(Exchange::<Destination>::footprint(exchange, &declaration))
        });
        check_room(predeclared.sum(), || format!("make vhost '{name}'"))
    }

    /// Returns the declaration of a predeclared exchange of this name.
    pub(crate) fn predeclared(name: &str) -> Option<Declaration> {
        let mut all = PREDECLARED.into_iter();
        let (_, kind) = all.find(|(exchange, _)| *exchange == name)?;
        Some(Declaration {
            kind,
            durable: true,
            auto_delete: false,
            internal: name == "amq.rabbitmq.trace",
            arguments: Table::new(),
        })
    }

    /// Returns the name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether a queue was declared here, and not in an older vhost of the same name.
    pub(crate) fn is_home_of(&self, queue: &Queue) -> bool {
        Arc::ptr_eq(&self.name, queue.vhost())
    }

    /// Returns the description and tags.
    pub fn labels(&self) -> VhostLabels {
        read(&self.labels).0.clone()
    }

    pub(crate) fn set_labels(&self, labels: VhostLabels) {
        let mut known = write(&self.labels);
        known.1.set(labels.footprint(&self.name));
        known.0 = labels;
    }

    /// Returns the sums of all deleted queues.
    pub(crate) fn deleted_queues(&self) -> Counters {
        *lock(&self.deleted_queues)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Returns the ticket of the newest change to durable topology.
    pub(crate) fn changed(&self) -> Ticket {
        *lock(&self.changed)
    }

    /// Marks every cached route as stale.
    pub(crate) fn move_on(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Records a durable change. Returns the newest ticket; replies about durable objects wait for
    /// it.
    fn note_change(&self, ticket: Ticket) -> Ticket {
        let mut changed = lock(&self.changed);
        *changed = (*changed).max(ticket);
        *changed
    }

    /// Locks the tables to add something, unless the vhost is deleted.
    fn open_tables(&self) -> Result<RwLockWriteGuard<'_, Tables>, Fault> {
        let tables = write(&self.tables);
        if tables.is_deleted {
            return Err(Fault::vhost_deleted(&self.name));
        }
        Ok(tables)
    }

    /// Returns the queue of this name.
    pub fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        read(&self.tables).queues.get(name).cloned()
    }

    /// Returns the queue of this name, or the fault for a 404.
    pub(crate) fn queue_or_fault(&self, name: &str) -> Result<Arc<Queue>, Fault> {
        self.queue(name)
            .ok_or_else(|| Fault::no_queue(name, &self.name))
    }

    /// Returns all queues, in no particular order.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        read(&self.tables).queues.values().cloned().collect()
    }

    /// Returns the number of queues.
    pub fn queue_count(&self) -> usize {
        read(&self.tables).queues.len()
    }

    /// Calls `with` on the exchange of this name.
    pub fn with_exchange<R>(
        &self,
        name: &str,
        with: impl FnOnce(&Exchange<Destination>) -> R,
    ) -> Option<R> {
        read(&self.tables).exchanges.get(name).map(with)
    }

    /// Calls `with` on every exchange, in no particular order.
    pub fn each_exchange(&self, mut with: impl FnMut(&Exchange<Destination>)) {
        read(&self.tables).exchanges.values().for_each(&mut with);
    }
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Self::store_stopped()
    }
}

/// Removes line breaks from a name, as RabbitMQ does before it looks at one.
pub(crate) fn strip_breaks(name: &str) -> String {
    name.replace(['\r', '\n'], "")
}

/// Refuses a request with which exchanges, queues and bindings would exceed their memory limit.
/// `what` is the request in words, such as `declare queue 'q'`.
fn check_room(bytes: usize, what: impl FnOnce() -> String) -> Result<(), Fault> {
    let kind = &memory::TOPOLOGY;
    if kind.has_room(bytes) {
        return Ok(());
    }
    Err(Fault::no_room(
        &what(),
        "exchanges, queues and bindings",
        kind.limit(),
    ))
}

/// Refuses a name with the prefix that is reserved for the server.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<(), Fault> {
    if name.starts_with("amq.") {
        return Err(Fault::refused(format!(
            "{kind} name '{name}' contains reserved prefix 'amq.*'"
        )));
    }
    Ok(())
}
