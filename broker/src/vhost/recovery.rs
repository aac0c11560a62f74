//! Restores a vhost's topology from the store when the broker starts. Depends on `persist`.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Destination, Vhost};
use crate::delivery::effects::Effects;
use crate::exchange::{Declaration, Exchange, ExchangeType};
use crate::lock::write;
use crate::persist::Recovered;
use crate::persist::definition::{
    BindingDefinition, Definition, DestinationKind, ExchangeDefinition, QueueDefinition,
};
use crate::queue::arguments::QueueArguments;
use crate::queue::{Queue, QueueIdentity};

impl Vhost {
    /// Restores an exchange. One of an unknown type is skipped.
    pub(crate) fn recover_exchange(&self, definition: &ExchangeDefinition) {
        let Some(kind) = ExchangeType::parse(&definition.kind) else {
            return tracing::error!(
                exchange = %definition.name, kind = %definition.kind,
                "an exchange of unknown type was not restored"
            );
        };
        let declaration = Declaration {
            kind,
            durable: true,
            auto_delete: definition.auto_delete,
            internal: definition.internal,
            arguments: definition.arguments.clone(),
        };
        write(&self.tables).exchanges.insert(
            definition.name.as_str().into(),
            Exchange::new(definition.name.as_str(), declaration),
        );
    }

    /// Restores a queue and its message counts. The bodies stay in the store.
    pub(crate) fn recover_queue(
        &self,
        definition: &QueueDefinition,
        messages: &HashMap<u64, Recovered>,
        now_ms: u64,
    ) {
        let arguments = match QueueArguments::parse_stored(&definition.arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                return tracing::error!(
                    queue = %definition.name,
                    reason = %error.text(&definition.name, &definition.vhost),
                    "a queue was not restored"
                );
            }
        };
        let levels = arguments.max_priority.unwrap_or(0);
        let identity = QueueIdentity {
            name: definition.name.as_str().into(),
            vhost: Arc::clone(&self.name),
            durable: true,
            auto_delete: definition.auto_delete,
            owner: None,
            arguments,
            table: definition.arguments.clone(),
        };
        let queue = Queue::new(
            identity,
            Some(self.definitions.queue_store_at(definition.id)),
            now_ms,
        );
        for level in 0..=levels {
            if let Some(found) = messages.get(&(definition.id + u64::from(level))) {
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

    /// Restores a binding if both its ends exist. The record of another one is kept: the end may
    /// have a record that this program cannot use. Another version may.
    pub(crate) fn recover_binding(&self, definition: &BindingDefinition) {
        let mut tables = write(&self.tables);
        let is_there = match definition.kind {
            DestinationKind::Queue => tables.queues.contains_key(definition.destination.as_str()),
            DestinationKind::Exchange => tables
                .exchanges
                .contains_key(definition.destination.as_str()),
        };
        let destination = match definition.kind {
            DestinationKind::Queue => Destination::Queue(definition.destination.as_str().into()),
            DestinationKind::Exchange => {
                Destination::Exchange(definition.destination.as_str().into())
            }
        };
        let Some(exchange) = tables
            .exchanges
            .get_mut(definition.source.as_str())
            .filter(|_| is_there)
        else {
            return tracing::warn!(
                source = %definition.source, destination = %definition.destination,
                "a binding was not restored: its source or destination is missing"
            );
        };
        if let Err(error) =
            exchange.bind(&destination, &definition.key, definition.arguments.clone())
        {
            return tracing::error!(
                source = %definition.source, %error, "a binding was not restored"
            );
        }
        tables
            .sources
            .entry(destination)
            .or_default()
            .insert(definition.source.as_str().into());
    }

    /// Deletes the exchange of a binding whose other end was deleted, if it is an auto-delete one
    /// and has no binding any more.
    pub(crate) fn delete_if_unbound(&self, name: &str, now_ms: u64) {
        let mut effects = Effects::new(now_ms);
        let deleted = {
            let mut tables = write(&self.tables);
            let exchange = tables.exchanges.get(name);
            if !exchange.is_some_and(Exchange::is_unused_auto_delete) {
                return;
            }
            self.drop_exchange(&mut tables, name, &mut effects)
        };
        // Nobody else uses the vhost during the start, so all bindings are removed at once.
        let done = deleted.and_then(|_| {
            while self.detach_next(&mut effects)? {}
            Ok(())
        });
        if let Err(fault) = done {
            tracing::warn!(exchange = name, %fault, "an unused exchange was not deleted");
        }
    }

    /// Removes the record of a binding whose source or destination was deleted just before a crash.
    /// An object that is declared later with the same name must not get the binding.
    pub(crate) fn forget_orphan(&self, orphan: &BindingDefinition) {
        let forgotten = Definition::Binding(orphan.clone());
        if let Err(error) = self.definitions.forget(&forgotten) {
            tracing::warn!(%error, "could not remove a binding whose end was deleted");
        }
        // Logged at debug level because there may be very many.
        tracing::debug!(
            source = %orphan.source, destination = %orphan.destination,
            "removed a binding whose source or destination was deleted"
        );
    }
}
