//! The definitions of exchanges, queues and bindings that the store keeps. Depends on `persist`.

use super::{Destination, Vhost};
use crate::exchange::{Binding, Declaration};
use crate::persist::definition::{
    BindingDefinition, Definition, DestinationKind, ExchangeDefinition, QueueDefinition,
};
use crate::queue::QueueIdentity;

impl Vhost {
    pub(super) fn exchange_definition(&self, name: &str, declaration: &Declaration) -> Definition {
        Definition::Exchange(ExchangeDefinition {
            vhost: self.name.to_string(),
            name: name.to_owned(),
            kind: declaration.kind.as_str().to_owned(),
            auto_delete: declaration.auto_delete,
            internal: declaration.internal,
            arguments: declaration.arguments.clone(),
        })
    }

    pub(super) fn queue_definition(&self, identity: &QueueIdentity, id: u64) -> Definition {
        Definition::Queue(QueueDefinition {
            vhost: self.name.to_string(),
            name: identity.name.to_string(),
            id,
            auto_delete: identity.auto_delete,
            arguments: identity.table.clone(),
        })
    }

    pub(super) fn binding_definition(
        &self,
        source: &str,
        binding: &Binding<'_, Destination>,
    ) -> Definition {
        let (kind, destination) = match binding.destination {
            Destination::Queue(name) => (DestinationKind::Queue, name),
            Destination::Exchange(name) => (DestinationKind::Exchange, name),
        };
        Definition::Binding(BindingDefinition {
            vhost: self.name.to_string(),
            source: source.to_owned(),
            kind,
            destination: destination.to_string(),
            key: binding.key.to_vec(),
            arguments: binding.arguments.clone(),
        })
    }
}
