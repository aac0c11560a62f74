//! The topology records (exchanges, queues, bindings) that the store keeps. Depends on `persist`.

use super::{Destination, Vhost};
use crate::exchange::{Binding, Declaration};
use crate::persist::records::{BindingFact, Definition, DestinationKind, ExchangeFact, QueueFact};
use crate::queue::QueueIdentity;

impl Vhost {
    pub(super) fn exchange_fact(&self, name: &str, declaration: &Declaration) -> Definition {
        Definition::Exchange(ExchangeFact {
            vhost: self.name.to_string(),
            name: name.to_owned(),
            kind: declaration.kind.as_str().to_owned(),
            auto_delete: declaration.auto_delete,
            internal: declaration.internal,
            arguments: declaration.arguments.clone(),
        })
    }

    pub(super) fn queue_fact(&self, identity: &QueueIdentity, id: u64) -> Definition {
        Definition::Queue(QueueFact {
            vhost: self.name.to_string(),
            name: identity.name.to_string(),
            id,
            auto_delete: identity.auto_delete,
            arguments: identity.table.clone(),
        })
    }

    pub(super) fn binding_fact(
        &self,
        source: &str,
        binding: &Binding<'_, Destination>,
    ) -> Definition {
        let (kind, destination) = match binding.destination {
            Destination::Queue(name) => (DestinationKind::Queue, name),
            Destination::Exchange(name) => (DestinationKind::Exchange, name),
        };
        Definition::Binding(BindingFact {
            vhost: self.name.to_string(),
            source: source.to_owned(),
            kind,
            destination: destination.to_string(),
            key: binding.key.to_vec(),
            arguments: binding.arguments.clone(),
        })
    }
}
