//! Removes the bindings to what was deleted. Very many bindings to a queue are removed in pieces,
//! and others use the tables in between; until then they lead nowhere. Depends on `exchanges` to
//! delete auto-delete exchanges with their last binding.
//!
//! A new queue of the same name is made when nothing of the old one is left. What a crash leaves of
//! it is removed at the next start.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Destination, Tables, Vhost};
use crate::delivery::effects::Effects;
use crate::exchange::Binding;
use crate::fault::Fault;
use crate::lock::{read, write};
use crate::persist::Ticket;

/// Bindings that are removed before others may use the tables.
const PIECE: usize = 256;
/// What it costs to remove a binding, in steps.
const UNBINDING: u32 = 8;

/// The exchanges that still have bindings to a destination.
pub(super) type BindingSources = HashSet<Arc<str>>;

impl Vhost {
    /// Removes every binding to an exchange that has left the tables.
    pub(super) fn detach(&self, tables: &mut Tables, exchange: &Arc<str>) -> Result<Ticket, Fault> {
        let destination = Destination::Exchange(Arc::clone(exchange));
        let mut sources = tables.sources.remove(&destination).unwrap_or_default();
        let all = self.detach_some(tables, &destination, &mut sources, usize::MAX)?;
        Ok(all.1)
    }

    /// Removes the first bindings to a queue that has left the tables. Where there are more, the
    /// effects say so.
    pub(super) fn begin_detaching(
        &self,
        tables: &mut Tables,
        queue: &Arc<str>,
        effects: &mut Effects,
    ) -> Result<Ticket, Fault> {
        let destination = Destination::Queue(Arc::clone(queue));
        let sources = tables.sources.remove(&destination).unwrap_or_default();
        self.detach_piece(tables, (queue, sources), effects)
    }

    /// Removes the next ones. Where there are still more, the effects say so.
    pub(crate) fn go_on_detaching(
        &self,
        queue: &Arc<str>,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let mut tables = write(&self.tables);
        let Some(sources) = tables.detaching.remove(queue) else {
            return Ok(());
        };
        let ticket = self.detach_piece(&mut tables, (queue, sources), effects)?;
        self.move_on();
        self.note_change(ticket);
        Ok(())
    }

    /// Whether bindings to a deleted queue of this name are left.
    pub(crate) fn is_detaching(&self, queue: &str) -> bool {
        read(&self.tables).detaching.contains_key(queue)
    }

    /// Removes the rest at once.
    pub(super) fn finish_detaching(&self, tables: &mut Tables, queue: &str) -> Result<(), Fault> {
        let Some((queue, mut sources)) = tables.detaching.remove_entry(queue) else {
            return Ok(());
        };
        let destination = Destination::Queue(queue);
        let rest = self.detach_some(tables, &destination, &mut sources, usize::MAX)?;
        self.note_change(rest.1);
        Ok(())
    }

    fn detach_piece(
        &self,
        tables: &mut Tables,
        (queue, mut sources): (&Arc<str>, BindingSources),
        effects: &mut Effects,
    ) -> Result<Ticket, Fault> {
        let destination = Destination::Queue(Arc::clone(queue));
        let (count, ticket) = self.detach_some(tables, &destination, &mut sources, PIECE)?;
        effects.spend(
            u32::try_from(count)
                .unwrap_or(u32::MAX)
                .saturating_mul(UNBINDING),
        );
        if !sources.is_empty() {
            tables.detaching.insert(Arc::clone(queue), sources);
            effects
                .detaching
                .push((Arc::clone(&self.name), Arc::clone(queue)));
        }
        Ok(ticket)
    }

    /// Removes at most so many bindings to a destination, and the auto-delete exchanges that lose
    /// their last binding by this. Returns their number; what is left of `sources` has more.
    fn detach_some(
        &self,
        tables: &mut Tables,
        destination: &Destination,
        sources: &mut BindingSources,
        most: usize,
    ) -> Result<(usize, Ticket), Fault> {
        let (mut count, mut ticket) = (0, Ticket::NONE);
        let (mut done, mut unbound) = (Vec::new(), Vec::new());
        for source in sources.iter() {
            if count >= most {
                break;
            }
            // Looking at one that has none costs too.
            count += 1;
            let Some(exchange) = tables.exchanges.get_mut(source) else {
                done.push(Arc::clone(source));
                continue;
            };
            let removed = exchange.remove_destination(destination, most - count + 1);
            count += removed.len().saturating_sub(1);
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
                    ticket = ticket.max(self.definitions.forget(&definition)?);
                }
            }
            if !exchange.leads_to(destination) {
                done.push(Arc::clone(source));
            }
        }
        for source in done {
            sources.remove(&source);
        }
        // One that has lost none is newer than the bindings.
        for source in unbound {
            let exchange = tables.exchanges.get(&source);
            if exchange.is_some_and(|it| it.is_unused() && it.declaration().auto_delete) {
                ticket = ticket.max(self.drop_exchange(tables, &source)?);
            }
        }
        Ok((count, ticket))
    }
}
