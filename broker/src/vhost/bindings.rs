//! Binds queues and exchanges to exchanges, and unbinds them. Depends on `detaching` to delete
//! auto-delete exchanges with their last binding.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Destination, Tables, Vhost, check_room};
use crate::delivery::effects::Effects;
use crate::exchange::{BindResult, Binding, Exchange, UnbindResult};
use crate::fault::Fault;
use crate::lock::write;
use crate::memory;
use crate::persist::Ticket;
use crate::wire::table::Table;

/// A binding to add or to remove.
#[derive(Debug, Clone)]
pub(crate) struct BindRequest<'a> {
    pub(crate) source: &'a str,
    pub(crate) destination: Destination,
    pub(crate) key: Cow<'a, [u8]>,
    pub(crate) arguments: Table,
    /// The connection that asks; 0 for a request by HTTP.
    pub(crate) connection: u64,
}

#[cfg(test)]
impl<'a> BindRequest<'a> {
    /// A binding with an empty key and without arguments, as asked by HTTP.
    pub(crate) fn plain(source: &'a str, destination: Destination) -> Self {
        Self {
            source,
            destination,
            key: Cow::Borrowed(b""),
            arguments: Table::new(),
            connection: 0,
        }
    }
}

impl Vhost {
    /// Adds a binding. An identical binding that exists stays as it is.
    pub(crate) fn bind(&self, bind: BindRequest<'_>) -> Result<Ticket, Fault> {
        let mut tables = self.open_tables()?;
        if !tables.exchanges.contains_key(bind.source) {
            return Err(Fault::no_exchange(bind.source, &self.name));
        }
        let is_durable = self.check_destination(&tables, &bind)?;
        let Some((source, exchange)) = tables.exchanges.get_key_value(bind.source) else {
            return Err(Fault::no_exchange(bind.source, &self.name));
        };
        let (source, is_durable) = (
            Arc::clone(source),
            is_durable && exchange.declaration().durable,
        );
        let Some(exchange) = tables.exchanges.get_mut(bind.source) else {
            return Err(Fault::no_exchange(bind.source, &self.name));
        };
        let bytes = exchange.binding_footprint(&bind.key, &bind.arguments);
        let bytes = bytes - exchange.room_for(bytes);
        let is_known = || exchange.has_binding(&bind.destination, &bind.key, &bind.arguments);
        if !memory::TOPOLOGY.has_room(bytes) && !is_known() {
            check_room(bytes, || {
                format!(
                    "bind to exchange '{}' in vhost '{}'",
                    bind.source, self.name
                )
            })?;
        }
        let bound = exchange
            .bind(&bind.destination, &bind.key, bind.arguments.clone())
            .map_err(|error| Fault::precondition(error.to_string()))?;
        let ticket = match (bound, is_durable) {
            (_, false) => Ticket::NONE,
            (BindResult::AlreadyThere, true) => self.note_change(Ticket::NONE),
            (BindResult::New, true) => {
                let binding = Binding {
                    destination: &bind.destination,
                    key: &bind.key,
                    arguments: &bind.arguments,
                };
                self.note_change(
                    self.definitions
                        .save(&self.binding_definition(bind.source, &binding))?,
                )
            }
        };
        tables
            .sources
            .entry(bind.destination)
            .or_default()
            .insert(source);
        self.move_on();
        Ok(ticket)
    }

    /// Removes a binding. A binding that does not exist, or whose ends do not, counts as removed.
    pub(crate) fn unbind(
        &self,
        bind: &BindRequest<'_>,
        effects: &mut Effects,
    ) -> Result<Ticket, Fault> {
        let mut tables = write(&self.tables);
        if let Destination::Queue(name) = &bind.destination
            && let Some(queue) = tables.queues.get(name)
        {
            queue.check_access(bind.connection)?;
        }
        let Some(exchange) = tables.exchanges.get_mut(bind.source) else {
            return Ok(Ticket::NONE);
        };
        if exchange.unbind(&bind.destination, &bind.key, &bind.arguments) == UnbindResult::NotThere
        {
            return Ok(Ticket::NONE);
        }
        let must_go = exchange.is_unused_auto_delete();
        if !exchange.leads_to(&bind.destination) {
            tables.forget_source(&bind.destination, bind.source);
        }
        let binding = Binding {
            destination: &bind.destination,
            key: &bind.key,
            arguments: &bind.arguments,
        };
        let mut ticket = match tables.exchanges.get(bind.source) {
            Some(exchange) => self.forget_binding(&tables, exchange, &binding)?,
            None => Ticket::NONE,
        };
        if must_go {
            ticket = ticket.max(self.drop_exchange(&mut tables, bind.source, effects)?);
        }
        self.move_on();
        Ok(self.note_change(ticket))
    }

    /// Checks that the destination exists and may be used. Returns whether it is durable.
    fn check_destination(&self, tables: &Tables, bind: &BindRequest<'_>) -> Result<bool, Fault> {
        match &bind.destination {
            Destination::Queue(name) => {
                let queue = tables
                    .queues
                    .get(name)
                    .ok_or_else(|| Fault::no_queue(name, &self.name))?;
                queue.check_access(bind.connection)?;
                Ok(queue.store().is_some())
            }
            Destination::Exchange(name) => {
                let exchange = tables
                    .exchanges
                    .get(name)
                    .ok_or_else(|| Fault::no_exchange(name, &self.name))?;
                Ok(exchange.declaration().durable)
            }
        }
    }

    /// Deletes a binding's record from the store, if it can have one.
    fn forget_binding(
        &self,
        tables: &Tables,
        source: &Exchange<Destination>,
        binding: &Binding<'_, Destination>,
    ) -> Result<Ticket, Fault> {
        let is_kept = match binding.destination {
            Destination::Queue(name) => {
                let queue = tables.queues.get(name);
                queue.is_some_and(|queue| queue.store().is_some())
                    || tables.detaching.has(|| binding.destination.clone())
            }
            Destination::Exchange(_) => true,
        };
        if !is_kept || !source.declaration().durable {
            return Ok(Ticket::NONE);
        }
        Ok(self
            .definitions
            .forget(&self.binding_definition(source.name(), binding))?)
    }
}

impl Tables {
    /// Records that the exchange has no binding to the destination any more.
    pub(super) fn forget_source(&mut self, destination: &Destination, source: &str) {
        if let Some(sources) = self.sources.get_mut(destination) {
            sources.remove(source);
            if sources.is_empty() {
                self.sources.remove(destination);
            }
        }
    }
}
