//! Lets connections, channels and queues in where the limits of their vhost and user allow it.
//! Depends on `broker_state` and `quotas`.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use crate::broker_state::BrokerState;
use crate::clean_text::clean;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read};
use crate::quotas::{QuotaKind, QuotaScope};
use crate::registry::{ConnectionHandle, OpenedConnection};

type Links<'a> = MutexGuard<'a, HashMap<u64, Arc<ConnectionHandle>>>;

/// Gives a connection its session, or refuses it. Of two that come at once, the second counts the
/// first.
pub(crate) fn open_connection(
    broker: &BrokerState,
    link: &ConnectionHandle,
    session: OpenedConnection,
) -> Result<(), Fault> {
    let limit = |scope, name: &str| {
        let quotas = read(&broker.quotas);
        quotas.limit(scope, name, QuotaKind::Connections)
    };
    let in_vhost = limit(QuotaScope::Vhost, &session.vhost);
    let of_user = limit(QuotaScope::User, &session.user);
    let links = lock(&broker.links);
    let count = |is_counted: &dyn Fn(&OpenedConnection) -> bool| {
        let sessions = links.values().filter_map(|link| link.session.get());
        sessions.filter(|session| is_counted(session)).count()
    };
    let (vhost, user) = (clean(&session.vhost), clean(&session.user));
    if let Some(limit) = in_vhost
        && count(&|other| other.vhost == session.vhost) >= limit
    {
        return Err(not_allowed(format!(
            "access to vhost '{vhost}' refused for user '{user}': \
             connection limit ({limit}) is reached"
        )));
    }
    if let Some(limit) = of_user
        && count(&|other| other.user == session.user) >= limit
    {
        return Err(not_allowed(format!(
            "connection refused for user '{user}': user connection limit ({limit}) is reached"
        )));
    }
    // Set once, here: nobody else knows the link's session.
    let _ = link.session.set(session);
    Ok(())
}

/// Refuses a channel where its user has as many as are allowed. What is returned is held until the
/// channel is open: then nobody else opens one in between.
pub(crate) fn check_channel<'a>(
    broker: &'a BrokerState,
    user: &str,
) -> Result<Option<Links<'a>>, Fault> {
    let limit = read(&broker.quotas).limit(QuotaScope::User, user, QuotaKind::Channels);
    let Some(limit) = limit else { return Ok(None) };
    let links = lock(&broker.links);
    let is_of_user = |link: &&Arc<ConnectionHandle>| {
        let session = link.session.get();
        session.is_some_and(|session| *session.user == *user)
    };
    let open: usize = links
        .values()
        .filter(is_of_user)
        .map(|link| link.channel_count())
        .sum();
    if open >= limit {
        return Err(not_allowed(format!(
            "number of channels opened for user '{}' has reached the maximum allowed user limit \
             of ({limit})",
            clean(user)
        )));
    }
    Ok(Some(links))
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
