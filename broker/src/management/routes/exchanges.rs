//! Exchanges.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::Routes;
use crate::exchange::{Declaration, Kind};
use crate::fault::Fault;
use crate::management::amqp_json::table_from_json;
use crate::management::auth::Caller;
use crate::management::paging::Listing;
use crate::management::refusal::Refusal;
use crate::management::{Api, Shared, views};
use crate::users::Operation;
use crate::vhost::{Condition, Vhost, check_name};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/exchanges", "exchanges of all vhosts", list)
        .get("/api/exchanges/{vhost}", "exchanges of a vhost", list_in)
        .get("/api/exchanges/{vhost}/{name}", "one exchange", show)
        .put(
            "/api/exchanges/{vhost}/{name}",
            "declare an exchange",
            declare,
        )
        .delete(
            "/api/exchanges/{vhost}/{name}",
            "delete an exchange; if-unused=true only without bindings",
            delete,
        )
}

fn all_of(vhost: &Vhost) -> Vec<Value> {
    let mut shown = Vec::new();
    vhost.each_exchange(|exchange| shown.push(views::exchange(vhost.name(), exchange)));
    shown.sort_by(|one, two| one["name"].as_str().cmp(&two["name"].as_str()));
    shown
}

async fn list(
    State(api): State<Shared>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    let all = caller
        .vhosts(&api)
        .iter()
        .flat_map(|vhost| all_of(vhost))
        .collect();
    Ok(Json(listing.show::<Value>(all)?))
}

async fn list_in(
    State(api): State<Shared>,
    Path(vhost): Path<String>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(listing.show(all_of(&*caller.vhost(&api, &vhost)?))?))
}

async fn show(
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let shown = vhost.with_exchange(super::exchange_name(&name), |exchange| {
        views::exchange(vhost.name(), exchange)
    });
    shown
        .map(|shown| Json(listing.narrow(shown)))
        .ok_or_else(Refusal::not_found)
}

/// What an exchange is to be; also a line of the definitions.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(rename = "type", default = "Wanted::direct")]
    kind: String,
    #[serde(default = "Wanted::yes", deserialize_with = "super::queues::claim")]
    durable: bool,
    #[serde(default, deserialize_with = "super::queues::claim")]
    auto_delete: bool,
    #[serde(default, deserialize_with = "super::queues::claim")]
    internal: bool,
    arguments: Option<Value>,
}

impl Wanted {
    fn direct() -> String {
        "direct".to_owned()
    }

    fn yes() -> bool {
        true
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            kind: Self::direct(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: None,
        }
    }
}

/// Declares an exchange for a caller; waits until it is durable.
pub(super) async fn make(
    api: &Api,
    caller: &Caller,
    vhost: &Arc<Vhost>,
    name: &str,
    wanted: Wanted,
) -> Result<(), Refusal> {
    check_name("exchange", name)?;
    if name.is_empty() {
        return Err(Refusal::forbidden("Access refused."));
    }
    caller.may(vhost.name(), Operation::Configure, name)?;
    let kind = Kind::parse(&wanted.kind)
        .ok_or_else(|| Refusal::bad(format!("unknown exchange type '{}'", wanted.kind)))?;
    let arguments = table_from_json(wanted.arguments.as_ref())?;
    let declaration = Declaration {
        kind,
        durable: wanted.durable,
        auto_delete: wanted.auto_delete,
        internal: wanted.internal,
        arguments,
    };
    if let Some(alternate) = declaration.alternate() {
        caller.may(vhost.name(), Operation::Read, name)?;
        caller.may(vhost.name(), Operation::Write, alternate)?;
    }
    let ticket = vhost.declare_exchange(name, declaration)?;
    super::kept(api, ticket).await
}

async fn declare(
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let wanted = super::read_or_default(&body)?;
    let was_there = vhost.with_exchange(&name, |_| ()).is_some();
    make(&api, &caller, &vhost, &name, wanted).await?;
    Ok(super::made(was_there))
}

#[derive(Deserialize)]
struct Conditions {
    #[serde(rename = "if-unused", default)]
    unused: Option<String>,
}

async fn delete(
    State(api): State<Shared>,
    Path((vhost, name)): Path<(String, String)>,
    Query(only): Query<Conditions>,
    caller: Caller,
) -> Result<StatusCode, Refusal> {
    let vhost = caller.vhost(&api, &vhost)?;
    let name = super::exchange_name(&name);
    vhost
        .with_exchange(name, |_| ())
        .ok_or_else(Refusal::not_found)?;
    if name.is_empty() {
        return Err(Refusal::forbidden("Access refused."));
    }
    check_name("exchange", name).map_err(|_: Fault| Refusal::forbidden("Access refused."))?;
    caller.may(vhost.name(), Operation::Configure, name)?;
    let condition = Condition {
        unused: only.unused.as_deref() == Some("true"),
        ..Condition::default()
    };
    let ticket = vhost.delete_exchange(name, condition)?;
    super::kept(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}
