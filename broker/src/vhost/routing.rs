//! Routes a message from an exchange and routing key to queues: follows alternate exchanges and
//! exchange-to-exchange bindings, and reports each queue once. Depends on `exchange`.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Destination, Tables, Vhost};
use crate::exchange::{Exchange, ExchangeType};
use crate::lock::read;
use crate::queue::Queue;
use crate::stats::Flow;
use crate::wire::table::Table;

/// The queues for messages with one exchange and routing key.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueRoute {
    pub(crate) queues: Vec<Arc<Queue>>,
    /// True if only the exchange and key decided the route. It is then valid until the vhost
    /// changes.
    pub(crate) is_lasting: bool,
    /// The counters of the exchange that was published to.
    pub(crate) flow: Arc<Flow>,
}

/// The traversal of the exchanges for one message.
struct ExchangeWalk<'a> {
    tables: &'a Tables,
    headers: Option<&'a Table>,
    exchanges: Vec<&'a Exchange<Destination>>,
    seen: HashSet<&'a str>,
    found: RoutedQueues,
    is_lasting: bool,
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
    fn add(&mut self, queue: &Arc<Queue>) {
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
    }
}

impl Vhost {
    /// Finds the queues for a message. The first of `keys` is its routing key; the others come from
    /// its CC and BCC headers. Returns `None` if the exchange does not exist.
    pub(crate) fn route(
        &self,
        exchange: &str,
        keys: &[&[u8]],
        headers: Option<&Table>,
    ) -> Option<QueueRoute> {
        let tables = read(&self.tables);
        let first = tables.exchanges.get(exchange)?;
        let mut walk = ExchangeWalk {
            tables: &tables,
            headers,
            exchanges: vec![first],
            seen: HashSet::from([exchange]),
            found: RoutedQueues::default(),
            is_lasting: keys.len() == 1,
        };
        while let Some(exchange) = walk.exchanges.pop() {
            walk.visit(exchange, keys);
        }
        Some(QueueRoute {
            queues: walk.found.queues,
            is_lasting: walk.is_lasting,
            flow: Arc::clone(first.flow()),
        })
    }
}

impl<'a> ExchangeWalk<'a> {
    fn visit(&mut self, exchange: &'a Exchange<Destination>, keys: &[&[u8]]) {
        if exchange.kind() == ExchangeType::Headers {
            self.is_lasting = false;
        }
        let mut hits: Vec<&'a Destination> = Vec::new();
        let mut queues: Vec<&'a str> = Vec::new();
        for &key in keys {
            if exchange.name().is_empty() {
                let name = std::str::from_utf8(key).ok();
                queues.extend(
                    name.and_then(|name| self.tables.queues.get_key_value(name))
                        .map(|(name, _)| &**name),
                );
            } else {
                exchange.route(key, || self.headers.cloned(), &mut |hit| hits.push(hit));
            }
        }
        if hits.is_empty() && queues.is_empty() {
            if let Some(alternate) = exchange.alternate() {
                self.follow(alternate);
            }
            return;
        }
        for hit in hits {
            match hit {
                Destination::Queue(name) => queues.push(name),
                Destination::Exchange(name) => self.follow(name),
            }
        }
        for name in queues {
            if let Some(queue) = self.tables.queues.get(name) {
                self.found.add(queue);
            }
        }
    }

    fn follow(&mut self, name: &str) {
        if let Some((name, exchange)) = self.tables.exchanges.get_key_value(name)
            && self.seen.insert(name)
        {
            self.exchanges.push(exchange);
        }
    }
}
