//! Deletes vhosts with everything in them, in as many units of work as that takes. Relies on
//! `vhost` and `administration`.
//!
//! The first commit takes the vhost away and records that it is being deleted. A start that finds
//! this record forgets what a crash has left of the vhost.

use std::sync::Arc;

use super::BrokerState;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, write};
use crate::persist::Ticket;
use crate::persist::definition::{Definition, VhostDefinition};
use crate::quotas::QuotaScope;
use crate::registry::ConnectionHandle;
use crate::vhost::{Vhost, VhostContents};

/// A vhost that has left the list. Until it is gone whole, none is made under its name.
struct VhostRemoval {
    broker: Arc<BrokerState>,
    vhost: Arc<Vhost>,
    contents: VhostContents,
}

impl BrokerState {
    /// Deletes a vhost with everything in it and all rights there, and ends the connections to it.
    /// Goes on to the end though the caller no longer waits.
    pub async fn remove_vhost(self: &Arc<Self>, name: &str) -> Result<Ticket, Fault> {
        let Some(mut removal) = self.begin_removal(name)? else {
            return Ok(Ticket::NONE);
        };
        let removing = tokio::spawn(async move {
            while removal.go_on()? {
                tokio::task::yield_now().await;
            }
            removal.finish()
        });
        removing.await.unwrap_or_else(|_| {
            let reason = "the deletion of a vhost has failed";
            Err(Fault::connection(ReplyCode::InternalError, reason))
        })
    }

    /// The same on a thread that may be kept busy.
    pub(crate) fn remove_vhost_here(self: &Arc<Self>, name: &str) -> Result<Ticket, Fault> {
        let Some(mut removal) = self.begin_removal(name)? else {
            return Ok(Ticket::NONE);
        };
        while removal.go_on()? {}
        removal.finish()
    }

    /// Takes a vhost away with all rights there. `None` if it is not there.
    fn begin_removal(self: &Arc<Self>, name: &str) -> Result<Option<VhostRemoval>, Fault> {
        let _whole = self.definitions.pause_commits();
        let Some(vhost) = self.take_vhost(name) else {
            return Ok(None);
        };
        // Nobody gets a new right, because the vhost is not there any more.
        self.forget_rights_in(name)?;
        self.change_quota(QuotaScope::Vhost, name, |_| ())?;
        self.definitions.save(&deleted(name))?;
        let definition = VhostDefinition {
            name: name.to_owned(),
            description: String::new(),
            tags: Vec::new(),
        };
        self.definitions.forget(&Definition::Vhost(definition))?;
        self.end_connections_to(name);
        let contents = vhost.begin_removal();
        Ok(Some(VhostRemoval {
            broker: Arc::clone(self),
            vhost,
            contents,
        }))
    }

    /// Takes a vhost from the list. None is made under its name until [`VhostRemoval::finish`].
    fn take_vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        let mut vhosts = write(&self.vhosts);
        let vhost = vhosts.remove(name)?;
        lock(&self.leaving_vhosts).insert(name.into());
        Some(vhost)
    }

    fn end_connections_to(&self, vhost: &str) {
        let fault = Fault::vhost_deleted(vhost);
        let is_in = |connection: &Arc<ConnectionHandle>| {
            let opened = connection.opened.get();
            opened.is_some_and(|opened| *opened.vhost == *vhost)
        };
        for connection in self.connections().into_iter().filter(is_in) {
            connection.end(fault.clone());
        }
    }
}

impl VhostRemoval {
    /// Removes what one unit of work may. False when nothing is left.
    fn go_on(&mut self) -> Result<bool, Fault> {
        let mut effects = self.broker.begin();
        let is_more = self.vhost.go_on_removing(&mut self.contents, &mut effects);
        self.broker.end(effects);
        is_more
    }

    /// Gives the name free. The vhost does not come back once the ticket is durable.
    fn finish(self) -> Result<Ticket, Fault> {
        let name = self.vhost.name();
        let gone = self.broker.definitions.forget(&deleted(name))?;
        lock(&self.broker.leaving_vhosts).remove(name);
        Ok(gone)
    }
}

/// The record that a vhost is being deleted.
fn deleted(name: &str) -> Definition {
    Definition::DeletedVhost {
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
