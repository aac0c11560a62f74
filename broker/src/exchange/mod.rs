//! Exchanges: which destinations a message goes to, by its routing key or headers.
//!
//! Pure: a destination is any key that can be compared and hashed, and nothing here sends, stores or locks. A binding is
//! the triple of destination, routing key and arguments, and an exchange holds each triple once. Every kind keeps an
//! index, so that publishing costs by what matches and not by what is bound. Relies on field tables alone.
//!
//! # Cost
//! Direct and fanout: one hash look-up, no allocation. Topic: the active nodes of its trie for each word. Headers: one
//! look-up a header, then the bindings that share a value with the message.

use std::fmt;
use std::hash::Hash;

use crate::wire::table::{Table, Value};

mod bindings;
mod headers;
mod targets;
#[cfg(test)]
mod tests;
mod topic;

pub use bindings::Binding;
use bindings::Bindings;
use headers::HeadersIndex;
use targets::{KeyedTargets, Targets};
use topic::Trie;

/// The four kinds that AMQP 0-9-1 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The routing key equals the binding's.
    Direct,
    /// Everything.
    Fanout,
    /// The routing key matches the binding's pattern of words, `*` and `#`.
    Topic,
    /// The message's headers match the binding's arguments.
    Headers,
}

impl Kind {
    /// By its name in `exchange.declare`; `None` means 503, unknown exchange type.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct),
            "fanout" => Some(Self::Fanout),
            "topic" => Some(Self::Topic),
            "headers" => Some(Self::Headers),
            _ => None,
        }
    }

    /// Its name in `exchange.declare`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `exchange.declare` says of an exchange, besides its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How it routes.
    pub kind: Kind,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Takes no publishes from clients.
    pub internal: bool,
    /// `alternate-exchange`, and whatever else was sent.
    pub arguments: Table,
}

impl Declaration {
    /// The name in `alternate-exchange`.
    pub fn alternate(&self) -> Option<&str> {
        self.arguments
            .get("alternate-exchange")
            .and_then(Value::as_text)
    }

    /// Refuses an `alternate-exchange` that is no text.
    pub fn check(&self) -> Result<(), DeclareError> {
        match self.arguments.get("alternate-exchange") {
            Some(value) if value.as_text().is_none() => {
                Err(DeclareError::AlternateType(value.type_name()))
            }
            _ => Ok(()),
        }
    }

    /// Whether `received` may declare again what this one declared.
    pub fn check_equivalent(&self, received: &Self) -> Result<(), DeclareError> {
        let differs = |name, received: &dyn fmt::Display, current: &dyn fmt::Display| {
            DeclareError::Inequivalent {
                name,
                difference: format!("received '{received}' but current is '{current}'"),
            }
        };
        if self.kind != received.kind {
            return Err(differs("type", &received.kind, &self.kind));
        }
        for (name, received, current) in [
            ("durable", received.durable, self.durable),
            ("auto_delete", received.auto_delete, self.auto_delete),
            ("internal", received.internal, self.internal),
        ] {
            if received != current {
                return Err(differs(name, &received, &current));
            }
        }
        let name = "alternate-exchange";
        match received.arguments.difference(&self.arguments, name) {
            Some(difference) => Err(DeclareError::Inequivalent { name, difference }),
            None => Ok(()),
        }
    }
}

/// Why a declare is refused, 406 `PRECONDITION_FAILED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclareError {
    /// The type of an `alternate-exchange` that is no text.
    AlternateType(&'static str),
    /// An exchange of this name exists with other properties.
    Inequivalent {
        /// The property.
        name: &'static str,
        /// `received … but current is …`
        difference: String,
    },
}

impl DeclareError {
    /// The text for the client, without the name of the reply code.
    pub fn text(&self, exchange: &str, vhost: &str) -> String {
        let place = format!("exchange '{exchange}' in vhost '{vhost}'");
        match self {
            Self::AlternateType(kind) => {
                format!("invalid type '{kind}' for arg 'alternate-exchange' in {place}")
            }
            Self::Inequivalent { name, difference } => {
                format!("inequivalent arg '{name}' for {place}: {difference}")
            }
        }
    }
}

/// Why a binding is refused, 406 `PRECONDITION_FAILED`; shown as the text for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A word that names no way of matching.
    #[error("Invalid x-match field value <<{0:?}>>; expected all, any, all-with-x, or any-with-x")]
    MatchValue(String),
    /// No word at all.
    #[error("Invalid x-match field type {kind} (value {value}); expected longstr")]
    MatchType {
        /// The type that it had.
        kind: &'static str,
        /// The value as RabbitMQ prints it.
        value: String,
    },
}

/// What a bind changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It was not there before.
    New,
    /// The same triple is bound already.
    AlreadyThere,
}

