//! Converts the broker's objects to JSON, with RabbitMQ's fields. Fields of things that this broker
//! does not have (Erlang's garbage collector, mirrors) are left out.

use serde_json::{Value, json};

mod message;
mod node;
mod topology;
mod traffic;

pub(super) use message::{Encoding, ShownPayload, message, properties, properties_from_json};
pub(super) use node::{node, overview, overview_of};
pub(super) use topology::{
    BindingView, WantedKey, binding, consumer, exchange, limits, permission, queue, queue_field,
    user, vhost,
};
pub(super) use traffic::{channel, channel_name, connection};

use super::rates::{CounterRates, QUEUE_FIELDS, TotalRates};

/// `name` and `name_details.rate` for each field.
fn rated<const N: usize>(
    fields: [&str; N],
    track: &CounterRates<N>,
) -> serde_json::Map<String, Value> {
    let mut shown = serde_json::Map::new();
    for ((field, count), rate) in fields.iter().zip(track.counts).zip(track.rates) {
        shown.insert((*field).to_owned(), json!(count));
        shown.insert(
            format!("{field}_details"),
            json!({ "rate": (rate * 10.0).round() / 10.0 }),
        );
    }
    shown
}

/// `message_stats` of many queues and channels together.
fn message_stats(overall: &TotalRates) -> serde_json::Map<String, Value> {
    let mut stats = rated(QUEUE_FIELDS, &overall.queues);
    for field in &QUEUE_FIELDS[6..] {
        stats.remove(*field);
        stats.remove(&format!("{field}_details"));
    }
    // What was published is counted where it came in: a message may go to no queue, or to many.
    let fields = [
        "publish",
        "confirm",
        "return_unroutable",
        "settled",
        "gotten",
    ];
    for (field, value) in rated(fields, &overall.channels) {
        let is_told = |name: &&str| field.starts_with(*name);
        if fields[..3].iter().any(is_told) {
            stats.insert(field, value);
        }
    }
    stats
}
