//! Names of one vhost → its exchanges and queues; the only registry. Relies on `exchange`, `queue` and `persist`.
//!
//! Lookups read, declares write; a generation that every change moves on tells channels when a route that they remember is
//! no longer to be trusted. No queue's lock is taken while the tables are written to, but for looking at its counts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

use crate::exchange::{Declaration, Exchange, Kind};
use crate::fault::Fault;
use crate::lock::{lock, read};
use crate::persist::{Facts, Stopped, Ticket};
use crate::queue::Queue;
use crate::wire::table::Table;

mod bindings;
mod dead_letters;
mod exchanges;
mod facts;
mod queues;
mod recovery;
mod reply_to;
mod routing;

pub(crate) use bindings::Bind;
pub use dead_letters::Published;
pub(crate) use dead_letters::routing_keys;
pub(crate) use queues::{Condition, Declare};
pub(crate) use reply_to::ReplyConsumer;
pub(crate) use reply_to::{REPLY_TO, REPLY_TO_PREFIX};
pub(crate) use routing::Route;

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A queue of the same vhost.
    Queue(Arc<str>),
    /// Another exchange of the same vhost.
    Exchange(Arc<str>),
}

/// One vhost.
#[derive(Debug)]
pub struct Vhost {
    name: Arc<str>,
    tables: RwLock<Tables>,
    /// Moves on with every change that a remembered route could miss.
    generation: AtomicU64,
    replies: Mutex<HashMap<Box<str>, ReplyConsumer>>,
    facts: Facts,
    /// The ticket of the newest change to durable topology.
    changed: Mutex<Ticket>,
}

#[derive(Debug, Default)]
struct Tables {
    exchanges: HashMap<Arc<str>, Exchange<Destination>>,
    queues: HashMap<Arc<str>, Arc<Queue>>,
    /// Exchanges that have bindings to a destination.
    sources: HashMap<Destination, HashSet<Arc<str>>>,
}

/// Exchanges that every vhost has.
const PREDECLARED: [(&str, Kind); 7] = [
    ("", Kind::Direct),
    ("amq.direct", Kind::Direct),
    ("amq.fanout", Kind::Fanout),
    ("amq.topic", Kind::Topic),
    ("amq.headers", Kind::Headers),
    ("amq.match", Kind::Headers),
    ("amq.rabbitmq.trace", Kind::Topic),
];

impl Vhost {
    /// A vhost with the exchanges that each has.
    pub(crate) fn new(name: Arc<str>, facts: Facts) -> Self {
        let mut tables = Tables::default();
        for (exchange, kind) in PREDECLARED {
            let internal = exchange == "amq.rabbitmq.trace";
            let declaration = Declaration {
                kind,
                durable: true,
                auto_delete: false,
                internal,
                arguments: Table::new(),
            };
            tables
                .exchanges
                .insert(exchange.into(), Exchange::new(exchange, declaration));
        }
        Self {
            name,
            tables: RwLock::new(tables),
            generation: AtomicU64::new(1),
            replies: Mutex::default(),
            facts,
            changed: Mutex::new(Ticket::NONE),
        }
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The ticket of the newest change to what is durable here.
    pub(crate) fn changed(&self) -> Ticket {
        *lock(&self.changed)
    }

    /// No remembered route is to be trusted any more.
    pub(crate) fn move_on(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Remembers the newest durable change; replies about durable things wait for it.
    fn note_change(&self, ticket: Ticket) -> Ticket {
        let mut changed = lock(&self.changed);
        *changed = (*changed).max(ticket);
        *changed
    }

    /// The queue with this name.
    pub fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        read(&self.tables).queues.get(name).cloned()
    }

    /// The same, or 404.
    pub(crate) fn queue_or_fault(&self, name: &str) -> Result<Arc<Queue>, Fault> {
        self.queue(name)
            .ok_or_else(|| Fault::no_queue(name, &self.name))
    }

    /// Every queue, in no order.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        read(&self.tables).queues.values().cloned().collect()
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        read(&self.tables).queues.len()
    }

    /// Runs `with` on the exchange of that name.
    pub fn with_exchange<R>(
        &self,
        name: &str,
        with: impl FnOnce(&Exchange<Destination>) -> R,
    ) -> Option<R> {
        read(&self.tables).exchanges.get(name).map(with)
    }

    /// Runs `with` on every exchange, in no order.
    pub fn each_exchange(&self, mut with: impl FnMut(&Exchange<Destination>)) {
        read(&self.tables).exchanges.values().for_each(&mut with);
    }
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Self::store_stopped()
    }
}

/// RabbitMQ strips line breaks off names before it looks at them.
pub(crate) fn strip_breaks(name: &str) -> String {
    name.replace(['\r', '\n'], "")
}

/// Refuses to make what only the server makes.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<(), Fault> {
    if name.starts_with("amq.") {
        return Err(Fault::refused(format!(
            "{kind} name '{name}' contains reserved prefix 'amq.*'"
        )));
    }
    Ok(())
}
