//! Publishing, getting and peeking by HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Routes;
use crate::fault::{Fault, ReplyCode};
use crate::ledger::{Credit, Ledger, Which};
use crate::management::Shared;
use crate::management::auth::Caller;
use crate::management::refusal::Refusal;
use crate::management::views::{self, Encoding};
use crate::queue::browse::{Most, Place};
use crate::queue::message::Message;
use crate::queue::{Got, Queue, Settling, Taking};
use crate::tap::{EXCERPT_BYTES, QUEUES, Seen, What};
use crate::time::now_ms;
use crate::users::Operation;
use crate::vhost::{Published, Vhost};
use crate::wire::properties::Properties;
use crate::wire::table::Table;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .post_much(
            "/api/exchanges/{vhost}/{name}/publish",
            "publish a message",
            publish,
        )
        .post(
            "/api/queues/{vhost}/{name}/get",
            "take messages from a queue, and give them back or not",
            get,
        )
        .get(
            "/api/queues/{vhost}/{name}/peek",
            "look at the messages of a queue without taking them; count, after=CURSOR, truncate",
            peek,
        )
}

#[derive(Deserialize)]
struct Publish {
    properties: Value,
    routing_key: String,
    payload: String,
    payload_encoding: PayloadEncoding,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PayloadEncoding {
    String,
    Base64,
}

async fn publish(
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let exchange = super::exchange_name(&name);
    caller.may(vhost.name(), Operation::Write, exchange)?;
    let publish: Publish = super::read(&body)?;
    let payload = match publish.payload_encoding {
        PayloadEncoding::String => publish.payload.into_bytes(),
        PayloadEncoding::Base64 => STANDARD
            .decode(&publish.payload)
            .map_err(|_| Refusal::bad("payload is not base64"))?,
    };
    if payload.len() as u64 > api.realm.limits.body_bytes {
        return Err(Refusal::bad("payload is larger than the broker takes"));
    }
    if vhost.with_exchange(exchange, |exchange| exchange.declaration().internal) == Some(true) {
        let text = format!(
            "cannot publish to internal exchange '{exchange}' in vhost '{}'",
            vhost.name()
        );
        return Err(Refusal::bad(format!("403 ACCESS_REFUSED - {text}")));
    }
    let properties = views::properties_from_json(&publish.properties, &caller.name)?;
    let message = Published {
        exchange,
        routing_key: &publish.routing_key,
        properties: &properties,
        body: &payload,
    };
    show(&api, &vhost, &message);
    let mut turn = api.realm.turn();
    let routed = vhost.publish(message, &mut turn);
    api.realm.end(turn);
    match routed {
        Ok(routed) => Ok(Json(json!({ "routed": routed }))),
        // RabbitMQ publishes over a connection of its own and tells what that was closed with.
        Err(fault) if fault.code == ReplyCode::NotFound => Err(Refusal::bad(fault.to_string())),
        Err(fault) => Err(fault.into()),
    }
}

/// The tap sees what comes this way too.
fn show(api: &Shared, vhost: &Vhost, message: &Published<'_>) {
    if !api.realm.tap.is_open() {
        return;
    }
    let headers = Properties::scan(message.properties).ok();
    let headers = headers.and_then(|found| Table::decode(found.headers?).ok());
    let keys = [message.routing_key.as_bytes()];
    let route = vhost.route(message.exchange, &keys, headers.as_ref());
    let queues = route.iter().flat_map(|route| &route.queues);
    let routed = queues.take(QUEUES).map(|queue| Arc::clone(queue.name()));
    let excerpt = &message.body[..message.body.len().min(EXCERPT_BYTES)];
    api.realm.tap.note(Seen {
        what: What::Published,
        at_ms: now_ms(),
        vhost: (&**vhost.name()).into(),
        exchange: message.exchange.as_bytes().into(),
        routing_key: message.routing_key.as_bytes().into(),
        queue: None,
        routed: routed.collect(),
        properties: message.properties.into(),
        excerpt: excerpt.into(),
        body_bytes: message.body.len() as u64,
    });
}

#[derive(Deserialize)]
struct Get {
    count: Count,
    ackmode: AckMode,
    #[serde(default)]
    encoding: Encoding,
    truncate: Option<usize>,
}

/// `rabbitmqadmin` sends it as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(usize),
    Text(String),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum AckMode {
    AckRequeueTrue,
    AckRequeueFalse,
    RejectRequeueTrue,
    RejectRequeueFalse,
}

/// Messages in one answer.
const MOST: usize = 10_000;

async fn get(
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let queue = vhost.queue(&name).ok_or_else(Refusal::not_found)?;
    caller.may(vhost.name(), Operation::Read, &name)?;
    let get: Get = super::read(&body)?;
    let count = match get.count {
        Count::Number(count) => count,
        Count::Text(text) => text
            .parse()
            .map_err(|_| Refusal::bad("count is not a number"))?,
    };
    queue.check_access(0)?;
    let taken = take(&api, &queue, count.min(MOST)).await?;
    let shown = taken.messages.iter().map(|(message, redelivered, left)| {
        let mut shown = views::message(message, get.encoding, get.truncate);
        shown["redelivered"] = json!(redelivered);
        shown["message_count"] = json!(left);
        shown
    });
    let shown: Value = shown.collect();
    taken.settle(get.ackmode)?;
    Ok(Json(shown))
}

/// Messages that are out of their queue, unsettled. What is dropped so goes back: a caller may hang up at any time.
struct Taken<'a> {
    api: &'a Shared,
    ledger: Ledger,
    messages: Vec<(Message, bool, u64)>,
}

