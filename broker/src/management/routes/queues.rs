//! Queues.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Routes;
use crate::admission;
use crate::inspect::{self, QueueView};
use crate::management::amqp_json::table_from_json;
use crate::management::auth::Caller;
use crate::management::paging::{Listed, ListingQuery};
use crate::management::refusal::ApiError;
use crate::management::user_memory::{self, CallerBody};
use crate::management::{Api, SharedApi, views};
use crate::queue::Queue;
use crate::users::Operation;
use crate::vhost::{Declare, DeclareOrigin, DeleteCondition, Vhost, check_name};
use crate::wire::table::Value as Field;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/queues", "queues of all vhosts", list)
        .get("/api/queues/{vhost}", "queues of a vhost", list)
        .get(
            "/api/queues/{vhost}/{name}",
            "one queue, with its consumers",
            show,
        )
        .put("/api/queues/{vhost}/{name}", "declare a queue", declare)
        .delete(
            "/api/queues/{vhost}/{name}",
            "delete a queue; if-empty=true, if-unused=true",
            delete,
        )
        .delete(
            "/api/queues/{vhost}/{name}/contents",
            "purge a queue",
            purge,
        )
        .post(
            "/api/queues/{vhost}/{name}/actions",
            "accepted, and nothing to do: there are no mirrors",
            act,
        )
}

struct ListedQueue(SharedApi, QueueView);

impl Listed for ListedQueue {
    fn name(&self) -> &str {
        self.1.name()
    }

    fn render(&self) -> Value {
        views::queue(&self.0, &self.1)
    }

    fn field(&self, path: &str) -> Option<Value> {
        views::queue_field(&self.0, &self.1, path)
    }
}

async fn list(
    State(api): State<SharedApi>,
    vhost: Option<Path<String>>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhosts = caller.vhosts_of(&api, vhost)?;
    let shared = SharedApi::clone(&api);
    let all = move || {
        shared.rates.observe(&shared.broker, Instant::now());
        let queues = vhosts.into_iter();
        let queues = queues.flat_map(|vhost| inspect::queues(&vhost));
        queues.map(move |queue| ListedQueue(SharedApi::clone(&shared), queue))
    };
    api.list(&caller, listing, all).await
}

fn find(
    api: &Api,
    caller: &Caller,
    vhost: &str,
    name: &str,
) -> Result<(Arc<Vhost>, Arc<Queue>), ApiError> {
    let vhost = caller.vhost(api, vhost)?;
    let queue = vhost.queue(name).ok_or_else(ApiError::not_found)?;
    Ok((vhost, queue))
}

async fn show(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let queue = inspect::queue(&vhost, &name).ok_or_else(ApiError::not_found)?;
    let shared = SharedApi::clone(&api);
    let mut holding = api.holdings.of(&caller.name);
    let work = move || {
        let mut shown = views::queue(&shared, &queue);
        shown["deliveries"] = json!([]);
        shown["incoming"] = json!([]);
        let consumers = super::connections::consumers_of(shared, queue);
        let details = ("consumer_details", consumers);
        let text = listing.show_with(shown, details, &mut holding)?;
        user_memory::with_holding(text, holding)
    };
    Ok(user_memory::json_response(
        api.run_in_slot(&caller, work).await?,
    ))
}

/// The properties of a queue in a request; also a line of the definitions. As at RabbitMQ, the
/// default is transient.
#[derive(Debug, Default, Deserialize)]
pub(super) struct QueueRequest {
    #[serde(default, deserialize_with = "super::claim")]
    durable: bool,
    #[serde(default, deserialize_with = "super::claim")]
    auto_delete: bool,
    arguments: Option<Value>,
}

impl QueueRequest {
    /// The declare that this requests under a name.
    pub(super) fn declare<'a>(&self, api: &Api, name: &'a str) -> Result<Declare<'a>, ApiError> {
        if name.is_empty() || name.len() > 255 {
            return Err(ApiError::bad("a queue's name has 1 to 255 bytes"));
        }
        Ok(Declare {
            name,
            durable: self.durable,
            exclusive: false,
            auto_delete: self.auto_delete,
            is_server_named: false,
            origin: DeclareOrigin::Client,
            arguments: table_from_json(self.arguments.as_ref())?,
            connection: 0,
            // That of the vhost is for those who ask for one queue.
            limit: api.broker.limits.queues,
        })
    }
}

/// Refuses a declare that AMQP would refuse this caller.
pub(super) fn check_caller(
    caller: &Caller,
    vhost: &str,
    declare: &Declare<'_>,
) -> Result<(), ApiError> {
    caller.may(vhost, Operation::Configure, declare.name)?;
    let dead_letters = declare.arguments.get("x-dead-letter-exchange");
    if let Some(exchange) = dead_letters.and_then(Field::as_text) {
        caller.may(vhost, Operation::Read, declare.name)?;
        caller.may(vhost, Operation::Write, exchange)?;
    }
    Ok(())
}

pub(super) async fn declare(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    let wanted: QueueRequest = super::read_or_default(&body)?;
    check_name("queue", &name)?;
    let declare = Declare {
        limit: admission::queue_limit(&api.broker, vhost.name()),
        ..wanted.declare(&api, &name)?
    };
    check_caller(&caller, vhost.name(), &declare)?;
    let was_there = vhost.queue(&name).is_some();
    let declare = |effects: &mut _| vhost.declare_queue(declare.clone(), effects);
    let declared = api.after_deletions(&caller, &vhost, declare).await?;
    super::wait_until_durable(&api, declared.ticket).await?;
    Ok(super::made(was_there))
}

#[derive(Deserialize)]
struct QueueConditions {
    #[serde(rename = "if-unused", default)]
    unused: Option<String>,
    #[serde(rename = "if-empty", default)]
    empty: Option<String>,
}

async fn delete(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    Query(only): Query<QueueConditions>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let (vhost, queue) = find(&api, &caller, &vhost, &name)?;
    caller.may(vhost.name(), Operation::Configure, &name)?;
    queue.check_access(0)?;
    let is_true = |text: &Option<String>| text.as_deref() == Some("true");
    let condition = DeleteCondition {
        unused: is_true(&only.unused),
        empty: is_true(&only.empty),
        ..DeleteCondition::default()
    };
    let ticket = {
        let mut effects = api.broker.begin_unit();
        let removed = vhost.remove_queue(&queue, condition, &mut effects);
        api.broker.end_unit(effects);
        removed?.1
    };
    super::wait_until_durable(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn purge(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let (vhost, queue) = find(&api, &caller, &vhost, &name)?;
    caller.may(vhost.name(), Operation::Read, &name)?;
    queue.check_access(0)?;
    let ticket = api.broker.purge(&queue).await?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn act(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    find(&api, &caller, &vhost, &name)?;
    Ok(StatusCode::NO_CONTENT)
}
