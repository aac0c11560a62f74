//! Restores vhosts and users from the store when the broker starts. Depends on `persist`, `vhost`
//! and `users`.

use std::collections::{BTreeMap, HashSet};

use crate::config::{BrokerConfig, FirstUser};
use crate::error::StartError;
use crate::persist::definition::{
    BindingDefinition, Definition, DestinationKind, PermissionDefinition, SignInDefinition,
    UserDefinition, VhostDefinition,
};
use crate::persist::{DefinitionStore, OpenedStore, Stopped, Ticket};
use crate::queue::arguments::QueueArguments;
use crate::quotas::{QuotaScope, Quotas};
use crate::users::{Credential, GUEST, GuestPolicy, Permissions, Tag, Users};
use crate::vhost::{Vhost, VhostLabels};

/// The vhost that always exists.
const ROOT: &str = "/";
const ADMINISTRATOR: &str = "administrator";

/// Everything that was restored.
pub(crate) struct RestoredBroker {
    pub(crate) vhosts: Vec<Vhost>,
    pub(crate) users: Users,
    /// The limits of vhosts and users.
    pub(crate) quotas: Quotas,
    /// The open sign-ins of the management page.
    pub(crate) sign_ins: Vec<SignInDefinition>,
    /// Covers the records that were added. The broker is ready when it is durable.
    pub(crate) ticket: Ticket,
}

/// Restores the vhosts, and adds the default one. The ticket is that of what was added.
fn recover_vhosts(found: &OpenedStore) -> Result<(BTreeMap<String, Vhost>, Ticket), StartError> {
    let new = |name: &str, labels| Vhost::new(name.into(), labels, found.definitions.clone());
    let mut vhosts: BTreeMap<String, Vhost> = BTreeMap::new();
    for definition in &found.topology {
        if let Definition::Vhost(vhost) = definition {
            let labels = VhostLabels {
                description: vhost.description.clone(),
                tags: vhost.tags.clone(),
            };
            vhosts.insert(vhost.name.clone(), new(&vhost.name, labels));
        }
    }
    if vhosts.contains_key(ROOT) {
        return Ok((vhosts, Ticket::NONE));
    }
    let labels = VhostLabels {
        description: "Default virtual host".to_owned(),
        tags: Vec::new(),
    };
    let ticket = found.definitions.save(&Definition::Vhost(VhostDefinition {
        name: ROOT.to_owned(),
        description: labels.description.clone(),
        tags: Vec::new(),
    }))?;
    vhosts.insert(ROOT.to_owned(), new(ROOT, labels));
    Ok((vhosts, ticket))
}

/// Forgets what is left of vhosts whose deletion was cut short.
///
/// Where the store has lost something, or has a definition that cannot be decoded, nothing is
/// deleted: the record of a newer vhost of that name may be missing. What is there stays, and comes
/// back once the vhost is made again and the broker is started.
fn finish_deletions(found: &mut OpenedStore) -> Result<(), Stopped> {
    let deleted: HashSet<String> = found
        .topology
        .iter()
        .filter_map(|definition| match definition {
            Definition::DeletedVhost { name } => Some(name.clone()),
            _ => None,
        })
        .collect();
    // The first commit of a deletion takes the vhost's own record away. Where both are there, the
    // deletion was not answered, or damage brought an old record of it back.
    let lives = |name: &String| {
        let mut all = found.topology.iter();
        all.any(|it| matches!(it, Definition::Vhost(vhost) if vhost.name == *name))
    };
    let (kept, deleted): (HashSet<_>, HashSet<_>) = deleted.into_iter().partition(lives);
    for name in kept {
        tracing::warn!(vhost = %name, "the deletion of a vhost was not finished: it is kept");
        found
            .definitions
            .forget(&Definition::DeletedVhost { name })?;
    }
    if !found.is_whole {
        // Forgotten, because the next start does not find the damage any more.
        for name in deleted {
            tracing::error!(
                vhost = %name,
                "the deletion of a vhost is not finished, because the store has lost definitions: \
                 to have back what is left in it, make the vhost again and restart the broker"
            );
            found
                .definitions
                .forget(&Definition::DeletedVhost { name })?;
        }
        return Ok(());
    }
    if deleted.is_empty() {
        return Ok(());
    }
    let is_gone =
        |definition: &Definition| vhost_of(definition).is_some_and(|it| deleted.contains(it));
    let topology = std::mem::take(&mut found.topology);
    let (gone, kept): (Vec<_>, Vec<_>) = topology.into_iter().partition(is_gone);
    found.topology = kept;
    for definition in &gone {
        if let Definition::Queue(queue) = definition {
            let arguments = QueueArguments::parse_stored(&queue.arguments).ok();
            let levels = arguments.and_then(|arguments| arguments.max_priority);
            let store = found.definitions.queue_store_at(queue.id);
            store.drop_all(levels.unwrap_or(0))?;
        }
        found.definitions.forget(definition)?;
    }
    // Last: it says that there may be others.
    for name in deleted {
        tracing::info!(vhost = %name, "finished the deletion of a vhost");
        found
            .definitions
            .forget(&Definition::DeletedVhost { name })?;
    }
    Ok(())
}

