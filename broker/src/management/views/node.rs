//! The broker as a whole as JSON: `overview`, and the one node that there is.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{message_stats, rated};
use crate::inspect::{self, ConnectionHandle};
use crate::management::rates::{QUEUE_FIELDS, TotalRates};
use crate::management::{Api, ListeningPort, system_metrics};
use crate::vhost::Vhost;

/// The version that tools check for compatibility.
const SPOKEN: &str = "3.10.8";
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Free space of the store's disk below which publishers are blocked.
const DISK_FREE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// The whole broker, for those who monitor it.
pub(in crate::management) fn overview(api: &Api) -> Value {
    let totals = api.rates.overall();
    let connections = inspect::connections(&api.broker);
    let mut shown = overview_with(api, &totals, &api.broker.vhosts(), &connections);
    shown["churn_rates"] = churn(api);
    shown["listeners"] = listeners(api).into();
    shown["contexts"] = contexts(api).into();
    shown
}

/// These vhosts and connections alone, for a user who sees no others.
pub(in crate::management) fn overview_of(
    api: &Api,
    vhosts: &[Arc<Vhost>],
    connections: &[Arc<ConnectionHandle>],
) -> Value {
    let totals = api.rates.of_vhosts(vhosts);
    overview_with(api, &totals, vhosts, connections)
}

fn overview_with(
    api: &Api,
    totals: &TotalRates,
    vhosts: &[Arc<Vhost>],
    connections: &[Arc<ConnectionHandle>],
) -> Value {
    let kinds = inspect::EXCHANGE_TYPES
        .map(|kind| json!({ "name": kind.as_str(), "description": "", "enabled": true }));
    json!({
        "management_version": SPOKEN,
        "rabbitmq_version": SPOKEN,
        "product_name": "cbroker",
        "product_version": OWN,
        "cbroker_version": OWN,
        "rates_mode": "basic",
        "sample_retention_policies": { "global": [300], "basic": [300], "detailed": [] },
        "cluster_name": api.node,
        "node": api.node,
        "disable_stats": false,
        "enable_queue_totals": false,
        "statistics_db_event_queue": 0,
        "exchange_types": kinds,
        "message_stats": message_stats(totals),
        "queue_totals": queue_totals(totals),
        "object_totals": object_totals(vhosts, connections),
    })
}

fn queue_totals(totals: &TotalRates) -> Map<String, Value> {
    let mut totals = rated(QUEUE_FIELDS, &totals.queues);
    totals.retain(|field, _| field.starts_with("messages"));
    totals
}

fn churn(api: &Api) -> Value {
    let totals = &api.broker.totals;
    json!({
        "connection_created": totals.connections_opened.get(),
        "connection_closed": totals.connections_closed.get(),
        "channel_created": totals.channels_opened.get(),
        "channel_closed": totals.channels_closed.get(),
        "queue_declared": totals.queues_declared.get(),
        "queue_created": totals.queues_declared.get(),
        "queue_deleted": totals.queues_deleted.get(),
    })
}

fn object_totals(vhosts: &[Arc<Vhost>], connections: &[Arc<ConnectionHandle>]) -> Value {
    let (mut exchanges, mut queues, mut consumers) = (0, 0, 0);
    for vhost in vhosts {
        inspect::each_exchange(vhost, |_| exchanges += 1);
        for queue in inspect::queues(vhost) {
            queues += 1;
            consumers += queue.consumer_count();
        }
    }
    json!({
        "connections": connections.len(),
        "channels": connections.iter().map(|connection| connection.channel_count()).sum::<usize>(),
        "exchanges": exchanges,
        "queues": queues,
        "consumers": consumers,
    })
}

fn listeners(api: &Api) -> Vec<Value> {
    let shown = |listening: &ListeningPort| {
        let (address, port) = (listening.address.ip().to_string(), listening.address.port());
        json!({
            "node": api.node, "protocol": listening.protocol, "ip_address": address,
            "port": port, "socket_opts": {},
        })
    };
    api.about.listening.iter().map(shown).collect()
}

fn contexts(api: &Api) -> Vec<Value> {
    let http = api
        .about
        .listening
        .iter()
        .filter(|listening| listening.protocol.starts_with("http"));
    let shown = http.map(|listening| {
        let address = listening.address.ip().to_string();
        let port = listening.address.port().to_string();
        json!({
            "node": api.node, "description": "cbroker management", "path": "/",
            "ip": address, "port": port,
        })
    });
    shown.collect()
}

pub(in crate::management) fn node(api: &Api) -> Value {
    let (descriptors, most) = system_metrics::descriptors();
    let alarms = api.broker.alarm_state();
    let (disk_bytes, pending_bytes) = inspect::store_bytes(&api.broker);
    let limit = match api.about.memory_limit_bytes {
        0 => system_metrics::machine_memory_bytes(),
        bytes => bytes,
    };
    json!({
        "name": api.node,
        "type": "disc",
        "running": true,
        "os_pid": std::process::id().to_string(),
        "uptime": u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "mem_used": system_metrics::memory_bytes(),
        "mem_limit": limit,
        "mem_alarm": alarms.is_memory_high,
        "disk_free": system_metrics::disk_free_bytes(&api.about.data_dir),
        "disk_free_limit": DISK_FREE_LIMIT_BYTES,
        "disk_free_alarm": alarms.is_disk_full,
        "store_bytes": disk_bytes,
        "store_pending_bytes": pending_bytes,
        "store_stopped": alarms.is_stopped,
        "fd_used": descriptors,
        "fd_total": most,
        "sockets_used": inspect::connections(&api.broker).len(),
        "db_dir": api.about.data_dir.display().to_string(),
        "partitions": [],
        "applications": [],
        "enabled_plugins": [],
        "auth_mechanisms": [
            { "name": "PLAIN", "description": "", "enabled": true },
            { "name": "AMQPLAIN", "description": "", "enabled": true },
        ],
        "contexts": contexts(api),
        "rates_mode": "basic",
        "net_ticktime": 60,
    })
}
