//! Applies a change of a user's rights to open connections.
//!
//! | change | effect |
//! |---|---|
//! | user deleted, another password | every connection of the user is closed with 320 |
//! | shut out of a vhost | the user's connections to it are closed with 320 |
//! | narrower permissions | consumers of queues that the user may no longer read are cancelled |
//!
//! Publishes, declares and gets check permissions each time, or again after every change
//! ([`BrokerState::permissions_changed`]). The users must be changed before these functions are
//! called. A login or subscription that runs at the same time checks again afterwards. Depends on
//! `broker_state`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker_state::BrokerState;
use crate::delivery::effects::Effects;
use crate::fault::{Fault, ReplyCode};
use crate::lock::read;
use crate::queue::Queue;
use crate::queue::closing::CancelledConsumers;
use crate::queue::consumer::Consumer;
use crate::registry::ConnectionHandle;
use crate::users::Operation;

/// Why a user's connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevokedLogin {
    /// The user was deleted.
    Deleted,
    /// The password was changed; the connected client may not know the new one.
    Password,
}

/// Ends every connection of this user.
pub(crate) fn end_connections(broker: &Arc<BrokerState>, user: &str, loss: RevokedLogin) {
    let reason = match loss {
        RevokedLogin::Deleted => format!("user '{user}' is deleted"),
        RevokedLogin::Password => format!("the password of user '{user}' was changed"),
    };
    let fault = Fault::connection(ReplyCode::ConnectionForced, reason);
    for connection in connections_of(broker, user) {
        connection.end(fault.clone());
    }
    broker.permissions_changed();
}

/// Applies a user's current permissions in a vhost to the user's connections there.
pub(crate) fn restrict(broker: &Arc<BrokerState>, user: &str, vhost: &str) {
    broker.permissions_changed();
    let mut connections = connections_of(broker, user);
    connections.retain(|connection| {
        let opened = connection.opened.get();
        opened.is_some_and(|opened| *opened.vhost == *vhost)
    });
    if connections.is_empty() {
        return;
    }
    if !read(&broker.users).may_enter(user, vhost) {
        let reason = format!("access to vhost '{vhost}' is withdrawn from user '{user}'");
        let fault = Fault::connection(ReplyCode::ConnectionForced, reason);
        for connection in connections {
            connection.end(fault.clone());
        }
        return;
    }
    cancel_consumers(broker, user, vhost, &connections);
}

fn connections_of(broker: &BrokerState, user: &str) -> Vec<Arc<ConnectionHandle>> {
    let mut connections = broker.connections();
    connections.retain(|connection| {
        let opened = connection.opened.get();
        opened.is_some_and(|opened| *opened.user == *user)
    });
    connections
}

/// Cancels the consumers of these connections on queues that the user may not read.
fn cancel_consumers(
    broker: &Arc<BrokerState>,
    user: &str,
    vhost: &str,
    connections: &[Arc<ConnectionHandle>],
) {
    let Some(vhost) = broker.vhost(vhost) else {
        return;
    };
    let by_id = connections
        .iter()
        .map(|connection| (connection.id, connection));
    let connections: HashMap<u64, &Arc<ConnectionHandle>> = by_id.collect();
    let is_theirs =
        |consumer: &Consumer| connections.contains_key(&consumer.subscription.connection);
    let mut effects = broker.begin_unit();
    for queue in vhost.queues() {
        let has_some = queue.with(|state| state.consumers.iter().any(|it| is_theirs(it)));
        let may_read =
            || read(&broker.users).may(user, vhost.name(), Operation::Read, queue.name());
        if !has_some || may_read() {
            continue;
        }
        let consumers = queue.unsubscribe_all(is_theirs, &mut effects);
        cancel(&queue, consumers, &connections, &mut effects);
        if effects.is_spent() {
            broker.end_unit(effects);
            effects = broker.begin_unit();
        }
    }
    broker.end_unit(effects);
}

/// Notifies the clients of consumers that have left their queue. A client without
/// `consumer_cancel_notify` loses its connection.
fn cancel(
    queue: &Queue,
    consumers: Vec<Arc<Consumer>>,
    connections: &HashMap<u64, &Arc<ConnectionHandle>>,
    effects: &mut Effects,
) {
    for consumer in &consumers {
        let subscription = &consumer.subscription;
        if !subscription.wants_cancel
            && let Some(connection) = connections.get(&subscription.connection)
        {
            let reason = format!("reading from queue '{}' is no longer allowed", queue.name());
            connection.end(Fault::connection(ReplyCode::ConnectionForced, reason));
        }
    }
    effects.cancel(CancelledConsumers::new(consumers, None));
}
