//! Declares and deletes exchanges. Depends on `bindings` for the bindings from and to them.

use std::sync::Arc;

use super::detaching::BindingSources;
use super::{Destination, PREDECLARED, Tables, Vhost, check_name, check_room};
use crate::delivery::effects::Effects;
use crate::exchange::{Declaration, Exchange};
use crate::fault::Fault;
use crate::lock::{read, write};
use crate::persist::Ticket;

impl Vhost {
    /// Creates an exchange, or checks that the existing one is equivalent.
    pub(crate) fn declare_exchange(
        &self,
        name: &str,
        declaration: Declaration,
    ) -> Result<Ticket, Fault> {
        let mut tables = self.open_tables()?;
        if let Some(exchange) = tables.exchanges.get(name) {
            let is = exchange.declaration();
            is.check_equivalent(&declaration)
                .map_err(|error| Fault::precondition(error.text(name, &self.name)))?;
            return Ok(if is.durable {
                self.note_change(Ticket::NONE)
            } else {
                Ticket::NONE
            });
        }
        check_name("exchange", name)?;
        declaration
            .check()
            .map_err(|error| Fault::precondition(error.text(name, &self.name)))?;
        check_room(
            Exchange::<Destination>::footprint(name, &declaration),
            || format!("declare exchange '{name}' in vhost '{}'", self.name),
        )?;
        let ticket = if declaration.durable {
            self.note_change(
                self.definitions
                    .save(&self.exchange_definition(name, &declaration))?,
            )
        } else {
            Ticket::NONE
        };
        tables
            .exchanges
            .insert(name.into(), Exchange::new(name, declaration));
        self.move_on();
        Ok(ticket)
    }

    /// Deletes an exchange and every binding from and to it. A missing exchange counts as deleted.
    pub(crate) fn delete_exchange(
        &self,
        name: &str,
        condition: super::DeleteCondition,
    ) -> Result<Ticket, Fault> {
        if PREDECLARED
            .iter()
            .any(|(predeclared, _)| *predeclared == name)
        {
            let reason = format!(
                "deletion of system exchange '{name}' in vhost '{}' not allowed",
                self.name
            );
            return Err(Fault::refused(reason));
        }
        let mut tables = write(&self.tables);
        if condition.unused {
            // What leads to a deleted queue is no use.
            let deleted: Vec<_> = tables.deleted_queues_of(name).cloned().collect();
            for queue in deleted {
                self.finish_detaching(&mut tables, &queue)?;
            }
        }
        let Some(exchange) = tables.exchanges.get(name) else {
            return Ok(Ticket::NONE);
        };
        if condition.unused && !exchange.is_unused() {
            return Err(Fault::precondition(format!(
                "exchange '{name}' in vhost '{}' in use",
                self.name
            )));
        }
        let ticket = self.drop_exchange(&mut tables, name)?;
        self.move_on();
        Ok(ticket)
    }

    /// Whether bindings to deleted queues are left that may be all that the exchange has.
    pub(crate) fn is_losing_bindings(&self, exchange: &str) -> bool {
        let tables = read(&self.tables);
        tables.deleted_queues_of(exchange).next().is_some()
    }

    /// Deletes all queues and exchanges of a vhost that is being deleted.
    pub(crate) fn remove_everything(&self, effects: &mut Effects) -> Result<Ticket, Fault> {
        let mut ticket = Ticket::NONE;
        write(&self.tables).is_deleted = true;
        for queue in self.queues() {
            let removed = self.remove_queue(&queue, super::DeleteCondition::default(), effects)?;
            ticket = ticket.max(removed.1);
        }
        let mut tables = write(&self.tables);
        let names: Vec<_> = tables.exchanges.keys().cloned().collect();
        for name in names {
            ticket = ticket.max(self.drop_exchange(&mut tables, &name)?);
        }
        Ok(ticket)
    }

    /// Removes an exchange from the tables, with every binding from and to it.
    pub(super) fn drop_exchange(&self, tables: &mut Tables, name: &str) -> Result<Ticket, Fault> {
        let Some((name, exchange)) = tables.exchanges.remove_entry(name) else {
            return Ok(Ticket::NONE);
        };
        let mut ticket = Ticket::NONE;
        for binding in exchange.bindings() {
            ticket = ticket.max(self.forget_binding(tables, &exchange, &binding)?);
            tables.forget_source(binding.destination, &name);
        }
        ticket = ticket.max(self.detach(tables, &name)?);
        let is_predeclared = PREDECLARED
            .iter()
            .any(|(predeclared, _)| **predeclared == *name);
        if exchange.declaration().durable && !is_predeclared {
            ticket = ticket.max(
                self.definitions
                    .forget(&self.exchange_definition(&name, exchange.declaration()))?,
            );
        }
        Ok(self.note_change(ticket))
    }
}

impl Tables {
    /// Deleted queues to which bindings of the exchange may be left.
    fn deleted_queues_of(&self, exchange: &str) -> impl Iterator<Item = &Arc<str>> {
        let detaching = self.detaching.iter();
        let leads_to = move |(_, sources): &(_, &BindingSources)| sources.contains(exchange);
        detaching.filter(leads_to).map(|(queue, _)| queue)
    }
}
