//! Connections, channels and consumers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::Value;

use super::Routes;
use crate::fault::{Fault, ReplyCode};
use crate::inspect::{self, ChannelView, ConnectionHandle, ConsumerView, QueueView};
use crate::management::auth::Caller;
use crate::management::paging::{Listed, Listing};
use crate::management::refusal::ApiError;
use crate::management::{Api, SharedApi, views};
use crate::users::Rank;
use crate::vhost::Vhost;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/connections", "open connections", list)
        .get("/api/connections/{name}", "one connection", show)
        .delete("/api/connections/{name}", "close a connection", close)
        .get(
            "/api/connections/{name}/channels",
            "its channels",
            channels_of,
        )
        .get(
            "/api/connections/username/{user}",
            "a user's connections",
            of_user,
        )
        .get(
            "/api/vhosts/{vhost}/connections",
            "connections to a vhost",
            of_vhost,
        )
        .get(
            "/api/vhosts/{vhost}/channels",
            "channels in a vhost",
            channels_in,
        )
        .get("/api/channels", "open channels", channels)
        .get("/api/channels/{name}", "one channel", channel)
        .get("/api/consumers", "consumers of all vhosts", consumers)
        .get(
            "/api/consumers/{vhost}",
            "consumers of a vhost",
            consumers_in,
        )
}

struct ListedConnection(SharedApi, Arc<ConnectionHandle>);

impl Listed for ListedConnection {
    fn name(&self) -> &str {
        &self.1.name
    }

    fn render(&self) -> Value {
        views::connection(&self.0, &self.1)
    }
}

struct ListedChannel(SharedApi, Arc<ConnectionHandle>, Arc<ChannelView>, String);

impl Listed for ListedChannel {
    fn name(&self) -> &str {
        &self.3
    }

    fn footprint(&self) -> usize {
        size_of_val(self) + self.3.len()
    }

    fn render(&self) -> Value {
        views::channel(&self.0, &self.1, &self.2)
    }
}

/// A consumer of a queue.
pub(super) struct ListedConsumer(SharedApi, QueueView, ConsumerView);

impl Listed for ListedConsumer {
    fn name(&self) -> &'static str {
        ""
    }

    fn render(&self) -> Value {
        views::consumer(&self.0, &self.1, &self.2)
    }
}

/// Connections that the caller may see, oldest first: its own, or all with the monitoring tag.
fn connections(api: &Api, caller: &Caller) -> Vec<Arc<ConnectionHandle>> {
    let mut connections = inspect::connections(&api.broker);
    connections.sort_by_key(|connection| connection.id);
    if caller.rank() < Rank::Monitoring {
        connections.retain(|connection| {
            connection
                .opened
                .get()
                .is_some_and(|opened| opened.user == caller.name)
        });
    }
    connections
}

fn find(api: &Api, caller: &Caller, name: &str) -> Result<Arc<ConnectionHandle>, ApiError> {
    connections(api, caller)
        .into_iter()
        .find(|connection| connection.name == name)
        .ok_or_else(ApiError::not_found)
}

async fn answer(
    api: &SharedApi,
    caller: &Caller,
    listing: Listing,
    connections: Vec<Arc<ConnectionHandle>>,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let all = move || {
        let connections = connections.into_iter();
        connections.map(move |connection| ListedConnection(SharedApi::clone(&shared), connection))
    };
    api.list(caller, listing, all).await
}

async fn answer_channels(
    api: &SharedApi,
    caller: &Caller,
    listing: Listing,
    connections: Vec<Arc<ConnectionHandle>>,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let all = move || {
        let of_connection = move |connection: Arc<ConnectionHandle>| {
            let (api, channels) = (SharedApi::clone(&shared), connection.channels());
            channels.into_iter().map(move |channel| {
                let name = views::channel_name(&connection, channel.number);
                ListedChannel(
                    SharedApi::clone(&api),
                    Arc::clone(&connection),
                    channel,
                    name,
                )
            })
        };
        connections.into_iter().flat_map(of_connection)
    };
    api.list(caller, listing, all).await
}

