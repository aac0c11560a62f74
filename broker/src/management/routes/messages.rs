//! Publishing, getting and peeking by HTTP.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Routes;
use crate::delivery::ledger::{Credit, Ledger, Which};
use crate::fault::{Fault, ReplyCode};
use crate::inspect::{self, Message, Most, QueuePosition};
use crate::management::auth::Caller;
use crate::management::held::{self, CallerBody, UserHolding};
use crate::management::refusal::ApiError;
use crate::management::views::{self, Encoding, ShownPayload};
use crate::management::{Api, SharedApi};
use crate::memory::{self, MemoryLevel};
use crate::queue::{Disposition, GetMode, GetResult, Queue};
use crate::tap::{EXCERPT_BYTES, QUEUES, TapEvent, What};
use crate::time::now_ms;
use crate::users::Operation;
use crate::vhost::{Published, Vhost};
use crate::wire::content::PROPERTIES_BYTES;
use crate::wire::properties::Properties;
use crate::wire::table::Table;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .post(
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

/// The longest properties in JSON.
const JSON_BYTES: usize = 256 * 1024;

/// The fields of a publish, as they came: a tree of them would take many times the room.
#[derive(Deserialize)]
struct PublishRequest<'a> {
    #[serde(borrow)]
    properties: &'a RawValue,
    #[serde(borrow)]
    routing_key: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    payload_encoding: &'a RawValue,
}

/// What the parser may take for a body with escapes, in lengths of the body: it unescapes a text
/// into a buffer that grows by doubling, and copies it from there. A text without escapes is not
/// copied.
const COPIES: usize = 3;

/// A text in JSON; `None` for anything else.
fn text(json: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = json.get().strip_prefix('"')?.strip_suffix('"')?;
    if quoted.contains('\\') {
        serde_json::from_str(json.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(quoted))
    }
}

impl<'a> PublishRequest<'a> {
    fn routing_key(&self) -> Result<Cow<'a, str>, ApiError> {
        let other = || ApiError::bad("routing_key: a value of another type is needed");
        let key = text(self.routing_key).ok_or_else(other)?;
        super::check_routing_key(&key)?;
        Ok(key)
    }

    /// The body of the message. A copy is held before it is made.
    fn payload(&self, holding: &mut UserHolding) -> Result<Cow<'a, [u8]>, ApiError> {
        let other = || ApiError::bad("payload_encoding: a value of another type is needed");
        let encoding = text(self.payload_encoding).ok_or_else(other)?;
        // A payload is a text, whatever it means.
        let not_text = || ApiError::bad_value(json!("payload_not_string"));
        let payload = text(self.payload).ok_or_else(not_text)?;
        match (&*encoding, payload) {
            ("string", Cow::Borrowed(text)) => Ok(text.as_bytes().into()),
            ("string", Cow::Owned(text)) => Ok(text.into_bytes().into()),
            ("base64", text) => {
                holding.set(holding.bytes() + base64::decoded_len_estimate(text.len()))?;
                let decoded = STANDARD.decode(&*text);
                let decoded = decoded.map_err(|_| ApiError::bad("payload is not base64"))?;
                Ok(decoded.into())
            }
            (other, _) => {
                // Not quoted back at length.
                let shown = &other[..other.floor_char_boundary(64)];
                Err(ApiError::bad_value(json!(["unsupported_encoding", shown])))
            }
        }
    }
}

async fn publish(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let exchange = super::exchange_name(&name).to_owned();
    // A large body is read from those alone who may use it, and looked at with the rights of then.
    caller.vhost(&api, &vhost)?;
    caller.may(&vhost, Operation::Write, &exchange)?;
    let sent = CallerBody::receive(&api, caller, request.into_body(), held::MUCH_BYTES).await?;
    let CallerBody { caller, body } = sent;
    let vhost = caller.vhost(&api, &vhost)?;
    caller.may(vhost.name(), Operation::Write, &exchange)?;
    let publish = SentPublish {
        holding: api.holdings.of(&caller.name),
        api: SharedApi::clone(&api),
        user: Arc::clone(&caller.name),
        vhost,
        exchange,
    };
    // The default exchange leads to one queue, another one to any number of them.
    let is_little = body.len() <= held::LITTLE_BYTES && publish.exchange.is_empty();
    let routed = if is_little {
        publish.route(&body)?
    } else {
        // Parsing and handing it out may take too long for a thread that serves.
        api.aside(&caller, move || publish.route(&body)).await?
    };
    Ok(Json(json!({ "routed": routed })))
}