async fn take<'a>(api: &'a Shared, queue: &Arc<Queue>, count: usize) -> Result<Taken<'a>, Refusal> {
    let mut taken = Taken {
        api,
        ledger: Ledger::default(),
        messages: Vec::new(),
    };
    let mut patience = 50;
    while taken.messages.len() < count {
        let got = {
            let mut turn = api.realm.turn();
            let got = queue.get(&taken.ledger, Taking::Unsettled, &mut turn);
            api.realm.end(turn);
            got.map_err(Fault::from)?
        };
        match got {
            Got::Delivery {
                message,
                redelivered,
                left,
                ..
            } => taken.messages.push((message, redelivered, left)),
            // A slice is on its way from the disk.
            Got::Loading if patience > 0 => {
                patience -= 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Got::Empty | Got::Loading | Got::Unreadable => break,
        }
    }
    Ok(taken)
}

impl Taken<'_> {
    fn settle(&self, mode: AckMode) -> Result<(), Fault> {
        let settling = match mode {
            AckMode::AckRequeueTrue | AckMode::RejectRequeueTrue => Settling::Requeue,
            AckMode::AckRequeueFalse => Settling::Ack,
            AckMode::RejectRequeueFalse => Settling::Reject,
        };
        let mut deliveries = Vec::new();
        if self
            .ledger
            .take(Which::UpTo(0), Credit::Now, &mut deliveries)
            .is_err()
        {
            return Ok(());
        }
        let Some(queue) = deliveries
            .first()
            .map(|delivery| Arc::clone(&delivery.queue))
        else {
            return Ok(());
        };
        let mut turn = self.api.realm.turn();
        let settled = queue.settle(deliveries.into_iter(), settling, &mut turn);
        self.api.realm.end(turn);
        Ok(settled?)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Err(fault) = self.settle(AckMode::AckRequeueTrue) {
            tracing::warn!(%fault, "messages could not be given back to their queue");
        }
    }
}

#[derive(Deserialize)]
struct Peek {
    #[serde(default = "Peek::few")]
    count: usize,
    /// The cursor of the last message that was seen.
    after: Option<String>,
    truncate: Option<usize>,
}

impl Peek {
    /// Messages in one answer, and their bodies together.
    const MOST: usize = 1000;
    const MOST_BYTES: usize = 16 * 1024 * 1024;

    fn few() -> usize {
        50
    }
}

async fn peek(
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
    Query(peek): Query<Peek>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let queue = vhost.queue(&name).ok_or_else(Refusal::not_found)?;
    caller.may(vhost.name(), Operation::Read, &name)?;
    let after: Option<Place> = peek
        .after
        .map(|text| text.parse())
        .transpose()
        .map_err(|()| Refusal::bad("after is not a cursor"))?;
    let most = Most {
        messages: peek.count.min(Peek::MOST),
        bytes: Peek::MOST_BYTES,
    };
    // A long queue is read from the disk.
    let browsing = tokio::task::spawn_blocking(move || queue.browse(after, most));
    let seen = browsing
        .await
        .map_err(|error| Refusal::failed(error.to_string()))?
        .map_err(|error| Refusal::failed(error.to_string()))?;
    let shown = seen.iter().map(|waiting| {
        let mut shown = views::message(&waiting.message, Encoding::Auto, peek.truncate);
        shown["redelivered"] = json!(waiting.redelivered);
        shown["published_ms"] = json!(waiting.message.facts().published_ms);
        shown["cursor"] = json!(waiting.place.to_string());
        shown
    });
    Ok(Json(shown.collect()))
}
