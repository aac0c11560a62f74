//! Deletes vhosts with everything in them, in as many units of work as that takes. Relies on
//! `vhost` and `administration`.
//!
//! The first commit removes the vhost's record and records that the vhost is being deleted. A start
//! that finds the second record removes the rest of the vhost.

use std::sync::Arc;

use super::BrokerState;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read, write};
use crate::persist::Ticket;
use crate::persist::definition::{Definition, VhostDefinition};
use crate::quotas::QuotaScope;
use crate::registry::ConnectionHandle;
use crate::users::Users;
use crate::vhost::{Vhost, VhostContents};

/// A vhost that was removed from the list. No vhost of its name is created until all of it is
/// removed.
struct VhostRemoval {
    broker: Arc<BrokerState>,
    vhost: Arc<Vhost>,
    contents: VhostContents,
}

impl BrokerState {
    /// Deletes a vhost with everything in it and all rights there, and ends the connections to it.
    /// `check` may refuse it while the users are locked. Runs to the end even if the caller no
    /// longer waits.
    pub(crate) async fn remove_vhost<E: From<Fault>>(
        self: &Arc<Self>,
        name: &str,
        check: impl FnOnce(&Users) -> Result<(), E>,
    ) -> Result<Ticket, E> {
        let Some(mut removal) = self.begin_removal(name, check)? else {
            return Ok(Ticket::NONE);
        };
        let removing = tokio::spawn(async move {
            while removal.remove_some()? {
                tokio::task::yield_now().await;
            }
            removal.finish()
        });
        let removed = removing.await.unwrap_or_else(|_| {
            let reason = "the deletion of a vhost has failed";
            Err(Fault::connection(ReplyCode::InternalError, reason))
        });
        Ok(removed?)
    }

    /// Like [`Self::remove_vhost`], on a thread that may block.
    pub(crate) fn remove_vhost_here(self: &Arc<Self>, name: &str) -> Result<Ticket, Fault> {
        let Some(mut removal) = self.begin_removal(name, |_| Ok::<_, Fault>(()))? else {
            return Ok(Ticket::NONE);
        };
        while removal.remove_some()? {}
        removal.finish()
    }

    /// Removes a vhost from the list, with all rights in it. `None` if it does not exist.
    fn begin_removal<E: From<Fault>>(
        self: &Arc<Self>,
        name: &str,
        check: impl FnOnce(&Users) -> Result<(), E>,
    ) -> Result<Option<VhostRemoval>, E> {
        let _whole = self.definitions.pause_commits();
        let taken = {
            let users = read(&self.users);
            check(&users)?;
            self.take_vhost(name)
        };
        let Some(vhost) = taken else {
            return Ok(None);
        };
        Ok(Some(self.begin_removal_of(vhost)?))
    }

    fn begin_removal_of(self: &Arc<Self>, vhost: Arc<Vhost>) -> Result<VhostRemoval, Fault> {
        let name: &str = vhost.name();
        // No new right can be granted meanwhile, because the vhost is no longer in the list.
        self.forget_rights_in(name)?;
        self.forget_quota(QuotaScope::Vhost, name)?;
        self.definitions.save(&deleted(name))?;
        let definition = VhostDefinition {
            name: name.to_owned(),
            description: String::new(),
            tags: Vec::new(),
        };
        self.definitions.forget(&Definition::Vhost(definition))?;
        self.end_connections_to(name);
        let contents = vhost.begin_removal();
        Ok(VhostRemoval {
            broker: Arc::clone(self),
            vhost,
            contents,
        })
    }

    /// Removes a vhost from the list. None of its name is created until [`VhostRemoval::finish`].
    fn take_vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        let mut vhosts = write(&self.vhosts);
        let vhost = vhosts.remove(name)?;
        lock(&self.vhosts_being_deleted).insert(name.into());
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
    /// Removes contents for one unit of work. False when nothing is left.
    fn remove_some(&mut self) -> Result<bool, Fault> {
        let mut effects = self.broker.begin_unit();
        let is_more = self
            .vhost
            .remove_some_contents(&mut self.contents, &mut effects);
        self.broker.end_unit(effects);
        is_more
    }

    /// Releases the name. Once the ticket is durable, a restart does not restore the vhost.
    fn finish(self) -> Result<Ticket, Fault> {
        let name = self.vhost.name();
        let gone = self.broker.definitions.forget(&deleted(name))?;
        self.broker.tap.forget_vhost(name);
        lock(&self.broker.vhosts_being_deleted).remove(name);
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
