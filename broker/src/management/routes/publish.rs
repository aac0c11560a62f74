//! Publishing by HTTP.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Routes;
use crate::fault::ReplyCode;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory::{self, CallerBody, UserHolding};
use crate::management::{Api, SharedApi, views};
use crate::memory::{self, MemoryLevel};
use crate::tap::{QUEUES, TapEvent, TapEventKind};
use crate::time::now_ms;
use crate::users::Operation;
use crate::vhost::{Published, RoutedPublish, Vhost};
use crate::wire::content::PROPERTIES_BYTES;
use crate::wire::properties::Properties;
use crate::wire::table::Table;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.post(
        "/api/exchanges/{vhost}/{name}/publish",
        "publish a message",
        publish,
    )
}

/// The longest properties in JSON.
const JSON_BYTES: usize = 256 * 1024;

/// The fields of a publish, unparsed, because a tree of them would take many times the memory.
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

/// How long a publish waits for the store or for room, before it begins and between its queues.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the store keeps up with its changes, as publishers over AMQP do.
async fn wait_for_store(api: &Api) -> Result<(), ApiError> {
    let caught_up = tokio::time::timeout(PATIENCE, api.broker.store_caught_up());
    let waited = caught_up.await;
    waited.map_err(|_| ApiError::busy("the store does not keep up with its messages now"))
}

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

    /// The body of the message. A copy is charged before it is made.
    fn payload(&self, holding: &mut UserHolding) -> Result<Cow<'a, [u8]>, ApiError> {
        let other = || ApiError::bad("payload_encoding: a value of another type is needed");
        let encoding = text(self.payload_encoding).ok_or_else(other)?;
        // A payload is always a text.
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
    // A large body is read only from callers who may publish, and checked against their rights
    // afterwards.
    caller.vhost(&api, &vhost)?;
    caller.may(&vhost, Operation::Write, &exchange)?;
    let sent =
        CallerBody::receive(&api, caller, request.into_body(), user_memory::MUCH_BYTES).await?;
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
    if api.broker.alarm_state().is_behind() {
        wait_for_store(&api).await?;
        caller.check_unchanged(&api)?;
    }
    // The default exchange leads to one queue, another one to any number of them.
    let is_little = body.len() <= user_memory::LITTLE_BYTES && publish.exchange.is_empty();
    let routed = if is_little {
        publish.route(&body)?
    } else {
        // Parsing and handing it out may take too long for a thread that serves.
        api.run_in_slot(&caller, move || publish.route(&body))
            .await?
    };
    Ok(Json(json!({ "routed": routed })))
}

/// A publish whose body is still to be parsed.
struct SentPublish {
    api: SharedApi,
    user: Arc<str>,
    vhost: Arc<Vhost>,
    exchange: String,
    /// Charged for what is made from the body.
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
            return Err(ApiError::bad("payload is larger than the broker accepts"));
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
        note_in_tap(api, vhost, &message);
        let mut effects = api.broker.begin_unit();
        let routed = vhost.route_publish(message, &mut effects);
        let offered = routed.and_then(|mut publish| {
            let is_done = publish.offer(
                |effects| effects.is_spent() || is_blocked(api),
                &mut effects,
            )?;
            Ok((publish, is_done))
        });
        api.broker.end_unit(effects);
        match offered {
            Ok((publish, true)) => Ok(publish.was_taken()),
            Ok((publish, false)) => hand_out(api, publish),
            // RabbitMQ publishes over its own connection and reports why that was closed.
            Err(fault) if fault.code == ReplyCode::NotFound => {
                Err(ApiError::bad(fault.to_string()))
            }
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Whether the message must not be offered to more queues now, because the store of each durable
/// one gets a copy.
fn is_blocked(api: &Api) -> bool {
    api.broker.alarm_state().blocks(false)
}

/// Offers a message to the rest of its queues, as fast as publishers over AMQP may. Runs on a
/// thread that may block.
fn hand_out(api: &Api, mut publish: RoutedPublish) -> Result<bool, ApiError> {
    loop {
        let unblocked = tokio::time::timeout(PATIENCE, api.broker.publishers_unblocked());
        let waited = Handle::current().block_on(unblocked);
        waited
            .map_err(|_| ApiError::busy("no room for messages now; some queues have this one"))?;
        let mut effects = api.broker.begin_unit();
        let offered = publish.offer(
            |effects| effects.is_spent() || is_blocked(api),
            &mut effects,
        );
        api.broker.end_unit(effects);
        if offered? {
            return Ok(publish.was_taken());
        }
    }
}

/// Refuses publishes while publishers over AMQP are blocked.
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

/// Notes a publish in the tap.
fn note_in_tap(api: &SharedApi, vhost: &Vhost, message: &Published<'_>) {
    if !api.broker.tap.is_open() {
        return;
    }
    let headers = Properties::scan(message.properties).ok();
    let headers = headers.and_then(|found| Table::decode(found.headers?).ok());
    let keys = [message.routing_key.as_bytes()];
    let route = vhost.route(message.exchange, &keys, headers.as_ref());
    let queues = route.iter().flat_map(|route| &route.queues);
    let routed = queues.take(QUEUES).map(|queue| api.broker.tap_queue(queue));
    let what = TapEventKind::Published;
    api.broker.tap.note(TapEvent {
        routed: routed.collect(),
        ..TapEvent::new(what, now_ms(), vhost.name(), message.wire())
    });
}

#[cfg(test)]
mod tests;
