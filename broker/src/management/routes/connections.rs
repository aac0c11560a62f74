//! Connections, channels and consumers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::Value;

use super::Routes;
use crate::fault::{Fault, ReplyCode};
use crate::inspect::{self, ChannelView, ConnectionHandle, QueueView};
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

struct ListedLink(SharedApi, Arc<ConnectionHandle>);

impl Listed for ListedLink {
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

    fn render(&self) -> Value {
        views::channel(&self.0, &self.1, &self.2)
    }
}

/// Connections that the caller may see, oldest first: its own, or all with the monitoring tag.
fn links(api: &Api, caller: &Caller) -> Vec<Arc<ConnectionHandle>> {
    let mut links = inspect::connections(&api.broker);
    links.sort_by_key(|link| link.id);
    if caller.rank() < Rank::Monitoring {
        links.retain(|link| {
            link.session
                .get()
                .is_some_and(|session| session.user == caller.name)
        });
    }
    links
}

fn find(api: &Api, caller: &Caller, name: &str) -> Result<Arc<ConnectionHandle>, ApiError> {
    links(api, caller)
        .into_iter()
        .find(|link| link.name == name)
        .ok_or_else(ApiError::not_found)
}

async fn answer(
    api: &SharedApi,
    caller: &Caller,
    listing: Listing,
    links: Vec<Arc<ConnectionHandle>>,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let all = move || {
        let links = links.into_iter();
        links
            .map(|link| ListedLink(SharedApi::clone(&shared), link))
            .collect()
    };
    api.list::<ListedLink>(caller, listing, all).await
}

async fn answer_channels(
    api: &SharedApi,
    caller: &Caller,
    listing: Listing,
    links: Vec<Arc<ConnectionHandle>>,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let all = move || {
        let mut listed = Vec::new();
        for link in links {
            for channel in link.channels() {
                let name = views::channel_name(&link, channel.number);
                let api = SharedApi::clone(&shared);
                listed.push(ListedChannel(api, Arc::clone(&link), channel, name));
            }
        }
        listed
    };
    api.list(caller, listing, all).await
}

async fn list(
    State(api): State<SharedApi>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let links = links(&api, &caller);
    answer(&api, &caller, listing, links).await
}

async fn of_user(
    State(api): State<SharedApi>,
    Path(user): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let mut links = links(&api, &caller);
    links.retain(|link| {
        link.session
            .get()
            .is_some_and(|session| *session.user == user)
    });
    answer(&api, &caller, listing, links).await
}

fn in_vhost(
    api: &Api,
    caller: &Caller,
    vhost: &str,
) -> Result<Vec<Arc<ConnectionHandle>>, ApiError> {
    caller.vhost(api, vhost)?;
    let mut links = links(api, caller);
    links.retain(|link| {
        link.session
            .get()
            .is_some_and(|session| *session.vhost == *vhost)
    });
    Ok(links)
}

async fn of_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let links = in_vhost(&api, &caller, &vhost)?;
    answer(&api, &caller, listing, links).await
}

async fn show(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let link = find(&api, &caller, &name)?;
    Ok(Json(listing.narrow(views::connection(&api, &link))))
}

async fn close(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let link = find(&api, &caller, &name)?;
    // Whoever monitors sees the others' connections, and ends none of them; as in RabbitMQ.
    let is_own = link
        .session
        .get()
        .is_some_and(|session| session.user == caller.name);
    if !is_own {
        caller.administers()?;
    }
    let reason = headers
        .get("x-reason")
        .and_then(|reason| reason.to_str().ok())
        .unwrap_or("Closed via management plugin");
    link.end(Fault::connection(ReplyCode::ConnectionForced, reason));
    Ok(StatusCode::NO_CONTENT)
}

async fn channels(
    State(api): State<SharedApi>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let links = links(&api, &caller);
    answer_channels(&api, &caller, listing, links).await
}

async fn channels_in(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let links = in_vhost(&api, &caller, &vhost)?;
    answer_channels(&api, &caller, listing, links).await
}

async fn channels_of(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let link = find(&api, &caller, &name)?;
    answer_channels(&api, &caller, listing, vec![link]).await
}

async fn channel(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let found = links(&api, &caller).into_iter().find_map(|link| {
        let number = name
            .strip_prefix(&*link.name)?
            .strip_prefix(" (")?
            .strip_suffix(')')?
            .parse::<u16>()
            .ok()?;
        let channel = link
            .channels()
            .into_iter()
            .find(|channel| channel.number == number)?;
        Some(views::channel(&api, &link, &channel))
    });
    found.map(Json).ok_or_else(ApiError::not_found)
}

/// The consumers of a queue.
pub(super) fn consumers_of(api: &Api, queue: &QueueView) -> Vec<Value> {
    let consumers = queue.consumers();
    consumers
        .iter()
        .map(|consumer| views::consumer(api, queue, consumer))
        .collect()
}

async fn answer_consumers(
    api: &SharedApi,
    caller: &Caller,
    listing: Listing,
    vhosts: Vec<Arc<Vhost>>,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let all = move || {
        let queues = vhosts.iter().flat_map(|vhost| inspect::queues(vhost));
        queues
            .flat_map(|queue| consumers_of(&shared, &queue))
            .collect()
    };
    api.list::<Value>(caller, listing, all).await
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
