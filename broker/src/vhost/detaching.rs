//! Removes the bindings from and to deleted queues and exchanges. Many are removed in pieces, and
//! other clients use the tables in between; a binding that is still there routes nothing. An
//! auto-delete exchange that loses its last binding is removed in the same way, so a chain of such
//! exchanges needs no deep recursion.
//!
//! A new queue or exchange of the same name is created once no binding of the old one is left. The
//! store loses the record of the deleted object before those of its bindings. After a crash the
//! remaining bindings have no source or no destination, and the next start removes them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{Destination, Tables, Vhost};
use crate::delivery::effects::Effects;
use crate::exchange::{Binding, Exchange, RemovedBindings};
use crate::fault::Fault;
use crate::lock::write;
use crate::persist::Ticket;

/// Bindings that are removed before others may use the tables.
const PIECE: usize = 256;
/// What it costs to remove a binding, in steps.
const UNBINDING: u32 = 8;

/// The remaining bindings of a deleted queue or exchange.
#[derive(Debug, Default)]
struct RemainingBindings {
    /// The exchanges that still have bindings to it.
    sources: HashSet<Arc<str>>,
    /// The bindings from it.
    own: RemovedBindings<Destination>,
    /// Whether the store has records of `own`.
    is_durable: bool,
}

impl RemainingBindings {
    fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.own.len() == 0
    }
}

/// Deleted queues and exchanges that still have bindings.
#[derive(Debug, Default)]
pub(super) struct Detaching {
    remaining: HashMap<Destination, RemainingBindings>,
    /// The keys of `remaining`, in the order in which their next bindings are removed.
    order: VecDeque<Destination>,
    /// A task is removing them.
    has_task: bool,
}

impl Detaching {
    /// Whether this one is among them.
    pub(super) fn has(&self, destination: impl FnOnce() -> Destination) -> bool {
        !self.remaining.is_empty() && self.remaining.contains_key(&destination())
    }

    /// Whether bindings of the exchange to any of them may be left.
    pub(super) fn has_source(&self, exchange: &str) -> bool {
        let mut all = self.remaining.values();
        all.any(|remaining| remaining.sources.contains(exchange))
    }

    fn add(&mut self, destination: Destination, remaining: RemainingBindings) {
        self.order.push_back(destination.clone());
        self.remaining.insert(destination, remaining);
    }

    fn next(&mut self) -> Option<(Destination, RemainingBindings)> {
        let destination = self.order.pop_front()?;
        self.remaining.remove_entry(&destination)
    }

    /// Whether the caller must start a task that removes the rest.
    fn must_start_task(&mut self) -> bool {
        !self.remaining.is_empty() && !std::mem::replace(&mut self.has_task, true)
    }
}

/// What is removed under one lock of the tables, and in one commit of the store.
struct Piece {
    /// How many more bindings are removed.
    left: usize,
    ticket: Ticket,
    /// Deleted objects whose bindings have not been visited yet.
    gone: Vec<(Destination, RemainingBindings)>,
}

impl Piece {
    fn new(gone: Vec<(Destination, RemainingBindings)>) -> Self {
        Self {
            left: PIECE,
            ticket: Ticket::NONE,
            gone,
        }
    }
}

impl Vhost {
    /// Removes the first bindings to a queue that has left the tables.
    pub(super) fn detach_queue(
        &self,
        tables: &mut Tables,
        queue: &Arc<str>,
        effects: &mut Effects,
    ) -> Result<Ticket, Fault> {
        let destination = Destination::Queue(Arc::clone(queue));
        let remaining = RemainingBindings {
            sources: tables.sources.remove(&destination).unwrap_or_default(),
            ..RemainingBindings::default()
        };
        let piece = Piece::new(vec![(destination, remaining)]);
        self.remove_piece(tables, piece, effects)
    }

    /// Removes an exchange from the tables, and the first bindings from and to it.
    pub(super) fn drop_exchange(
        &self,
        tables: &mut Tables,
        name: &str,
        effects: &mut Effects,
    ) -> Result<Ticket, Fault> {
        let _whole = self.definitions.pause_commits();
        let mut piece = Piece::new(Vec::new());
        self.take_exchange(tables, name, &mut piece, effects)?;
        self.remove_piece(tables, piece, effects)
    }

    /// Removes the next bindings to and from what was deleted. False when none are left.
    pub(crate) fn detach_next(&self, effects: &mut Effects) -> Result<bool, Fault> {
        let mut tables = write(&self.tables);
        if let Some(next) = tables.detaching.next() {
            let _whole = self.definitions.pause_commits();
            let removed = self.remove_piece(&mut tables, Piece::new(vec![next]), effects);
            if removed.is_err() {
                // The store has stopped. The next start removes the rest.
                tables.detaching = Detaching::default();
            }
            removed?;
        }
        let is_done = tables.detaching.remaining.is_empty();
        if is_done {
            tables.detaching = Detaching::default();
        }
        Ok(!is_done)
    }