/// A publish whose body is still to be parsed.
struct SentPublish {
    api: SharedApi,
    user: Arc<str>,
    vhost: Arc<Vhost>,
    exchange: String,
    /// Of what is made of the body.
    holding: UserHolding,
}

impl SentPublish {
    /// Says whether the message went to a queue.
    fn route(mut self, body: &Bytes) -> Result<bool, ApiError> {
        let (api, vhost, exchange) = (&self.api, &self.vhost, self.exchange.as_str());
        check_room(api)?;
        if body.contains(&b'\\') {
            self.holding.set(COPIES * body.len())?;
        }
        let publish: PublishRequest<'_> = super::read(body)?;
        let routing_key = publish.routing_key()?;
        let payload = publish.payload(&mut self.holding)?;
        if payload.len() as u64 > api.broker.limits.body_bytes {
            return Err(ApiError::bad("payload is larger than the broker takes"));
        }
        if vhost.with_exchange(exchange, |exchange| exchange.declaration().internal) == Some(true) {
            let text = format!(
                "cannot publish to internal exchange '{exchange}' in vhost '{}'",
                vhost.name()
            );
            return Err(ApiError::bad(format!("403 ACCESS_REFUSED - {text}")));
        }
        let properties = properties(publish.properties, &self.user)?;
        let message = Published {
            exchange,
            routing_key: &routing_key,
            properties: &properties,
            body: &payload,
        };
        show(api, vhost, &message);
        let mut effects = api.broker.begin();
        let routed = vhost.publish(message, &mut effects);
        api.broker.end(effects);
        match routed {
            Ok(routed) => Ok(routed),
            // RabbitMQ publishes over its own connection and reports why that was closed.
            Err(fault) if fault.code == ReplyCode::NotFound => {
                Err(ApiError::bad(fault.to_string()))
            }
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Refuses publishes while those by AMQP wait for room.
fn check_room(api: &Api) -> Result<(), ApiError> {
    let alarms = api.broker.alarm_state();
    let is_short = memory::level() == MemoryLevel::Short || alarms.is_memory_high;
    if is_short || alarms.is_disk_full {
        let what = if is_short { "memory" } else { "disk space" };
        return Err(ApiError::busy(format!("no {what} for messages now")));
    }
    Ok(())
}

fn properties(raw: &RawValue, caller: &str) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::bad("the properties are too large");
    if raw.get().len() > JSON_BYTES {
        return Err(too_large());
    }
    let json: Value = serde_json::from_str(raw.get()).map_err(|_| ApiError::bad("not_json"))?;
    let properties = views::properties_from_json(&json, caller)?;
    // A number has two bytes in JSON and nine in a table.
    if properties.len() > PROPERTIES_BYTES {
        return Err(too_large());
    }
    Ok(properties)
}

/// The tap sees what comes this way too.
fn show(api: &SharedApi, vhost: &Vhost, message: &Published<'_>) {
    if !api.broker.tap.is_open() {
        return;
    }
    let headers = Properties::scan(message.properties).ok();
    let headers = headers.and_then(|found| Table::decode(found.headers?).ok());
    let keys = [message.routing_key.as_bytes()];
    let route = vhost.route(message.exchange, &keys, headers.as_ref());
    let queues = route.iter().flat_map(|route| &route.queues);
    let routed = queues.take(QUEUES).map(|queue| Arc::clone(queue.name()));
    let excerpt = &message.body[..message.body.len().min(EXCERPT_BYTES)];
    api.broker.tap.note(TapEvent {
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
    #[serde(deserialize_with = "super::integer")]
    count: i64,
    ackmode: AckMode,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default, deserialize_with = "truncation")]
    truncate: Option<usize>,
}

fn truncation<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    super::integer(from).map(|bytes| usize::try_from(bytes).ok())
}

#[derive(Clone, Copy)]
enum AckMode {
    AckRequeueTrue,
    AckRequeueFalse,
    RejectRequeueTrue,
    RejectRequeueFalse,
}

impl<'de> Deserialize<'de> for AckMode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        Ok(match value.as_str() {
            Some("ack_requeue_true") => Self::AckRequeueTrue,
            Some("ack_requeue_false") => Self::AckRequeueFalse,
            Some("reject_requeue_true") => Self::RejectRequeueTrue,
            Some("reject_requeue_false") => Self::RejectRequeueFalse,
            _ => return Err(super::because(&json!(["unsupported_ackmode", value]))),
        })
    }
}

