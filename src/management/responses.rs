//! The fields of the management API's responses that are read.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The response to `/api/overview`.
#[derive(Debug, Clone, Deserialize)]
pub struct Overview {
    /// The product's name.
    #[serde(default)]
    pub product_name: Option<String>,
    /// The product's own version. `rabbitmq_version` is the one that it is compatible with.
    #[serde(default)]
    pub product_version: Option<String>,
    /// LavinMQ's version.
    #[serde(default)]
    pub lavinmq_version: Option<String>,
    /// RabbitMQ's version. LavinMQ reports its own version here too.
    #[serde(default)]
    pub rabbitmq_version: Option<String>,
}

/// A queue in the response to `/api/queues`.
#[derive(Debug, Clone, Deserialize)]
pub struct QueueInfo {
    /// The arguments that it was declared with.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// What policies of the broker's operator define for it, which no declare shows. An object, or
    /// something else where there are none. RabbitMQ tells it only with the first statistics of a
    /// new queue.
    #[serde(default)]
    pub effective_policy_definition: Option<Value>,
}

/// A program that consumes from a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// The user that it signed in as.
    pub user: String,
    /// What it says it is.
    pub product: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct QueueConsumers {
    pub(super) consumer_details: Vec<ConsumerDetails>,
}

#[derive(Deserialize)]
pub(super) struct ConsumerDetails {
    pub(super) channel_details: ChannelDetails,
}

#[derive(Deserialize)]
pub(super) struct ChannelDetails {
    pub(super) connection_name: String,
    pub(super) user: String,
}

/// A consumer in the response to `/api/consumers`.
#[derive(Deserialize)]
pub(super) struct ConsumerRow {
    pub(super) queue: ConsumedQueue,
    pub(super) channel_details: ConsumingChannel,
}

#[derive(Deserialize)]
pub(super) struct ConsumedQueue {
    pub(super) name: String,
}

/// Empty while the consumer's connection ends.
#[derive(Deserialize)]
pub(super) struct ConsumingChannel {
    #[serde(default)]
    pub(super) user: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ConnectionInfo {
    pub(super) client_properties: ClientProperties,
}

#[derive(Deserialize)]
pub(super) struct ClientProperties {
    #[serde(default)]
    pub(super) product: Option<String>,
}

/// A node in the response to `/api/nodes`.
#[derive(Deserialize)]
pub(super) struct NodeInfo {
    #[serde(default)]
    pub(super) disk_free_alarm: bool,
    #[serde(default)]
    pub(super) mem_alarm: bool,
}

/// A message in the response to `get` or `peek`.
#[derive(Debug, Clone, Deserialize)]
pub struct Peeked {
    /// The body as text or base64.
    pub payload: String,
    /// `string` or `base64`.
    pub payload_encoding: String,
    /// The position of the message, from which the next page continues. Only the embedded broker
    /// reports it.
    #[serde(default)]
    pub(super) cursor: Option<String>,
    /// As JSON text, because nothing bounds what a tree of its headers takes.
    #[serde(default)]
    properties: Option<Box<RawValue>>,
}

/// Of the properties of a message, what is read.
#[derive(Deserialize)]
struct PeekedProperties {
    #[serde(default)]
    user_id: Option<String>,
}

/// A link that signs in a browser once.
#[derive(Debug, Deserialize)]
pub struct SignInLink {
    /// The part of the page's address behind the host.
    pub path: String,
    /// Whether the broker answers at every address of `localhost`.
    #[serde(default)]
    pub serves_localhost: bool,
}

#[derive(Deserialize)]
pub(super) struct BindingInfo {
    pub(super) destination: String,
    pub(super) destination_type: String,
    #[serde(default)]
    pub(super) routing_key: String,
}

impl Peeked {
    /// Returns the property `user_id`: who published the message, as the broker confirms.
    pub fn user(&self) -> Option<String> {
        let properties = self.properties.as_ref()?.get();
        // RabbitMQ writes properties of which none is set as an array.
        let read: PeekedProperties = serde_json::from_str(properties).ok()?;
        read.user_id
    }

    /// The bytes of the body.
    pub fn body(&self) -> Vec<u8> {
        match self.payload_encoding.as_str() {
            "base64" => BASE64_STANDARD.decode(&self.payload).unwrap_or_default(),
            _ => self.payload.clone().into_bytes(),
        }
    }
}