    /// How many bindings from something deleted are left; `None` when none from or to it are.
    #[cfg(test)]
    pub(crate) fn left_of(&self, destination: &Destination) -> Option<usize> {
        let tables = crate::lock::read(&self.tables);
        let remaining = tables.detaching.remaining.get(destination)?;
        Some(remaining.own.len())
    }

    /// Removes the bindings of one piece. If more are left, the effects start a task for them.
    fn remove_piece(
        &self,
        tables: &mut Tables,
        mut piece: Piece,
        effects: &mut Effects,
    ) -> Result<Ticket, Fault> {
        while let Some((destination, mut remaining)) = piece.gone.pop() {
            self.remove_own(tables, &destination, &mut remaining, &mut piece)?;
            self.remove_from_sources(tables, (&destination, &mut remaining), &mut piece, effects)?;
            if !remaining.is_empty() {
                tables.detaching.add(destination, remaining);
            }
        }
        let count = u32::try_from(PIECE - piece.left).unwrap_or(u32::MAX);
        effects.spend(count.saturating_mul(UNBINDING));
        if tables.detaching.must_start_task() {
            effects.detaching.push(Arc::clone(&self.name));
        }
        if piece.ticket == Ticket::NONE {
            return Ok(Ticket::NONE);
        }
        Ok(self.note_change(piece.ticket))
    }

    /// Removes an exchange from the tables and leaves its bindings to the piece.
    fn take_exchange(
        &self,
        tables: &mut Tables,
        name: &str,
        piece: &mut Piece,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some((name, exchange)) = tables.exchanges.remove_entry(name) else {
            return Ok(());
        };
        self.move_on();
        piece.left = piece.left.saturating_sub(1);
        let is_durable = exchange.declaration().durable;
        if is_durable && Self::predeclared(&name).is_none() {
            let definition = self.exchange_definition(&name, exchange.declaration());
            piece.ticket = piece.ticket.max(self.definitions.forget(&definition)?);
        }
        let (own, rest) = exchange.dismantle();
        if own.len() > PIECE {
            effects.free_later(rest);
        }
        let destination = Destination::Exchange(name);
        let remaining = RemainingBindings {
            sources: tables.sources.remove(&destination).unwrap_or_default(),
            own,
            is_durable,
        };
        piece.gone.push((destination, remaining));
        Ok(())
    }

    /// Removes the next bindings from an exchange that was deleted.
    fn remove_own(
        &self,
        tables: &mut Tables,
        source: &Destination,
        remaining: &mut RemainingBindings,
        piece: &mut Piece,
    ) -> Result<(), Fault> {
        let Destination::Exchange(source) = source else {
            return Ok(());
        };
        let removed = remaining.own.take_some(piece.left);
        piece.left -= removed.len();
        for binding in removed.iter() {
            tables.forget_source(binding.destination, source);
            // The destination may have been deleted and declared again: only the record is removed.
            if remaining.is_durable {
                let definition = self.binding_definition(source, &binding);
                piece.ticket = piece.ticket.max(self.definitions.forget(&definition)?);
            }
        }
        Ok(())
    }

    /// Removes the next bindings to a queue or exchange that was deleted, and the auto-delete
    /// exchanges that lose their last binding by this.
    fn remove_from_sources(
        &self,
        tables: &mut Tables,
        (destination, remaining): (&Destination, &mut RemainingBindings),
        piece: &mut Piece,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let (mut done, mut unbound) = (Vec::new(), Vec::new());
        for source in &remaining.sources {
            if piece.left == 0 {
                break;
            }
            let Some(exchange) = tables.exchanges.get_mut(source) else {
                piece.left -= 1;
                done.push(Arc::clone(source));
                continue;
            };
            let removed = exchange.remove_destination(destination, piece.left);
            // Visiting an exchange without such bindings also has a cost.
            piece.left -= removed.len().max(1);
            if !removed.is_empty() {
                unbound.push(Arc::clone(source));
            }
            if exchange.declaration().durable {
                for (key, arguments) in &removed {
                    let binding = Binding {
                        destination,
                        key,
                        arguments,
                    };
                    let definition = self.binding_definition(source, &binding);
                    piece.ticket = piece.ticket.max(self.definitions.forget(&definition)?);
                }
            }
            if !exchange.leads_to(destination) {
                done.push(Arc::clone(source));
            }
        }
        for source in done {
            remaining.sources.remove(&source);
        }
        // One that has lost none is newer than the bindings.
        for source in unbound {
            let exchange = tables.exchanges.get(&source);
            if exchange.is_some_and(Exchange::is_unused_auto_delete) {
                self.take_exchange(tables, &source, piece, effects)?;
            }
        }
        Ok(())
    }
}
