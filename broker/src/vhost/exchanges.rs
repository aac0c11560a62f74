//! Declares and deletes exchanges. Depends on `detaching` for the bindings from and to them.

use super::{Destination, Vhost, check_name, check_room};
use crate::delivery::effects::{Effects, REMOVAL_STEPS};
use crate::exchange::{Declaration, Exchange};
use crate::fault::Fault;
use crate::lock::write;
use crate::persist::Ticket;

impl Vhost {
    /// Creates an exchange, or checks that the existing one is equivalent. `None` while bindings of
    /// an older one of its name are left: the caller tries again.
    pub(crate) fn declare_exchange(
        &self,
        name: &str,
        declaration: Declaration,
    ) -> Result<Option<Ticket>, Fault> {
        let mut tables = self.open_tables()?;
        if let Some(exchange) = tables.exchanges.get(name) {
            let is = exchange.declaration();
            is.check_equivalent(&declaration)
                .map_err(|error| Fault::precondition(error.text(name, &self.name)))?;
            return Ok(Some(if is.durable {
                self.note_change(Ticket::NONE)
            } else {
                Ticket::NONE
            }));
        }
        check_name("exchange", name)?;
        declaration
            .check()
            .map_err(|error| Fault::precondition(error.text(name, &self.name)))?;
        if tables.detaching.has(|| Destination::Exchange(name.into())) {
            return Ok(None);
        }
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
        Ok(Some(ticket))
    }

    /// Deletes an exchange and every binding from and to it. A missing exchange counts as deleted.
    /// `None` with `if-unused` while the exchange is losing bindings to a deleted object: the
    /// caller tries again.
    pub(crate) fn delete_exchange(
        &self,
        name: &str,
        condition: super::DeleteCondition,
        effects: &mut Effects,
    ) -> Result<Option<Ticket>, Fault> {
        if Self::predeclared(name).is_some() {
            let reason = format!(
                "deletion of system exchange '{name}' in vhost '{}' not allowed",
                self.name
            );
            return Err(Fault::refused(reason));
        }
        let mut tables = write(&self.tables);
        let Some(exchange) = tables.exchanges.get(name) else {
            return Ok(Some(Ticket::NONE));
        };
        // A binding to a deleted queue or exchange does not count as use.
        if condition.unused && !exchange.is_unused() {
            if tables.detaching.has_source(name) {
                return Ok(None);
            }
            return Err(Fault::precondition(format!(
                "exchange '{name}' in vhost '{}' in use",
                self.name
            )));
        }
        effects.spend(REMOVAL_STEPS);
        self.drop_exchange(&mut tables, name, effects).map(Some)
    }
}
