//! Administrators' changes of vhosts, permissions and limits, in memory and in the store.
//! `vhost_removal` deletes vhosts. Relies on `vhost`, `users`, `quotas` and `persist`.

use std::sync::Arc;

use super::BrokerState;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read, write};
use crate::memory::ACCESS;
use crate::persist::Ticket;
use crate::persist::definition::{
    Definition, PermissionDefinition, QuotaDefinition, VhostDefinition,
};
use crate::quotas::{Quota, QuotaScope};
use crate::users::{Operation, Permissions, Users};
use crate::vhost::{Vhost, VhostLabels};

/// Refuses what would let users, permissions and vhosts hold more memory than they may. `what` is
/// what the client asked for, as `make user 'u'`.
pub(crate) fn check_access_room(bytes: usize, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if bytes == 0 || ACCESS.has_room(bytes) {
        return Ok(());
    }
    let kind = "users, permissions and vhosts";
    Err(Fault::no_room(&what(), kind, ACCESS.limit()))
}

impl BrokerState {
    /// Estimates the bytes that a vhost with these labels takes beyond those of the existing one.
    pub(crate) fn vhost_growth(&self, name: &str, labels: &VhostLabels) -> usize {
        growth(name, self.vhost(name).as_deref(), labels)
    }

    /// Creates a vhost, or sets the labels of an existing one. 405 while an older one of that name
    /// is being deleted.
    pub fn put_vhost(&self, name: &str, labels: VhostLabels) -> Result<Ticket, Fault> {
        // Held to the end: a vhost that goes meanwhile is forgotten afterwards.
        let mut vhosts = write(&self.vhosts);
        if lock(&self.vhosts_being_deleted).contains(name) {
            let reason = format!("vhost '{name}' is being deleted");
            return Err(Fault::channel(ReplyCode::ResourceLocked, reason));
        }
        let known = vhosts.get(name).cloned();
        if let Some(vhost) = &known
            && vhost.labels() == labels
        {
            return Ok(vhost.changed());
        }
        let growth = growth(name, known.as_deref(), &labels);
        check_access_room(growth, || format!("make vhost '{name}'"))?;
        if known.is_none() {
            Vhost::check_room(name)?;
        }
        let definition = VhostDefinition {
            name: name.to_owned(),
            description: labels.description.clone(),
            tags: labels.tags.clone(),
        };
        let ticket = self.definitions.save(&Definition::Vhost(definition))?;
        if let Some(vhost) = known {
            vhost.set_labels(labels);
        } else {
            let vhost = Arc::new(Vhost::new(name.into(), labels, self.definitions.clone()));
            vhosts.insert(name.into(), vhost);
        }
        Ok(ticket)
    }

    /// Sets a user's permissions in a vhost. `None` if the user or the vhost does not exist.
    /// `check` may refuse it while the users are locked.
    pub(crate) fn permit<E: From<Fault>>(
        &self,
        (user, vhost): (&str, &str),
        permissions: Permissions,
        check: impl FnOnce(&Users) -> Result<(), E>,
    ) -> Result<Option<Ticket>, E> {
        let definition = permission_definition(user, vhost, &permissions);
        // Held to the end: a vhost that goes meanwhile takes this right away afterwards, and the
        // store gets changes in their order.
        let mut users = write(&self.users);
        check(&users)?;
        if self.vhost(vhost).is_none() || users.permit(user, vhost, permissions).is_err() {
            return Ok(None);
        }
        let saved = self.definitions.save(&definition).map_err(Fault::from);
        Ok(Some(saved?))
    }

    /// Takes the limits of a deleted vhost or user away.
    pub(crate) fn forget_quota(&self, scope: QuotaScope, name: &str) -> Result<Ticket, Fault> {
        self.change_quota((scope, name), |_| (), |_| Ok(()))
    }

    /// Removes all permissions in a deleted vhost.
    pub(super) fn forget_rights_in(&self, vhost: &str) -> Result<(), Fault> {
        let mut users = write(&self.users);
        for name in users.forget_vhost(vhost) {
            let right = permission_definition(&name, vhost, &Permissions::all());
            self.definitions.forget(&right)?;
        }
        drop(users);
        self.permissions_changed();
        Ok(())
    }

    /// Changes the limits of a vhost or user. One that does not exist has none. `check` may refuse
    /// it while the users are locked.
    pub(crate) fn change_quota<E: From<Fault>>(
        &self,
        (scope, name): (QuotaScope, &str),
        change: impl FnOnce(&mut Quota),
        check: impl FnOnce(&Users) -> Result<(), E>,
    ) -> Result<Ticket, E> {
        // All are held to the end: a vhost or user that goes meanwhile takes its limits away
        // afterwards, and the store gets changes in their order.
        let users = read(&self.users);
        check(&users)?;
        let vhosts = read(&self.vhosts);
        let mut quotas = write(&self.quotas);
        let is_there = match scope {
            QuotaScope::Vhost => vhosts.contains_key(name),
            QuotaScope::User => users.get(name).is_some(),
        };
        let mut quota = quotas.get(scope, name).cloned().unwrap_or_default();
        let before = quota.clone();
        change(&mut quota);
        if !is_there {
            quota = Quota::default();
        }
        if quota == before {
            return Ok(Ticket::NONE);
        }
        quotas.put(scope, name, quota.clone());
        let definition = Definition::Quota(QuotaDefinition {
            scope,
            name: name.to_owned(),
            quota,
        });
        let is_empty = quotas.get(scope, name).is_none();
        let changed = if is_empty {
            self.definitions.forget(&definition)
        } else {
            self.definitions.save(&definition)
        };
        Ok(changed.map_err(Fault::from)?)
    }
}

/// Estimates the bytes that a vhost with these labels takes beyond those of `known`.
fn growth(name: &str, known: Option<&Vhost>, labels: &VhostLabels) -> usize {
    let held = known.map_or(0, |vhost| vhost.labels().footprint(name));
    labels.footprint(name).saturating_sub(held)
}

/// The stored definition of a permission.
pub(crate) fn permission_definition(
    user: &str,
    vhost: &str,
    permissions: &Permissions,
) -> Definition {
    let source = |operation| permissions.source(operation).to_owned();
    Definition::Permission(PermissionDefinition {
        user: user.to_owned(),
        vhost: vhost.to_owned(),
        configure: source(Operation::Configure),
        write: source(Operation::Write),
        read: source(Operation::Read),
    })
}
