//! Restores vhosts and users from the store when the broker starts. Depends on `persist`, `vhost`
//! and `users`.

use std::collections::BTreeMap;

use crate::config::{BrokerConfig, FirstUser};
use crate::error::StartError;
use crate::persist::records::{Definition, PermissionFact, SessionFact, UserFact, VhostFact};
use crate::persist::{DefinitionStore, OpenedStore, Ticket};
use crate::quotas::Quotas;
use crate::users::{Credential, GUEST, GuestPolicy, Permissions, Tag, Users};
use crate::vhost::{Labels, Vhost};

/// The vhost that always exists.
const ROOT: &str = "/";
const ADMINISTRATOR: &str = "administrator";

/// Everything that was restored.
pub(crate) struct RestoredBroker {
    pub(crate) vhosts: Vec<Vhost>,
    pub(crate) users: Users,
    /// The limits of vhosts and users.
    pub(crate) quotas: Quotas,
    /// The open sessions of the management page.
    pub(crate) sessions: Vec<SessionFact>,
    /// Covers the records that were added. The broker is ready when it is durable.
    pub(crate) ticket: Ticket,
}

/// Restores vhosts and users, and adds the default vhost and the first user.
pub(crate) fn recover(
    found: &OpenedStore,
    config: &BrokerConfig,
    now_ms: u64,
) -> Result<RestoredBroker, StartError> {
    let mut ticket = Ticket::NONE;
    let mut vhosts: BTreeMap<String, Vhost> = BTreeMap::new();
    for fact in &found.topology {
        if let Definition::Vhost(fact) = fact {
            let labels = Labels {
                description: fact.description.clone(),
                tags: fact.tags.clone(),
            };
            vhosts.insert(
                fact.name.clone(),
                Vhost::new(fact.name.as_str().into(), labels, found.facts.clone()),
            );
        }
    }
    if !vhosts.contains_key(ROOT) {
        let labels = Labels {
            description: "Default virtual host".to_owned(),
            tags: Vec::new(),
        };
        let fact = VhostFact {
            name: ROOT.to_owned(),
            description: labels.description.clone(),
            tags: Vec::new(),
        };
        ticket = found.facts.save(&Definition::Vhost(fact))?;
        vhosts.insert(
            ROOT.to_owned(),
            Vhost::new(ROOT.into(), labels, found.facts.clone()),
        );
    }
    // Bindings come last, because both of their ends must exist.
    for fact in &found.topology {
        match fact {
            Definition::Exchange(fact) => {
                with(&vhosts, &fact.vhost, |vhost| vhost.recover_exchange(fact));
            }
            Definition::Queue(fact) => with(&vhosts, &fact.vhost, |vhost| {
                vhost.recover_queue(fact, &found.messages, now_ms);
            }),
            _ => {}
        }
    }
    for fact in &found.topology {
        if let Definition::Binding(fact) = fact {
            with(&vhosts, &fact.vhost, |vhost| vhost.recover_binding(fact));
        }
    }
    let mut users = users(&found.topology, config);
    if let Some(first) = &config.first_user {
        ticket = ticket.max(install(&mut users, &found.facts, first)?);
    }
    Ok(RestoredBroker {
        vhosts: vhosts.into_values().collect(),
        users,
        quotas: quotas(&found.topology),
        sessions: sessions(&found.topology),
        ticket,
    })
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

fn sessions(facts: &[Definition]) -> Vec<SessionFact> {
    let sessions = facts.iter().filter_map(|fact| match fact {
        Definition::Session(session) => Some(session.clone()),
        _ => None,
    });
    sessions.collect()
}

fn quotas(facts: &[Definition]) -> Quotas {
    let mut quotas = Quotas::default();
    for fact in facts {
        if let Definition::Quota(fact) = fact {
            quotas.put(fact.scope, &fact.name, fact.quota.clone());
        }
    }
    quotas
}

fn users(facts: &[Definition], config: &BrokerConfig) -> Users {
    let mut users = Users::new(if config.allow_guest {
        GuestPolicy::LoopbackOnly
    } else {
        GuestPolicy::Refused
    });
    for fact in facts {
        if let Definition::User(fact) = fact {
            let tags = fact.tags.iter().cloned().map(Tag).collect();
            let password = Credential::from_stored(&fact.password, &fact.scram);
            users.put(&fact.name, password, tags);
        }
    }
    for fact in facts {
        let Definition::Permission(fact) = fact else {
            continue;
        };
        match Permissions::new(&fact.configure, &fact.write, &fact.read) {
            Ok(permissions) => {
                if users.permit(&fact.user, &fact.vhost, permissions).is_err() {
                    tracing::warn!(
                        user = %fact.user,
                        "permissions of a user who does not exist were not restored"
                    );
                }
            }
            Err(error) => {
                tracing::error!(user = %fact.user, %error, "permissions were not restored");
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
    facts: &DefinitionStore,
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
    let fact = UserFact {
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
    let permission = PermissionFact {
        user: first.name.clone(),
        vhost: ROOT.to_owned(),
        configure: all(),
        write: all(),
        read: all(),
    };
    let _both = facts.together();
    facts.save(&Definition::User(fact))?;
    Ok(facts.save(&Definition::Permission(permission))?)
}