/// Messages in one answer; their bodies are bounded by the memory limit.
const MOST: usize = 10_000;
/// How long one read of the store may take.
const LOADING: Duration = Duration::from_secs(10);

async fn get(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let queue = vhost.queue(&name).ok_or_else(ApiError::not_found)?;
    caller.may(vhost.name(), Operation::Read, &name)?;
    let get: Get = super::read(&body)?;
    let count = usize::try_from(get.count).unwrap_or(0);
    queue.check_access(0)?;
    let mut holding = api.holdings.of(&caller.name);
    let slot = api.slot(&caller).await?;
    let taken = take(&api, &queue, count.min(MOST)).await?;
    let showing = move || {
        let shown = taken.messages.iter().map(|(message, redelivered, left)| {
            let (mut one, payload) = views::message(message, get.encoding, get.truncate);
            one["redelivered"] = json!(redelivered);
            one["message_count"] = json!(left);
            (one, payload)
        });
        let answer = listed(shown, &mut holding)?;
        Ok((held::held(answer, holding)?, taken))
    };
    // A caller that hangs up gives the messages back.
    let (answer, taken) = Api::in_slot(slot, showing).await?;
    let settling = move || taken.settle(get.ackmode);
    let settled = tokio::task::spawn_blocking(settling).await;
    settled.map_err(|_| ApiError::failed("the messages could not be settled"))??;
    Ok(held::json_response(answer))
}

/// Messages as a list in JSON. What it will take is known, and held, before it is made: growing
/// would need several times as much.
fn listed<'m>(
    messages: impl Iterator<Item = (Value, ShownPayload<'m>)>,
    holding: &mut UserHolding,
) -> Result<Vec<u8>, ApiError> {
    const NAME: &[u8] = br#"{"payload":"#;
    let failed = |error: serde_json::Error| ApiError::failed(error.to_string());
    let (mut parts, mut bytes, mut rests) = (Vec::new(), 2, 0);
    for (rest, payload) in messages {
        let rest = serde_json::to_vec(&rest).map_err(failed)?;
        // A comma takes the place of the bracket that opened the rest, and another one follows.
        bytes += NAME.len() + payload.json_len() + rest.len() + 1;
        rests += rest.capacity();
        holding.set(bytes + rests)?;
        parts.push((rest, payload));
    }
    let mut shown = Vec::with_capacity(bytes);
    shown.push(b'[');
    for (rest, payload) in parts {
        if shown.len() > 1 {
            shown.push(b',');
        }
        shown.extend_from_slice(NAME);
        payload.write(&mut shown)?;
        shown.push(b',');
        shown.extend_from_slice(&rest[1..]);
    }
    shown.push(b']');
    Ok(shown)
}

/// Messages that are out of their queue, unsettled. What is dropped so goes back: a caller may hang
/// up at any time.
struct GotMessages {
    api: SharedApi,
    ledger: Ledger,
    messages: Vec<(Message, bool, u64)>,
}

