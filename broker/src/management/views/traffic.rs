//! Connections and channels as JSON.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use super::rated;
use crate::inspect::{ChannelView, ConnectionHandle};
use crate::management::Api;
use crate::management::amqp_json::table_to_json;
use crate::management::rates::{self, CHANNEL_FIELDS, LINK_FIELDS};

/// A connection; `null` fields until its handshake is through.
pub(in crate::management) fn connection(api: &Api, connection: &ConnectionHandle) -> Value {
    let mut track = api.rates.connection(connection.id);
    track.counts = rates::connection_counts(connection);
    let opened = connection.opened.get();
    let properties = opened.map(|opened| table_to_json(&opened.client_properties()));
    let name = properties
        .as_ref()
        .and_then(|properties| properties.get("connection_name"))
        .cloned();
    let state = match (opened.is_some(), connection.is_blocked.load(Relaxed)) {
        (false, _) => "starting",
        (true, true) => "blocked",
        (true, false) => "running",
    };
    let mut shown = json!({
        "name": connection.name,
        "node": api.node,
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "state": state,
        "host": connection.local.host,
        "port": connection.local.port,
        "peer_host": connection.peer.host,
        "peer_port": connection.peer.port,
        "ssl": connection.is_tls,
        "connected_at": connection.connected_at_ms,
        "channels": connection.channel_count(),
        "held_bytes": connection.held_bytes(),
        "user": opened.map(|opened| &*opened.user),
        "user_who_performed_action": opened.map(|opened| &*opened.user),
        "vhost": opened.map(|opened| &*opened.vhost),
        "auth_mechanism": opened.map(|opened| opened.mechanism),
        "channel_max": opened.map(|opened| opened.channel_max),
        "frame_max": opened.map(|opened| opened.frame_max),
        "timeout": opened.map(|opened| opened.heartbeat_s),
        "client_properties": properties.unwrap_or_else(|| json!({})),
    });
    if let Some(name) = name {
        shown["user_provided_name"] = name;
    }
    for (field, value) in rated(LINK_FIELDS, &track) {
        shown[&field] = value;
    }
    shown
}

/// RabbitMQ's name for a channel.
pub(in crate::management) fn channel_name(connection: &ConnectionHandle, number: u16) -> String {
    format!("{} ({number})", connection.name)
}

/// A channel.
pub(in crate::management) fn channel(
    api: &Api,
    connection: &ConnectionHandle,
    channel: &ChannelView,
) -> Value {
    let mut track = api.rates.channel(connection.id, channel.number);
    track.counts = rates::channel_counts(channel);
    let opened = connection.opened.get();
    json!({
        "name": channel_name(connection, channel.number),
        "number": channel.number,
        "node": api.node,
        "state": "running",
        "user": opened.map(|opened| &*opened.user),
        "user_who_performed_action": opened.map(|opened| &*opened.user),
        "vhost": opened.map(|opened| &*opened.vhost),
        "connection_details": {
            "name": connection.name,
            "peer_host": connection.peer.host,
            "peer_port": connection.peer.port,
        },
        "confirm": channel.is_confirming.load(Relaxed),
        "transactional": channel.is_transactional.load(Relaxed),
        "consumer_count": channel.consumers.load(Relaxed),
        "prefetch_count": channel.prefetch.load(Relaxed),
        "global_prefetch_count": channel.global_prefetch(),
        "messages_unacknowledged": channel.unsettled(),
        "messages_unconfirmed": channel.unconfirmed(),
        "messages_uncommitted": 0,
        "acks_uncommitted": 0,
        "message_stats": rated(CHANNEL_FIELDS, &track),
    })
}
