//! Restores a vhost's topology from the store when the broker starts. Depends on `persist`.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Destination, Vhost};
use crate::exchange::{Declaration, Exchange, ExchangeType};
use crate::lock::write;
use crate::persist::Recovered;
use crate::persist::records::{BindingFact, DestinationKind, ExchangeFact, QueueFact};
use crate::queue::arguments::QueueArguments;
use crate::queue::{Queue, QueueIdentity};

impl Vhost {
    /// Restores an exchange. One of an unknown type is skipped.
    pub(crate) fn recover_exchange(&self, fact: &ExchangeFact) {
        let Some(kind) = ExchangeType::parse(&fact.kind) else {
            return tracing::error!(
                exchange = %fact.name, kind = %fact.kind,
                "an exchange of unknown type was not restored"
            );
        };
        let declaration = Declaration {
            kind,
            durable: true,
            auto_delete: fact.auto_delete,
            internal: fact.internal,
            arguments: fact.arguments.clone(),
        };
        write(&self.tables).exchanges.insert(
            fact.name.as_str().into(),
            Exchange::new(fact.name.as_str(), declaration),
        );
    }

    /// Restores a queue and its message counts. The bodies stay in the store.
    pub(crate) fn recover_queue(
        &self,
        fact: &QueueFact,
        messages: &HashMap<u64, Recovered>,
        now_ms: u64,
    ) {
        let arguments = match QueueArguments::parse(&fact.arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                return tracing::error!(
                    queue = %fact.name, reason = %error.text(&fact.name, &fact.vhost),
                    "a queue was not restored"
                );
            }
        };
        let levels = arguments.max_priority.unwrap_or(0);
        let identity = QueueIdentity {
            name: fact.name.as_str().into(),
            vhost: Arc::clone(&self.name),
            durable: true,
            auto_delete: fact.auto_delete,
            owner: None,
            arguments,
            table: fact.arguments.clone(),
        };
        let queue = Queue::new(identity, Some(self.facts.queue_store_at(fact.id)), now_ms);
        for level in 0..=levels {
            if let Some(found) = messages.get(&(fact.id + u64::from(level))) {
                let delivered = found.delivered.map(|through| through.0);
                queue.recover(
                    level,
                    (found.first.0, found.next.0),
                    (found.ready, found.bytes),
                    delivered,
                );
            }
        }
        write(&self.tables)
            .queues
            .insert(Arc::clone(queue.name()), Arc::new(queue));
    }

    /// Restores a binding if both its ends exist.
    pub(crate) fn recover_binding(&self, fact: &BindingFact) {
        let mut tables = write(&self.tables);
        let is_there = match fact.kind {
            DestinationKind::Queue => tables.queues.contains_key(fact.destination.as_str()),
            DestinationKind::Exchange => tables.exchanges.contains_key(fact.destination.as_str()),
        };
        let destination = match fact.kind {
            DestinationKind::Queue => Destination::Queue(fact.destination.as_str().into()),
            DestinationKind::Exchange => Destination::Exchange(fact.destination.as_str().into()),
        };
        let Some(exchange) = tables
            .exchanges
            .get_mut(fact.source.as_str())
            .filter(|_| is_there)
        else {
            return tracing::warn!(
                source = %fact.source, destination = %fact.destination,
                "a binding was not restored: its source or destination is missing"
            );
        };
        if let Err(error) = exchange.bind(&destination, &fact.key, fact.arguments.clone()) {
            return tracing::error!(
                source = %fact.source, %error, "a binding was not restored"
            );
        }
        tables
            .sources
            .entry(destination)
            .or_default()
            .insert(fact.source.as_str().into());
    }
}
