//! Connections and channels as JSON.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use super::rated;
use crate::inspect::{ChannelView, ConnectionHandle};
use crate::management::Api;
use crate::management::amqp_json::table_to_json;
use crate::management::rates::{self, CHANNEL_FIELDS, LINK_FIELDS};

/// A connection; `null` fields until its handshake is through.
pub(in crate::management) fn connection(api: &Api, link: &ConnectionHandle) -> Value {
    let mut track = api.rates.link(link.id);
    track.counts = rates::link_counts(link);
    let session = link.session.get();
    let properties = session.map(|session| table_to_json(&session.client_properties));
    let name = properties
        .as_ref()
        .and_then(|properties| properties.get("connection_name"))
        .cloned();
    let state = match (session.is_some(), link.is_blocked.load(Relaxed)) {
        (false, _) => "starting",
        (true, true) => "blocked",
        (true, false) => "running",
    };
    let mut shown = json!({
        "name": link.name,
        "node": api.node,
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "state": state,
        "host": link.local.host,
        "port": link.local.port,
        "peer_host": link.peer.host,
        "peer_port": link.peer.port,
        "ssl": link.is_tls,
        "connected_at": link.connected_at_ms,
        "channels": link.channel_count(),
        "held_bytes": link.held_bytes(),
        "user": session.map(|session| &*session.user),
        "user_who_performed_action": session.map(|session| &*session.user),
        "vhost": session.map(|session| &*session.vhost),
        "auth_mechanism": session.map(|session| session.mechanism),
        "channel_max": session.map(|session| session.channel_max),
        "frame_max": session.map(|session| session.frame_max),
        "timeout": session.map(|session| session.heartbeat_s),
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
pub(in crate::management) fn channel_name(link: &ConnectionHandle, number: u16) -> String {
    format!("{} ({number})", link.name)
}

/// A channel.
pub(in crate::management) fn channel(
    api: &Api,
    link: &ConnectionHandle,
    channel: &ChannelView,
) -> Value {
    let mut track = api.rates.channel(link.id, channel.number);
    track.counts = rates::channel_counts(channel);
    let session = link.session.get();
    json!({
        "name": channel_name(link, channel.number),
        "number": channel.number,
        "node": api.node,
        "state": "running",
        "user": session.map(|session| &*session.user),
        "user_who_performed_action": session.map(|session| &*session.user),
        "vhost": session.map(|session| &*session.vhost),
        "connection_details": {
            "name": link.name, "peer_host": link.peer.host, "peer_port": link.peer.port,
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
