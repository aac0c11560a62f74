//! Connections, channels and consumers.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::Value;

use super::Routes;
use crate::fault::{Fault, ReplyCode};
use crate::inspect::{self, ChannelView, ConnectionHandle, ConsumerView, QueueView};
use crate::management::auth::Caller;
use crate::management::paging::{Collected, Listed, ListingQuery};
use crate::management::refusal::ApiError;
use crate::management::{Api, SharedApi, views};

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
            list,
        )
        .get(
            "/api/vhosts/{vhost}/channels",
            "channels in a vhost",
            channels,
        )
        .get("/api/channels", "open channels", channels)
        .get("/api/channels/{name}", "one channel", channel)
        .get("/api/consumers", "consumers of all vhosts", consumers)
        .get("/api/consumers/{vhost}", "consumers of a vhost", consumers)
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

type Connection = Arc<ConnectionHandle>;

/// Selects the connections of a listing: those to the named vhost, or all.
fn in_vhost(
    api: &Api,
    caller: &Caller,
    vhost: Option<Path<String>>,
) -> Result<impl Fn(&ConnectionHandle) -> bool + Send + 'static, ApiError> {
    let vhost = match vhost {
        Some(Path(name)) => Some(caller.vhost(api, &name)?),
        None => None,
    };
    Ok(move |connection: &ConnectionHandle| {
        let opened = connection.opened.get();
        vhost
            .as_ref()
            .is_none_or(|vhost| opened.is_some_and(|opened| *opened.vhost == **vhost.name()))
    })
}

fn find(api: &Api, caller: &Caller, name: &str) -> Result<Connection, ApiError> {
    caller
        .connections(api)
        .into_iter()
        .find(|connection| connection.name == name)
        .ok_or_else(ApiError::not_found)
}

/// Lists the connections that are `wanted`.
async fn respond(
    api: &SharedApi,
    caller: &Caller,
    listing: ListingQuery,
    wanted: impl Fn(&ConnectionHandle) -> bool + Send + 'static,
) -> Result<Response, ApiError> {
    let (shared, asker) = (SharedApi::clone(api), caller.clone());
    let all = move || {
        let connections = asker.connections(&shared).into_iter();
        let wanted = connections.filter(move |connection| wanted(connection));
        wanted.map(move |connection| ListedConnection(SharedApi::clone(&shared), connection))
    };
    api.list(caller, listing, all).await
}

/// Adds the channels of a connection.
fn add_channels(
    api: &SharedApi,
    connection: &Connection,
    into: &mut Collected<'_, ListedChannel>,
) -> Result<(), ApiError> {
    let channels = connection.channels().into_iter();
    into.extend(channels.map(|channel| {
        let name = views::channel_name(connection, channel.number);
        let (api, connection) = (SharedApi::clone(api), Arc::clone(connection));
        ListedChannel(api, connection, channel, name)
    }))
}

async fn list(
    State(api): State<SharedApi>,
    vhost: Option<Path<String>>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let wanted = in_vhost(&api, &caller, vhost)?;
    respond(&api, &caller, listing, wanted).await
}

async fn of_user(
    State(api): State<SharedApi>,
    Path(user): Path<String>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let wanted = move |connection: &ConnectionHandle| connection.is_of_user(&user);
    respond(&api, &caller, listing, wanted).await
}

async fn show(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let (shared, asker) = (SharedApi::clone(&api), caller.clone());
    let work = move || {
        let connection = find(&shared, &asker, &name)?;
        listing.narrow(views::connection(&shared, &connection))
    };
    api.respond_with(&caller, work).await
}

async fn close(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    let (shared, asker) = (SharedApi::clone(&api), caller.clone());
    let looking = move || find(&shared, &asker, &name);
    let connection = api.run_in_slot(&caller, looking).await?;
    // The tag `monitoring` shows the connections of others and does not close them, as in RabbitMQ.
    if !connection.is_of_user(&caller.name) {
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
    vhost: Option<Path<String>>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let wanted = in_vhost(&api, &caller, vhost)?;
    let (shared, asker) = (SharedApi::clone(&api), caller.clone());
    let all = move |into: &mut Collected<'_, _>| {
        let connections = asker.connections(&shared).into_iter();
        let mut wanted = connections.filter(|connection| wanted(connection));
        wanted.try_for_each(|connection| add_channels(&shared, &connection, into))
    };
    api.list_into(&caller, listing, all).await
}

async fn channels_of(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let (shared, asker) = (SharedApi::clone(&api), caller.clone());
    let all = move |into: &mut Collected<'_, _>| {
        add_channels(&shared, &find(&shared, &asker, &name)?, into)
    };
    api.list_into(&caller, listing, all).await
}

async fn channel(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let (shared, asker) = (SharedApi::clone(&api), caller.clone());
    let work = move || {
        let mut connections = asker.connections(&shared).into_iter();
        let found = connections.find_map(|connection| channel_of(&shared, &connection, &name));
        found.ok_or_else(ApiError::not_found)
    };
    api.respond_with(&caller, work).await
}

/// The channel of a connection that has this name.
fn channel_of(api: &Api, connection: &ConnectionHandle, name: &str) -> Option<Value> {
    let number = name
        .strip_prefix(&*connection.name)?
        .strip_prefix(" (")?
        .strip_suffix(')')?
        .parse::<u16>()
        .ok()?;
    let mut channels = connection.channels().into_iter();
    let channel = channels.find(|channel| channel.number == number)?;
    Some(views::channel(api, connection, &channel))
}

/// The consumers of a queue.
pub(super) fn consumers_of(
    api: SharedApi,
    queue: QueueView,
) -> impl Iterator<Item = ListedConsumer> {
    let consumers = queue.consumers().into_iter();
    consumers.map(move |consumer| ListedConsumer(SharedApi::clone(&api), queue.clone(), consumer))
}

async fn consumers(
    State(api): State<SharedApi>,
    vhost: Option<Path<String>>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhosts = caller.vhosts_of(&api, vhost)?;
    let shared = SharedApi::clone(&api);
    let all = move || {
        let queues = vhosts.into_iter();
        let queues = queues.flat_map(|vhost| inspect::queues(&vhost));
        queues.flat_map(move |queue| consumers_of(SharedApi::clone(&shared), queue))
    };
    api.list(&caller, listing, all).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::tests::TestApi;

    #[tokio::test]
    async fn a_look_among_all_connections_holds_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let state = || State(SharedApi::clone(&test.api));
        let name = || Path("none".to_owned());
        let all = || Query(ListingQuery::default());
        let looks = [
            test.without_slots(async { show(state(), name(), all(), test.ada()).await.is_err() })
                .await,
            test.without_slots(async { channel(state(), name(), test.ada()).await.is_err() })
                .await,
            test.without_slots(async {
                channels_of(state(), name(), all(), test.ada())
                    .await
                    .is_err()
            })
            .await,
            test.without_slots(async {
                let headers = HeaderMap::new();
                close(state(), name(), headers, test.ada()).await.is_err()
            })
            .await,
        ];
        for (is_missing, has_waited) in looks {
            assert!(is_missing);
            assert!(has_waited, "it was looked for where requests are served");
        }
        test.stop().await;
    }
}
