//! Routes a message from an exchange and routing key to queues: follows alternate exchanges and
//! exchange-to-exchange bindings, and reports each queue once. Depends on `exchange`.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Destination, Tables, Vhost};
use crate::exchange::{Exchange, ExchangeType, RoutingSteps};
use crate::fault::Fault;
use crate::lock::read;
use crate::queue::Queue;
use crate::stats::ExchangeCounters;
use crate::wire::table::Table;

/// The queues for messages with one exchange and routing key.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueRoute {
    pub(crate) queues: Vec<Arc<Queue>>,
    /// True if only the exchange and key decided the route. It is then valid until the vhost
    /// changes.
    pub(crate) is_lasting: bool,
    /// The counters of the exchange that was published to.
    pub(crate) counters: Arc<ExchangeCounters>,
    /// The work that it was to find it, in steps of a unit of work.
    pub(crate) steps: u32,
    /// False if finding it was too much work, so that queues are missing.
    pub(crate) is_whole: bool,
}

impl QueueRoute {
    /// Refuses a message for which queues are missing.
    pub(crate) fn check_whole(&self) -> Result<(), Fault> {
        if self.is_whole {
            return Ok(());
        }
        let reason = format!(
            "invalid message: finding its queues takes more than {} steps",
            RoutingSteps::MOST
        );
        Err(Fault::precondition(reason))
    }
}

/// The traversal of the exchanges for one message.
struct ExchangeWalk<'a> {
    tables: &'a Tables,
    headers: Option<&'a Table>,
    exchanges: FoundExchanges<'a>,
    found: RoutedQueues,
    steps: RoutingSteps,
    is_lasting: bool,
}

/// The exchanges found.
struct FoundExchanges<'a> {
    tables: &'a Tables,
    /// Those that are not visited yet.
    left: Vec<&'a Exchange<Destination>>,
    seen: HashSet<&'a str>,
}

impl FoundExchanges<'_> {
    /// Adds an exchange if it exists, and returns whether it is new.
    fn add(&mut self, name: &str) -> bool {
        let Some((name, exchange)) = self.tables.exchanges.get_key_value(name) else {
            return false;
        };
        let is_new = self.seen.insert(name);
        if is_new {
            self.left.push(exchange);
        }
        is_new
    }
}

/// The queues found, without duplicates, in the order in which they were found.
#[derive(Default)]
struct RoutedQueues {
    queues: Vec<Arc<Queue>>,
    /// The addresses of the same queues; empty for up to [`FEW`] queues.
    seen: HashSet<*const Queue>,
}

/// Up to this many queues are compared one by one.
const FEW: usize = 16;

impl RoutedQueues {
    /// Returns whether the queue is new.
    fn add(&mut self, queue: &Arc<Queue>) -> bool {
        let is_new = if self.queues.len() < FEW {
            !self.queues.iter().any(|other| Arc::ptr_eq(other, queue))
        } else {
            if self.seen.is_empty() {
                self.seen.extend(self.queues.iter().map(Arc::as_ptr));
            }
            self.seen.insert(Arc::as_ptr(queue))
        };
        if is_new {
            self.queues.push(Arc::clone(queue));
        }
        is_new
    }
}

impl Vhost {
    /// Finds the queues for a message. The first of `keys` is its routing key; the others come from
    /// its CC and BCC headers, and may repeat. Returns `None` if the exchange does not exist.
    pub(crate) fn route(
        &self,
        exchange: &str,
        keys: &[&[u8]],
        headers: Option<&Table>,
    ) -> Option<QueueRoute> {
        let tables = read(&self.tables);
        let first = tables.exchanges.get(exchange)?;
        let keys = distinct(keys);
        let mut walk = ExchangeWalk {
            tables: &tables,
            headers,
            exchanges: FoundExchanges {
                tables: &tables,
                left: vec![first],
                seen: HashSet::from([exchange]),
            },
            found: RoutedQueues::default(),
            steps: RoutingSteps::default(),
            is_lasting: keys.len() == 1,
        };
        while let Some(exchange) = walk.exchanges.left.pop() {
            walk.visit(exchange, &keys);
        }
        let steps = walk.steps.taken() + walk.found.queues.len();
        Some(QueueRoute {
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            is_whole: !walk.steps.are_too_many(),
            queues: walk.found.queues,
            is_lasting: walk.is_lasting,
            counters: Arc::clone(first.counters()),
        })
    }
}

/// The keys without repetitions, in their order.
fn distinct<'a>(keys: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut seen = HashSet::with_capacity(keys.len());
    let keys = keys.iter().copied();
    keys.filter(|key| seen.insert(*key)).collect()
}

impl<'a> ExchangeWalk<'a> {
    fn visit(&mut self, exchange: &'a Exchange<Destination>, keys: &[&[u8]]) {
        if exchange.kind() == ExchangeType::Headers {
            self.is_lasting = false;
        }
        let has_matched = if exchange.name().is_empty() {
            self.visit_default(keys)
        } else {
            self.visit_bound(exchange, keys)
        };
        if !has_matched && let Some(alternate) = exchange.alternate() {
            self.exchanges.add(alternate);
        }
    }

    /// The default exchange, where each key is the name of a queue. Returns whether one is.
    fn visit_default(&mut self, keys: &[&[u8]]) -> bool {
        let names = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
        self.steps.add(keys.len());
        let mut has_matched = false;
        for queue in names.filter_map(|name| self.tables.queues.get(name)) {
            has_matched = true;
            self.found.add(queue);
        }
        has_matched
    }

    /// Any other exchange. Returns whether a binding to something that exists matched.
    fn visit_bound(&mut self, exchange: &'a Exchange<Destination>, keys: &[&[u8]]) -> bool {
        let mut has_matched = false;
        let Self {
            tables,
            headers,
            exchanges,
            found,
            steps,
            ..
        } = self;
        exchange.route(keys, *headers, steps, &mut |destination| {
            match destination {
                Destination::Queue(name) => {
                    let queue = tables.queues.get(name);
                    // The queue may be deleted, and its bindings not removed yet.
                    has_matched |= queue.is_some();
                    queue.is_some_and(|queue| found.add(queue))
                }
                Destination::Exchange(name) => {
                    has_matched |= tables.exchanges.contains_key(name);
                    exchanges.add(name)
                }
            }
        });
        has_matched
    }
}
