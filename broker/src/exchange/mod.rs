//! Exchanges: which destinations a message goes to, by its routing key or headers.
//!
//! This module is pure. It sends, stores and locks nothing, and a destination is any type that can
//! be compared and hashed. A binding is the triple of destination, routing key and arguments; an
//! exchange holds each triple once. Every kind of exchange keeps an index, so the cost of routing
//! depends on the bindings that match, not on the number of bindings. Depends on field tables, on
//! `stats` for its counters and on `memory` for what exchanges and bindings are charged.
//!
//! # Cost
//! Direct and fanout: one hash look-up, no allocation. Topic: the active trie nodes for each word
//! of the key. Headers: one look-up for each header, then the bindings that share a value with the
//! message.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::memory::{KindCharge, TOPOLOGY};
use crate::stats::ExchangeCounters;
use crate::wire::table::{Table, Value};

mod bindings;
mod headers;
mod steps;
mod targets;
#[cfg(test)]
mod tests;
mod topic;

pub use bindings::Binding;
use bindings::Bindings;
pub(crate) use bindings::RemovedBindings;
use headers::HeadersIndex;
pub use steps::RoutingSteps;
use targets::{KeyedTargets, Targets};
use topic::Trie;

/// The four exchange types of AMQP 0-9-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeType {
    /// Matches when the message's routing key equals the binding's.
    Direct,
    /// Matches every message.
    Fanout,
    /// Matches when the routing key fits the binding's pattern of words, `*` and `#`.
    Topic,
    /// Matches when the message's headers fit the binding's arguments.
    Headers,
}

impl ExchangeType {
    /// Looks a type up by its name in `exchange.declare`. `None` means an unknown type (503).
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct),
            "fanout" => Some(Self::Fanout),
            "topic" => Some(Self::Topic),
            "headers" => Some(Self::Headers),
            _ => None,
        }
    }

    /// Returns the type's name in `exchange.declare`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

impl fmt::Display for ExchangeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fields of `exchange.declare`, except the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The exchange type.
    pub kind: ExchangeType,
    /// Whether the exchange survives a restart.
    pub durable: bool,
    /// Whether the exchange is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether clients are forbidden to publish to it.
    pub internal: bool,
    /// All arguments; only `alternate-exchange` has a meaning.
    pub arguments: Table,
}

impl Declaration {
    /// Returns the name in the `alternate-exchange` argument.
    pub fn alternate(&self) -> Option<&str> {
        self.arguments
            .get("alternate-exchange")
            .and_then(Value::as_text)
    }

