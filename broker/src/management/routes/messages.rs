//! Getting and peeking by HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Routes;
use crate::delivery::ledger::{Credit, DeliveryTags, Ledger};
use crate::fault::Fault;
use crate::inspect::{self, BrowseLimit, Message, QueuePosition};
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory::{self, CallerBody, UserHolding};
use crate::management::views::{self, Encoding, ShownPayload};
use crate::management::{Api, SharedApi};
use crate::memory;
use crate::queue::{Disposition, GetMode, GetResult, Queue};
use crate::users::Operation;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
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
            _ => {
                return Err(super::custom_error(&json!([
                    "unsupported_ackmode",
                    super::quoted(&value)
                ])));
            }
        })
    }
}

/// Messages in one response; their bodies are bounded by the memory limit.
const MOST: usize = 10_000;
/// The number of messages after which other requests are served.
const AT_ONCE: usize = 64;
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
    let taken = take(&api, &caller, &queue, count.min(MOST)).await?;
    let showing = move || {
        let shown = taken.messages.iter().map(|(message, redelivered, left)| {
            let (mut one, payload) = views::message(message, get.encoding, get.truncate);
            one["redelivered"] = json!(redelivered);
            one["message_count"] = json!(left);
            (one, payload)
        });
        let response = listed(shown, &mut holding)?;
        Ok((user_memory::with_holding(response, holding)?, taken))
    };
    // If the caller hangs up, or has lost a right, the messages are requeued.
    let (response, taken) = Api::in_slot(slot, showing).await?;
    caller.check_unchanged(&api)?;
    let settling = move || taken.settle(get.ackmode);
    let settled = tokio::task::spawn_blocking(settling).await;
    settled.map_err(|_| ApiError::failed("the messages could not be settled"))??;
    Ok(user_memory::json_response(response))
}

/// Messages as a list in JSON. What it will take is known, and charged, before it is made: growing
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

/// Unsettled messages of a get. They are requeued when this is dropped, because a caller may hang
/// up at any time.
struct GotMessages {
    api: SharedApi,
    ledger: Ledger,
    messages: Vec<(Message, bool, u64)>,
}

/// Takes messages. Refused if the rights of the caller change meanwhile.
async fn take(
    api: &SharedApi,
    caller: &Caller,
    queue: &Arc<Queue>,
    count: usize,
) -> Result<GotMessages, ApiError> {
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
            let mut effects = api.broker.begin_unit();
            let got = queue.get(&taken.ledger, GetMode::Unsettled, &mut effects);
            api.broker.end_unit(effects);
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
                if taken.messages.len().is_multiple_of(AT_ONCE) {
                    tokio::task::yield_now().await;
                    caller.check_unchanged(api)?;
                }
            }
            // A slice of this or another queue is being read from the disk.
            GetResult::Loading if waiting_since.elapsed() < LOADING => {
                let _looked_at_again = tokio::time::timeout(LOADING / 100, loaded).await;
                caller.check_unchanged(api)?;
                continue;
            }
            GetResult::Held if taken.messages.is_empty() => {
                return Err(ApiError::bad("no memory for unsettled messages"));
            }
            GetResult::HeldBack if taken.messages.is_empty() => {
                return Err(ApiError::bad(
                    "no memory for more dead letters of this queue",
                ));
            }
            GetResult::Empty
            | GetResult::Loading
            | GetResult::Unreadable
            | GetResult::Held
            | GetResult::HeldBack => break,
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
            .take(
                DeliveryTags::UpTo(0),
                Credit::Now,
                usize::MAX,
                &mut deliveries,
            )
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
        let mut effects = self.api.broker.begin_unit();
        let settled = queue.settle(deliveries.into_iter(), disposition, &mut effects);
        self.api.broker.end_unit(effects);
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
    /// Messages in one response, and their bytes together.
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
    let most = BrowseLimit {
        messages: count.min(Peek::MOST),
        bytes: Peek::MOST_BYTES,
    };
    // A long queue is read from the disk.
    let mut holding = api.holdings.of(&caller.name);
    let looking = move || {
        let seen = queue.browse(after, most, |bytes| holding.set(bytes))?;
        let shown = seen.iter().map(|waiting| {
            let (mut one, payload) = views::message(&waiting.message, Encoding::Auto, truncate);
            one["redelivered"] = json!(waiting.redelivered);
            one["published_ms"] = json!(waiting.message.facts().published_ms);
            one["cursor"] = json!(waiting.place.to_string());
            (one, payload)
        });
        let response = listed(shown, &mut holding)?;
        user_memory::with_holding(response, holding)
    };
    let response = api.run_in_slot(&caller, looking).await?;
    caller.check_unchanged(&api)?;
    Ok(user_memory::json_response(response))
}

#[cfg(test)]
mod tests;