/// The vhost that a record is of, or of something in.
fn vhost_of(definition: &Definition) -> Option<&str> {
    match definition {
        Definition::Vhost(vhost) => Some(&vhost.name),
        Definition::Exchange(exchange) => Some(&exchange.vhost),
        Definition::Queue(queue) => Some(&queue.vhost),
        Definition::Binding(binding) => Some(&binding.vhost),
        Definition::Permission(permission) => Some(&permission.vhost),
        Definition::Quota(quota) if quota.scope == QuotaScope::Vhost => Some(&quota.name),
        _ => None,
    }
}

/// Restores vhosts and users, and adds the default vhost and the first user.
pub(crate) fn recover(
    found: &mut OpenedStore,
    config: &BrokerConfig,
    now_ms: u64,
) -> Result<RestoredBroker, StartError> {
    finish_deletions(found)?;
    let found = &*found;
    let (vhosts, mut ticket) = recover_vhosts(found)?;
    // Bindings come last, because both of their ends must exist.
    for definition in &found.topology {
        match definition {
            Definition::Exchange(exchange) => with(&vhosts, &exchange.vhost, |vhost| {
                vhost.recover_exchange(exchange);
            }),
            Definition::Queue(queue) => with(&vhosts, &queue.vhost, |vhost| {
                vhost.recover_queue(queue, &found.messages, now_ms);
            }),
            _ => {}
        }
    }
    let recorded = recorded_ends(&found.topology);
    let mut orphans = Vec::new();
    // The exchanges that have other bindings, also where those cannot be restored.
    let mut bound = HashSet::new();
    for definition in &found.topology {
        if let Definition::Binding(binding) = definition {
            if found.is_whole && !has_both_ends(binding, &recorded) {
                orphans.push(binding);
            } else {
                bound.insert((&binding.vhost, &binding.source));
                with(&vhosts, &binding.vhost, |vhost| {
                    vhost.recover_binding(binding);
                });
            }
        }
    }
    // The exchanges are deleted before the records, so that after a crash in between the next start
    // finds the same orphans.
    for orphan in &orphans {
        if !bound.contains(&(&orphan.vhost, &orphan.source)) {
            with(&vhosts, &orphan.vhost, |vhost| {
                vhost.delete_if_unbound(&orphan.source, now_ms);
            });
        }
    }
    for orphan in &orphans {
        with(&vhosts, &orphan.vhost, |vhost| vhost.forget_orphan(orphan));
    }
    let mut users = users(&found.topology, config);
    if let Some(first) = &config.first_user {
        ticket = ticket.max(install(&mut users, &found.definitions, first)?);
    }
    Ok(RestoredBroker {
        vhosts: vhosts.into_values().collect(),
        users,
        quotas: quotas(&found.topology),
        sign_ins: sign_ins(&found.topology),
        ticket,
    })
}

/// Kind, vhost and name of every queue and exchange that the store knows, restored or not.
fn recorded_ends(definitions: &[Definition]) -> HashSet<(DestinationKind, &str, &str)> {
    let ends = definitions
        .iter()
        .filter_map(|definition| match definition {
            Definition::Queue(it) => Some((DestinationKind::Queue, &*it.vhost, &*it.name)),
            Definition::Exchange(it) => Some((DestinationKind::Exchange, &*it.vhost, &*it.name)),
            _ => None,
        });
    ends.collect()
}