async fn take(api: &SharedApi, queue: &Arc<Queue>, count: usize) -> Result<GotMessages, ApiError> {
    let mut taken = GotMessages {
        api: SharedApi::clone(api),
        ledger: Ledger::default(),
        messages: Vec::new(),
    };
    let mut waiting_since = Instant::now();
    let (mut bytes, most) = (0, memory::connection_limit() / 4);
    while taken.messages.len() < count && bytes < most {
        // Registered before the look, so that a slice that comes between the two is not missed.
        let loaded = api.broker.loaded.notified();
        tokio::pin!(loaded);
        loaded.as_mut().enable();
        let got = {
            let mut effects = api.broker.begin();
            let got = queue.get(&taken.ledger, GetMode::Unsettled, &mut effects);
            api.broker.end(effects);
            got.map_err(Fault::from)?
        };
        match got {
            GetResult::Delivery {
                message,
                redelivered,
                left,
                ..
            } => {
                bytes += message.body_len() + message.content().properties.len();
                taken.messages.push((message, redelivered, left));
            }
            // A slice is on its way from the disk, of this queue or another.
            GetResult::Loading if waiting_since.elapsed() < LOADING => {
                let _looked_at_again = tokio::time::timeout(LOADING / 100, loaded).await;
                continue;
            }
            GetResult::Held if taken.messages.is_empty() => {
                return Err(ApiError::bad("no memory for unsettled messages"));
            }
            GetResult::Empty | GetResult::Loading | GetResult::Unreadable | GetResult::Held => {
                break;
            }
        }
        waiting_since = Instant::now();
    }
    Ok(taken)
}

impl GotMessages {
    fn settle(&self, mode: AckMode) -> Result<(), Fault> {
        let disposition = match mode {
            AckMode::AckRequeueTrue | AckMode::RejectRequeueTrue => Disposition::Requeue,
            AckMode::AckRequeueFalse => Disposition::Ack,
            AckMode::RejectRequeueFalse => Disposition::Reject,
        };
        let mut deliveries = Vec::new();
        if self
            .ledger
            .take(Which::UpTo(0), Credit::Now, usize::MAX, &mut deliveries)
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
        let mut effects = self.api.broker.begin();
        let settled = queue.settle(deliveries.into_iter(), disposition, &mut effects);
        self.api.broker.end(effects);
        Ok(settled?)
    }
}

impl Drop for GotMessages {
    fn drop(&mut self) {
        if let Err(fault) = self.settle(AckMode::AckRequeueTrue) {
            tracing::warn!(%fault, "messages could not be given back to their queue");
        }
    }
}

#[derive(Deserialize)]
struct Peek {
    count: Option<String>,
    /// The cursor of the last message that was seen.
    after: Option<String>,
    truncate: Option<String>,
}

impl Peek {
    /// Messages in one answer, and their bodies together.
    const MOST: usize = 1000;
    const MOST_BYTES: usize = 16 * 1024 * 1024;

    const FEW: usize = 50;

    /// A number in the query.
    fn number(text: Option<&str>, name: &str) -> Result<Option<usize>, ApiError> {
        let not_one = |_| ApiError::bad(format!("{name} is not a number"));
        text.map(|text| text.parse().map_err(not_one)).transpose()
    }
}

async fn peek(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    Query(peek): Query<Peek>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let queue = inspect::queue(&vhost, &name).ok_or_else(ApiError::not_found)?;
    caller.may(vhost.name(), Operation::Read, &name)?;
    queue.check_access(0)?;
    let after: Option<QueuePosition> = peek
        .after
        .map(|text| text.parse())
        .transpose()
        .map_err(|()| ApiError::bad("after is not a cursor"))?;
    let truncate = Peek::number(peek.truncate.as_deref(), "truncate")?;
    let count = Peek::number(peek.count.as_deref(), "count")?.unwrap_or(Peek::FEW);
    let most = Most {
        messages: count.min(Peek::MOST),
        bytes: Peek::MOST_BYTES,
    };
    // A long queue is read from the disk.
    let mut holding = api.holdings.of(&caller.name);
    let looking = move || {
        let failed = |error: &dyn std::fmt::Display| ApiError::failed(error.to_string());
        let seen = queue.browse(after, most).map_err(|error| failed(&error))?;
        let shown = seen.iter().map(|waiting| {
            let (mut one, payload) = views::message(&waiting.message, Encoding::Auto, truncate);
            one["redelivered"] = json!(waiting.redelivered);
            one["published_ms"] = json!(waiting.message.facts().published_ms);
            one["cursor"] = json!(waiting.place.to_string());
            (one, payload)
        });
        let answer = listed(shown, &mut holding)?;
        held::held(answer, holding)
    };
    Ok(held::json_response(api.aside(&caller, looking).await?))
}

#[cfg(test)]
mod tests;
