//! Vhosts that come and go while the broker runs, as the management API asks for it.

use std::sync::Arc;

use super::Realm;
use crate::fault::{Fault, ReplyCode};
use crate::persist::Ticket;
use crate::persist::records::{Fact, VhostFact};
use crate::vhost::{Condition, Vhost};

impl Realm {
    /// Makes a vhost; one that is there already stays as it is.
    pub(crate) fn add_vhost(&self, name: &str) -> Result<Ticket, Fault> {
        self.vhosts_mut(|vhosts| {
            if vhosts.contains_key(name) {
                return Ok(Ticket::NONE);
            }
            let ticket = self.facts.save(&fact(name))?;
            let name: Arc<str> = name.into();
            let vhost = Vhost::new(Arc::clone(&name), self.facts.clone());
            vhosts.insert(name, Arc::new(vhost));
            Ok(ticket)
        })
    }

    /// Deletes a vhost with everything in it and closes the connections to it. An absent one counts as deleted.
    ///
    /// Its own fact goes last: a crash in between leaves a vhost that can be deleted again, never orphans.
    pub(crate) fn remove_vhost(self: &Arc<Self>, name: &str) -> Result<Ticket, Fault> {
        let Some(vhost) = self.vhosts_mut(|vhosts| vhosts.remove(name)) else {
            return Ok(Ticket::NONE);
        };
        let reason = format!("vhost '{name}' is down");
        for link in self.links() {
            if link
                .session
                .get()
                .is_some_and(|session| *session.vhost == *name)
            {
                link.end(Fault::connection(
                    ReplyCode::ConnectionForced,
                    reason.clone(),
                ));
            }
        }
        let mut turn = self.turn();
        let emptied = empty(&vhost, &mut turn);
        self.end(turn);
        emptied?;
        Ok(self.facts.forget(&fact(name))?)
    }
}

fn empty(vhost: &Vhost, turn: &mut crate::turn::Turn) -> Result<(), Fault> {
    for queue in vhost.queues() {
        vhost.remove_queue(&queue, Condition::default(), turn)?;
    }
    let mut exchanges = Vec::new();
    vhost.each_exchange(|exchange| exchanges.push(exchange.name().to_owned()));
    exchanges.retain(|name| !name.is_empty() && !name.starts_with("amq."));
    for name in exchanges {
        vhost.delete_exchange(&name, Condition::default())?;
    }
    Ok(())
}

fn fact(name: &str) -> Fact {
    Fact::Vhost(VhostFact {
        name: name.to_owned(),
        description: String::new(),
        tags: Vec::new(),
    })
}