async fn list(
    State(api): State<SharedApi>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let connections = connections(&api, &caller);
    answer(&api, &caller, listing, connections).await
}

async fn of_user(
    State(api): State<SharedApi>,
    Path(user): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let mut connections = connections(&api, &caller);
    connections.retain(|connection| {
        connection
            .opened
            .get()
            .is_some_and(|opened| *opened.user == user)
    });
    answer(&api, &caller, listing, connections).await
}

fn in_vhost(
    api: &Api,
    caller: &Caller,
    vhost: &str,
) -> Result<Vec<Arc<ConnectionHandle>>, ApiError> {
    caller.vhost(api, vhost)?;
    let mut connections = connections(api, caller);
    connections.retain(|connection| {
        connection
            .opened
            .get()
            .is_some_and(|opened| *opened.vhost == *vhost)
    });
    Ok(connections)
}

async fn of_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let connections = in_vhost(&api, &caller, &vhost)?;
    answer(&api, &caller, listing, connections).await
}

async fn show(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let connection = find(&api, &caller, &name)?;
    Ok(Json(listing.narrow(views::connection(&api, &connection))))
}

async fn close(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let connection = find(&api, &caller, &name)?;
    // Whoever monitors sees the others' connections, and ends none of them; as in RabbitMQ.
    let is_own = connection
        .opened
        .get()
        .is_some_and(|opened| opened.user == caller.name);
    if !is_own {
        caller.administers()?;
    }
    let reason = headers
        .get("x-reason")
        .and_then(|reason| reason.to_str().ok())
        .unwrap_or("Closed via management plugin");
    connection.end(Fault::connection(ReplyCode::ConnectionForced, reason));
    Ok(StatusCode::NO_CONTENT)
}

async fn channels(
    State(api): State<SharedApi>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let connections = connections(&api, &caller);
    answer_channels(&api, &caller, listing, connections).await
}

async fn channels_in(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let connections = in_vhost(&api, &caller, &vhost)?;
    answer_channels(&api, &caller, listing, connections).await
}

async fn channels_of(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let connection = find(&api, &caller, &name)?;
    answer_channels(&api, &caller, listing, vec![connection]).await
}

async fn channel(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let found = connections(&api, &caller)
        .into_iter()
        .find_map(|connection| {
            let number = name
                .strip_prefix(&*connection.name)?
                .strip_prefix(" (")?
                .strip_suffix(')')?
                .parse::<u16>()
                .ok()?;
            let channel = connection
                .channels()
                .into_iter()
                .find(|channel| channel.number == number)?;
            Some(views::channel(&api, &connection, &channel))
        });
    found.map(Json).ok_or_else(ApiError::not_found)
}

/// The consumers of a queue.
pub(super) fn consumers_of(
    api: SharedApi,
    queue: QueueView,
) -> impl Iterator<Item = ListedConsumer> {
    let consumers = queue.consumers().into_iter();
    consumers.map(move |consumer| ListedConsumer(SharedApi::clone(&api), queue.clone(), consumer))
}

async fn answer_consumers(
    api: &SharedApi,
    caller: &Caller,
    listing: Listing,
    vhosts: Vec<Arc<Vhost>>,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let all = move || {
        let queues = vhosts.into_iter();
        let queues = queues.flat_map(|vhost| inspect::queues(&vhost));
        queues.flat_map(move |queue| consumers_of(SharedApi::clone(&shared), queue))
    };
    api.list(caller, listing, all).await
}

async fn consumers(
    State(api): State<SharedApi>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhosts = caller.vhosts(&api);
    answer_consumers(&api, &caller, listing, vhosts).await
}

async fn consumers_in(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = caller.vhost(&api, &vhost)?;
    answer_consumers(&api, &caller, listing, vec![vhost]).await
}
