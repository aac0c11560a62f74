//! The broker as a whole.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::Routes;
use crate::management::auth::Caller;
use crate::management::paging::ListingQuery;
use crate::management::refusal::ApiError;
use crate::management::{SharedApi, history, views};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/api/overview",
            "totals, rates and listeners of the broker",
            overview,
        )
        .get(
            "/api/history",
            "the last five minutes of the broker, one column a figure",
            past,
        )
        .get("/api/cluster-name", "the broker's name", cluster_name)
        .get("/api/nodes", "the one node that there is", nodes)
        .get("/api/nodes/{name}", "the same by its name", node)
        .get("/api/extensions", "none", none)
        .get("/api/auth", "no single sign-on", auth)
        .get("/api/whoami", "the caller's name and tags", whoami)
}

async fn overview(
    State(api): State<SharedApi>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let (shared, asker) = (SharedApi::clone(&api), caller.clone());
    let work = move || {
        shared.rates.observe(&shared.broker, Instant::now());
        let shown = if asker.monitors().is_ok() {
            views::overview(&shared)
        } else {
            let (vhosts, connections) = (asker.vhosts(&shared), asker.connections(&shared));
            views::overview_of(&shared, &vhosts, &connections)
        };
        listing.narrow(shown)
    };
    api.respond_with(&caller, work).await
}

async fn past(State(api): State<SharedApi>, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.monitors()?;
    Ok(Json(history::to_json(&api.rates.points())))
}

async fn cluster_name(State(api): State<SharedApi>, _caller: Caller) -> Json<Value> {
    Json(json!({ "name": api.node }))
}

async fn nodes(
    State(api): State<SharedApi>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.monitors()?;
    let node = views::node(&api);
    api.list(&caller, listing, move || vec![node]).await
}

async fn node(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.monitors()?;
    if name == api.node {
        Ok(Json(views::node(&api)))
    } else {
        Err(ApiError::not_found())
    }
}

/// For lists of things that exist at RabbitMQ only.
pub(super) async fn none(_caller: Caller) -> Json<Value> {
    Json(json!([]))
}

/// Open to anybody, as in RabbitMQ: tools read it before they log in.
async fn auth() -> Json<Value> {
    Json(json!({ "enable_uaa": false, "oauth_enabled": false }))
}

async fn whoami(caller: Caller) -> Json<Value> {
    let tags: Vec<_> = caller.user.tags.iter().map(|tag| &tag.0).collect();
    Json(json!({ "name": &*caller.name, "tags": tags }))
}