    /// Refuses an `alternate-exchange` that is not a string.
    pub fn check(&self) -> Result<(), DeclareError> {
        match self.arguments.get("alternate-exchange") {
            Some(value) if value.as_text().is_none() => {
                Err(DeclareError::AlternateType(value.type_name()))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a second declare with `received` is equivalent to this one.
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

    /// Checks the arguments of a binding from an exchange of this type.
    pub(crate) fn check_binding(&self, arguments: &Table) -> Result<(), BindError> {
        if self.kind == ExchangeType::Headers {
            headers::check(arguments)?;
        }
        Ok(())
    }
}

/// Why `exchange.declare` is refused with 406 `PRECONDITION_FAILED`. The reply text also names the
/// exchange: [`DeclareError::text`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// `alternate-exchange` is not a string; holds the name of its type.
    #[error("invalid type '{0}' for arg 'alternate-exchange'")]
    AlternateType(&'static str),
    /// An exchange of this name exists with a different property.
    #[error("inequivalent arg '{name}': {difference}")]
    Inequivalent {
        /// The name of the property.
        name: &'static str,
        /// `received … but current is …`
        difference: String,
    },
}

impl DeclareError {
    /// Formats the reply text for the client, without the name of the reply code.
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

/// Why a binding is refused with 406 `PRECONDITION_FAILED`. Displays as the reply text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// `x-match` is a string, but not one of the four modes.
    #[error("Invalid x-match field value <<{0:?}>>; expected all, any, all-with-x, or any-with-x")]
    MatchValue(String),
    /// `x-match` is not a string.
    #[error("Invalid x-match field type {kind} (value {value}); expected longstr")]
    MatchType {
        /// The type of the value.
        kind: &'static str,
        /// The value as RabbitMQ prints it.
        value: String,
    },
}

/// The result of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindResult {
    /// The binding was added.
    New,
    /// An identical binding exists.
    AlreadyThere,
}

/// The result of an unbind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnbindResult {
    /// The binding was removed.
    Removed,
    /// No such binding exists.
    NotThere,
}

/// The routing index of an exchange, one variant for each type.
#[derive(Debug)]
enum Router<D> {
    Direct(KeyedTargets<D>),
    Fanout(Targets<D>),
    Topic(Trie<D>),
    Headers(HeadersIndex<D>),
}

/// What an exchange uses beside itself, its name and its arguments: its places in the tables, its
/// counters and the first entries of its maps.
const EXCHANGE_BYTES: usize = 1024;
/// What a binding uses beside its names and arguments: its places in the tables by identity, key
/// and destination.
const BINDING_BYTES: usize = 768;
/// The divisor for the part of a binding's memory that is table entries of its exchange: half.
/// These stay allocated when the binding is removed.
const PLACES: usize = 2;

/// A named exchange and its bindings to destinations of type `D`.
#[derive(Debug)]
pub struct Exchange<D> {
    name: String,
    declaration: Declaration,
    bindings: Bindings<D>,
    router: Router<D>,
    counters: Arc<ExchangeCounters>,
    /// The charge for table entries of removed bindings, which new bindings use again.
    room: KindCharge,
    _charge: KindCharge,
}

impl<D: Clone + Eq + Hash> Router<D> {
    fn new(kind: ExchangeType) -> Self {
        match kind {
            ExchangeType::Direct => Self::Direct(KeyedTargets::default()),
            ExchangeType::Fanout => Self::Fanout(Targets::default()),
            ExchangeType::Topic => Self::Topic(Trie::default()),
            ExchangeType::Headers => Self::Headers(HeadersIndex::default()),
        }
    }
}

impl<D: Clone + Eq + Hash> Exchange<D> {
    /// Returns about how much memory an exchange without bindings uses, in bytes.
    pub(crate) fn footprint(name: &str, declaration: &Declaration) -> usize {
        let texts = 4 * name.len() + declaration.arguments.footprint();
        size_of::<Self>() + EXCHANGE_BYTES + texts
    }

    /// Returns about how much memory a binding from this exchange uses, in bytes.
    pub(crate) fn binding_footprint(&self, key: &[u8], arguments: &Table) -> usize {
        let arguments = arguments.footprint();
        let indexed = match self.declaration.kind {
            ExchangeType::Direct | ExchangeType::Fanout => key.len(),
            ExchangeType::Topic => topic::footprint::<D>(key),
            // What is asked for, where it is filed, and the file.
            ExchangeType::Headers => 3 * arguments,
        };
        BINDING_BYTES + 2 * (key.len() + arguments) + indexed
    }

    /// How much of a new binding's memory is already charged, as table entries of removed bindings.
    pub(crate) fn room_for(&self, bytes: usize) -> usize {
        self.room.bytes().min(bytes / PLACES)
    }

    /// Whether an identical binding exists.
    pub(crate) fn has_binding(&self, destination: &D, key: &[u8], arguments: &Table) -> bool {
        self.bindings.find(destination, key, arguments).is_some()
    }

    /// Creates an exchange without bindings.
    pub fn new(name: impl Into<String>, declaration: Declaration) -> Self {
        let name = name.into();
        Self {
            _charge: TOPOLOGY.charge(Self::footprint(&name, &declaration)),
            name,
            bindings: Bindings::default(),
            router: Router::new(declaration.kind),
            declaration,
            counters: Arc::default(),
            room: TOPOLOGY.charge(0),
        }
    }

    /// Returns the counters of messages in and out.
    pub(crate) fn counters(&self) -> &Arc<ExchangeCounters> {
        &self.counters
    }

    /// Returns the name; the default exchange has the empty name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the exchange was declared with.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Returns the exchange type.
    pub fn kind(&self) -> ExchangeType {
        self.declaration.kind
    }

    /// Returns the exchange that receives messages which match no binding here.
    pub fn alternate(&self) -> Option<&str> {
        self.declaration.alternate()
    }

