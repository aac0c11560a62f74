//! Things as JSON, with RabbitMQ's fields. What it has and we do not (Erlang's garbage collector, mirrors) is left out.

use serde_json::{Value, json};

mod message;
mod node;
mod topology;
mod traffic;

pub(super) use message::{Encoding, message, properties, properties_from_json};
pub(super) use node::{node, overview};
pub(super) use topology::{
    BindingView, binding, consumer, exchange, permission, queue, queue_field, user, vhost,
};
pub(super) use traffic::{channel, channel_name, connection};

use super::rates::Track;

/// `name` and `name_details.rate` for each field.
fn rated<const N: usize>(fields: [&str; N], track: &Track<N>) -> serde_json::Map<String, Value> {
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