/// Whether a binding leads from an exchange to something that are both recorded. Predeclared
/// exchanges have no record.
fn has_both_ends(
    binding: &BindingDefinition,
    recorded: &HashSet<(DestinationKind, &str, &str)>,
) -> bool {
    let is_recorded = |kind, name: &str| {
        recorded.contains(&(kind, &*binding.vhost, name))
            || (kind == DestinationKind::Exchange && Vhost::predeclared(name).is_some())
    };
    is_recorded(DestinationKind::Exchange, &binding.source)
        && is_recorded(binding.kind, &binding.destination)
}

fn with(vhosts: &BTreeMap<String, Vhost>, name: &str, act: impl FnOnce(&Vhost)) {
    if let Some(vhost) = vhosts.get(name) {
        act(vhost);
    } else {
        tracing::error!(
            vhost = name,
            "a record of a vhost that does not exist was not restored"
        );
    }
}

fn sign_ins(definitions: &[Definition]) -> Vec<SignInDefinition> {
    let sign_ins = definitions
        .iter()
        .filter_map(|definition| match definition {
            Definition::SignIn(sign_in) => Some(sign_in.clone()),
            _ => None,
        });
    sign_ins.collect()
}

fn quotas(definitions: &[Definition]) -> Quotas {
    let mut quotas = Quotas::default();
    for definition in definitions {
        if let Definition::Quota(definition) = definition {
            quotas.put(definition.scope, &definition.name, definition.quota.clone());
        }
    }
    quotas
}

fn users(definitions: &[Definition], config: &BrokerConfig) -> Users {
    let mut users = Users::new(if config.allow_guest {
        GuestPolicy::LoopbackOnly
    } else {
        GuestPolicy::Refused
    });
    for definition in definitions {
        if let Definition::User(definition) = definition {
            let tags = definition.tags.iter().cloned().map(Tag).collect();
            let password = Credential::from_stored(&definition.password, &definition.scram);
            users.put(&definition.name, password, tags);
        }
    }
    for definition in definitions {
        let Definition::Permission(definition) = definition else {
            continue;
        };
        match Permissions::new(&definition.configure, &definition.write, &definition.read) {
            Ok(permissions) => {
                if users
                    .permit(&definition.user, &definition.vhost, permissions)
                    .is_err()
                {
                    tracing::warn!(
                        user = %definition.user,
                        "permissions of a user who does not exist were not restored"
                    );
                }
            }
            Err(error) => {
                tracing::error!(user = %definition.user, %error, "permissions were not restored");
            }
        }
    }
    // Nothing of `guest` is stored; only the setting of this start counts.
    if config.allow_guest
        && let Ok(password) = Credential::new(GUEST.as_bytes())
    {
        users.put(GUEST, Some(password), vec![Tag(ADMINISTRATOR.to_owned())]);
        if users.permit(GUEST, ROOT, Permissions::all()).is_err() {
            tracing::error!("the permissions of guest could not be set");
        }
    }
    users
}

/// Creates the first user, or updates its password.
fn install(
    users: &mut Users,
    definitions: &DefinitionStore,
    first: &FirstUser,
) -> Result<Ticket, StartError> {
    let is_current = users
        .get(&first.name)
        .and_then(|user| user.password.as_ref())
        .is_some_and(|known| known.hash.is_of(first.password.as_bytes()) && known.scram.is_some());
    if is_current {
        return Ok(Ticket::NONE);
    }
    let password =
        Credential::new(first.password.as_bytes()).map_err(|_| StartError::NoRandomness)?;
    let tags = vec![ADMINISTRATOR.to_owned()];
    let definition = UserDefinition {
        name: first.name.clone(),
        password: password.hash.as_bytes().to_vec(),
        scram: password.stored_scram(),
        tags: tags.clone(),
    };
    let tags = tags.into_iter().map(Tag).collect();
    users.put(&first.name, Some(password), tags);
    if users.permit(&first.name, ROOT, Permissions::all()).is_err() {
        tracing::error!(user = %first.name, "the permissions of the first user could not be set");
    }
    let all = || ".*".to_owned();
    let permission = PermissionDefinition {
        user: first.name.clone(),
        vhost: ROOT.to_owned(),
        configure: all(),
        write: all(),
        read: all(),
    };
    let _both = definitions.pause_commits();
    definitions.save(&Definition::User(definition))?;
    Ok(definitions.save(&Definition::Permission(permission))?)
}

#[cfg(test)]
mod tests;