    /// Whether the exchange is the source of no binding.
    pub fn is_unused(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Whether it is an auto-delete exchange, and the source of no binding.
    pub fn is_unused_auto_delete(&self) -> bool {
        self.declaration.auto_delete && self.is_unused()
    }

    /// Adds a binding, or reports that an identical one exists.
    pub fn bind(
        &mut self,
        destination: &D,
        key: impl AsRef<[u8]>,
        arguments: Table,
    ) -> Result<BindResult, BindError> {
        let key = key.as_ref();
        self.declaration.check_binding(&arguments)?;
        let bytes = self.binding_footprint(key, &arguments);
        let insert = self.bindings.insert(destination, (key, arguments), bytes);
        let Some(slot) = insert else {
            return Ok(BindResult::AlreadyThere);
        };
        let room = self.room.bytes().saturating_sub(bytes / PLACES);
        self.room.set(room);
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
        Ok(BindResult::New)
    }

    /// Removes the binding with this destination, key and arguments (in any order).
    pub fn unbind(
        &mut self,
        destination: &D,
        key: impl AsRef<[u8]>,
        arguments: &Table,
    ) -> UnbindResult {
        match self.bindings.find(destination, key.as_ref(), arguments) {
            Some(slot) => {
                self.forget(slot);
                UnbindResult::Removed
            }
            None => UnbindResult::NotThere,
        }
    }

    /// Removes at most so many bindings to `destination` and returns their keys and arguments.
    pub fn remove_destination(&mut self, destination: &D, most: usize) -> Vec<(Box<[u8]>, Table)> {
        let newest = |bindings: &Bindings<D>| bindings.slots_of(destination).last().copied();
        let mut removed = Vec::new();
        while removed.len() < most
            && let Some(entry) = newest(&self.bindings).and_then(|slot| self.forget(slot))
        {
            removed.push((entry.key, entry.arguments));
        }
        removed
    }

    /// Whether there is a binding to `destination`.
    pub fn leads_to(&self, destination: &D) -> bool {
        !self.bindings.slots_of(destination).is_empty()
    }

    fn forget(&mut self, slot: bindings::BindingSlot) -> Option<bindings::BindingEntry<D>> {
        let entry = self.bindings.remove(slot)?;
        match &mut self.router {
            Router::Direct(targets) => targets.remove(&entry.key, &entry.destination),
            Router::Fanout(targets) => targets.remove(&entry.destination),
            Router::Topic(trie) => trie.remove(&entry.key, &entry.destination),
            Router::Headers(index) => index.remove(slot),
        }
        if self.bindings.is_empty() {
            self.bindings = Bindings::default();
            self.router = Router::new(self.declaration.kind);
            self.room.set(0);
        } else {
            self.room.set(self.room.bytes() + entry.bytes() / PLACES);
        }
        Some(entry)
    }

    /// Iterates over all bindings with this exchange as their source, in no particular order.
    pub fn bindings(&self) -> impl Iterator<Item = Binding<'_, D>> {
        self.bindings.iter()
    }

    /// Iterates over the bindings to one destination.
    pub fn bindings_to(&self, destination: &D) -> impl Iterator<Item = Binding<'_, D>> {
        let slots = self.bindings.slots_of(destination).iter();
        slots.filter_map(|&slot| self.bindings.get(slot))
    }

    /// Splits an exchange that must no longer route into its bindings and its routing index, which
    /// takes long to free if there were many.
    pub(crate) fn dismantle(mut self) -> (RemovedBindings<D>, Self) {
        (self.bindings.take_all(), self)
    }

    /// Calls `hit` for each destination of a message with these routing keys, and counts the steps.
    /// A destination may be reported more than once; `hit` returns whether it is new. Only a
    /// headers exchange evaluates `headers`. Fanout and headers exchanges have the same
    /// destinations whatever the keys are.
    ///
    /// Where the steps become too many, some destinations are not reported.
    pub fn route<'a>(
        &'a self,
        keys: &[&[u8]],
        headers: Option<&Table>,
        steps: &mut RoutingSteps,
        hit: &mut impl FnMut(&'a D) -> bool,
    ) {
        match &self.router {
            Router::Fanout(targets) => steps.report(targets.iter(), hit),
            Router::Headers(index) => index.route(headers, steps, hit),
            Router::Direct(targets) => {
                for key in keys {
                    if steps.are_too_many() {
                        return;
                    }
                    steps.add(1);
                    steps.report(targets.matching(key), hit);
                }
            }
            Router::Topic(trie) => {
                for key in keys {
                    trie.route(key, steps, hit);
                }
            }
        }
    }
}
