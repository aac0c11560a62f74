//! Checks the limits of vhosts and users when a connection, a channel or a queue is opened.
//! Depends on `broker_state` and `quotas`.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use crate::broker_state::BrokerState;
use crate::clean_text::clean;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read};
use crate::quotas::{QuotaKind, QuotaScope};
use crate::registry::{ConnectionHandle, OpenedConnection};

type Connections<'a> = MutexGuard<'a, HashMap<u64, Arc<ConnectionHandle>>>;

/// Marks a connection as open, or refuses it if its vhost or user has as many as are allowed. The
/// check and the mark are one step under the lock.
pub(crate) fn open_connection(
    broker: &BrokerState,
    connection: &ConnectionHandle,
    opened: OpenedConnection,
) -> Result<(), Fault> {
    let limit = |scope, name: &str| {
        let quotas = read(&broker.quotas);
        quotas.limit(scope, name, QuotaKind::Connections)
    };
    let in_vhost = limit(QuotaScope::Vhost, &opened.vhost);
    let of_user = limit(QuotaScope::User, &opened.user);
    let connections = lock(&broker.connections);
    let count = |is_counted: &dyn Fn(&OpenedConnection) -> bool| {
        let opened = connections
            .values()
            .filter_map(|connection| connection.opened.get());
        opened.filter(|opened| is_counted(opened)).count()
    };
    let (vhost, user) = (clean(&opened.vhost), clean(&opened.user));
    if let Some(limit) = in_vhost
        && count(&|other| other.vhost == opened.vhost) >= limit
    {
        return Err(not_allowed(format!(
            "access to vhost '{vhost}' refused for user '{user}': \
             connection limit ({limit}) is reached"
        )));
    }
    if let Some(limit) = of_user
        && count(&|other| other.user == opened.user) >= limit
    {
        return Err(not_allowed(format!(
            "connection refused for user '{user}': user connection limit ({limit}) is reached"
        )));
    }
    connection.open(opened)
}

/// Refuses a channel if its user has as many as are allowed. The guard that is returned is held
/// until the channel is open, so that no other channel is opened in between.
pub(crate) fn check_channel<'a>(
    broker: &'a BrokerState,
    user: &str,
) -> Result<Option<Connections<'a>>, Fault> {
    let limit = read(&broker.quotas).limit(QuotaScope::User, user, QuotaKind::Channels);
    let Some(limit) = limit else { return Ok(None) };
    let connections = lock(&broker.connections);
    let is_of_user = |connection: &&Arc<ConnectionHandle>| {
        let opened = connection.opened.get();
        opened.is_some_and(|opened| *opened.user == *user)
    };
    let open: usize = connections
        .values()
        .filter(is_of_user)
        .map(|connection| connection.channel_count())
        .sum();
    if open >= limit {
        return Err(not_allowed(format!(
            "number of channels opened for user '{}' has reached the maximum allowed user limit \
             of ({limit})",
            clean(user)
        )));
    }
    Ok(Some(connections))
}

/// The largest number of queues in a vhost.
pub(crate) fn queue_limit(broker: &BrokerState, vhost: &str) -> usize {
    let limit = read(&broker.quotas).limit(QuotaScope::Vhost, vhost, QuotaKind::Queues);
    limit.map_or(broker.limits.queues, |limit| {
        limit.min(broker.limits.queues)
    })
}

fn not_allowed(reason: String) -> Fault {
    Fault::connection(ReplyCode::NotAllowed, reason)
}