/// What an unbind changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbound {
    /// It is gone.
    Removed,
    /// There was no such triple.
    NotThere,
}

/// The index of one kind.
#[derive(Debug)]
enum Router<D> {
    Direct(KeyedTargets<D>),
    Fanout(Targets<D>),
    Topic(Trie<D>),
    Headers(HeadersIndex<D>),
}

/// A named exchange with its bindings to destinations of type `D`.
#[derive(Debug)]
pub struct Exchange<D> {
    name: String,
    declaration: Declaration,
    bindings: Bindings<D>,
    router: Router<D>,
}

impl<D: Clone + Eq + Hash> Exchange<D> {
    /// An exchange without bindings.
    pub fn new(name: impl Into<String>, declaration: Declaration) -> Self {
        let router = match declaration.kind {
            Kind::Direct => Router::Direct(KeyedTargets::default()),
            Kind::Fanout => Router::Fanout(Targets::default()),
            Kind::Topic => Router::Topic(Trie::default()),
            Kind::Headers => Router::Headers(HeadersIndex::default()),
        };
        Self {
            name: name.into(),
            declaration,
            bindings: Bindings::default(),
            router,
        }
    }

    /// Its name; empty for the default exchange.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was declared as.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// How it routes.
    pub fn kind(&self) -> Kind {
        self.declaration.kind
    }

    /// Where messages go that match nothing here.
    pub fn alternate(&self) -> Option<&str> {
        self.declaration.alternate()
    }

    /// Whether nothing is bound to it as a source.
    pub fn is_unused(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Adds a binding.
    pub fn bind(
        &mut self,
        destination: &D,
        key: impl AsRef<[u8]>,
        arguments: Table,
    ) -> Result<Bound, BindError> {
        let key = key.as_ref();
        if self.kind() == Kind::Headers {
            headers::check(&arguments)?;
        }
        let Some(slot) = self.bindings.insert(destination, key, arguments) else {
            return Ok(Bound::AlreadyThere);
        };
        match &mut self.router {
            Router::Direct(targets) => targets.add(key, destination),
            Router::Fanout(targets) => targets.add(destination),
            Router::Topic(trie) => trie.add(key, destination),
            Router::Headers(index) => {
                if let Some(binding) = self.bindings.get(slot) {
                    index.add(slot, binding.arguments, destination);
                }
            }
        }
        Ok(Bound::New)
    }

    /// Takes the binding away that has exactly this key and these arguments, in any order.
    pub fn unbind(&mut self, destination: &D, key: impl AsRef<[u8]>, arguments: &Table) -> Unbound {
        match self.bindings.find(destination, key.as_ref(), arguments) {
            Some(slot) => {
                self.forget(slot);
                Unbound::Removed
            }
            None => Unbound::NotThere,
        }
    }

    /// Takes every binding to `destination` away and gives them back as key and arguments.
    pub fn remove_destination(&mut self, destination: &D) -> Vec<(Box<[u8]>, Table)> {
        let slots = self.bindings.slots_of(destination);
        slots
            .into_iter()
            .filter_map(|slot| self.forget(slot))
            .map(|held| (held.key, held.arguments))
            .collect()
    }

    fn forget(&mut self, slot: bindings::Slot) -> Option<bindings::Held<D>> {
        let held = self.bindings.remove(slot)?;
        match &mut self.router {
            Router::Direct(targets) => targets.remove(&held.key, &held.destination),
            Router::Fanout(targets) => targets.remove(&held.destination),
            Router::Topic(trie) => trie.remove(&held.key, &held.destination),
            Router::Headers(index) => index.remove(slot),
        }
        Some(held)
    }

    /// All bindings that have this exchange as their source, in no particular order.
    pub fn bindings(&self) -> impl Iterator<Item = Binding<'_, D>> {
        self.bindings.iter()
    }

    /// All bindings to one destination.
    pub fn bindings_to(&self, destination: &D) -> impl Iterator<Item = Binding<'_, D>> {
        self.bindings
            .slots_of(destination)
            .into_iter()
            .filter_map(|slot| self.bindings.get(slot))
    }

    /// Calls `hit` for each destination of a message; the same one may come more than once. `headers` is asked only by a
    /// headers exchange.
    pub fn route<'a>(
        &'a self,
        key: impl AsRef<[u8]>,
        headers: impl FnOnce() -> Option<Table>,
        hit: &mut impl FnMut(&'a D),
    ) {
        match &self.router {
            Router::Direct(targets) => targets.matching(key.as_ref()).for_each(hit),
            Router::Fanout(targets) => targets.iter().for_each(hit),
            Router::Topic(trie) => trie.route(key.as_ref(), hit),
            Router::Headers(index) => index.route(&headers().unwrap_or_default(), hit),
        }
    }
}
