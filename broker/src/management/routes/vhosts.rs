//! Vhosts: for administrators, but for those that the caller may enter.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::Routes;
use crate::lock::read;
use crate::management::auth::Caller;
use crate::management::paging::Listing;
use crate::management::refusal::Refusal;
use crate::management::{Api, Shared, views};
use crate::users::{Permissions, Rank};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/vhosts", "vhosts", list)
        .get("/api/vhosts/{vhost}", "one vhost", show)
        .put("/api/vhosts/{vhost}", "make a vhost", make)
        .delete(
            "/api/vhosts/{vhost}",
            "delete a vhost with everything in it",
            delete,
        )
        .get(
            "/api/vhosts/{vhost}/permissions",
            "who may enter a vhost",
            permissions,
        )
        .get(
            "/api/vhosts/{vhost}/topic-permissions",
            "none",
            super::overview::none,
        )
}

async fn list(
    State(api): State<Shared>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    let all = if caller.rank() >= Rank::Monitoring {
        api.realm.vhosts()
    } else {
        caller.vhosts(&api)
    };
    Ok(Json(listing.show(
        all.iter().map(|vhost| views::vhost(&api, vhost)).collect(),
    )?))
}

async fn show(
    State(api): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    let vhost = api.realm.vhost(&name).ok_or_else(Refusal::not_found)?;
    if !caller.sees(&name) {
        caller.monitors()?;
    }
    Ok(Json(views::vhost(&api, &vhost)))
}

/// Makes a vhost unless it is there, and lets its maker in; says whether it was there.
pub(super) async fn create(api: &Api, caller: &Caller, name: &str) -> Result<bool, Refusal> {
    caller.administers()?;
    if name.is_empty() || name.len() > 255 {
        return Err(Refusal::bad("a vhost's name has 1 to 255 bytes"));
    }
    if api.realm.vhost(name).is_some() {
        return Ok(true);
    }
    let ticket = api.realm.add_vhost(name)?;
    super::kept(api, ticket).await?;
    super::users::permit(api, &caller.name, name, Permissions::all()).await?;
    Ok(false)
}

async fn make(
    State(api): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, Refusal> {
    let _described: Value = super::read_or_default(&body)?;
    Ok(super::made(create(&api, &caller, &name).await?))
}

async fn delete(
    State(api): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Refusal> {
    caller.administers()?;
    api.realm.vhost(&name).ok_or_else(Refusal::not_found)?;
    if name == "/" {
        return Err(Refusal::bad("the vhost '/' always exists"));
    }
    let ticket = api.realm.remove_vhost(&name)?;
    super::users::forget_vhost(&api, &name).await?;
    super::kept(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn permissions(
    State(api): State<Shared>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, Refusal> {
    caller.administers()?;
    api.realm.vhost(&vhost).ok_or_else(Refusal::not_found)?;
    let users = read(&api.realm.users);
    let of = |(name, user): (&str, &crate::users::User)| {
        Some(views::permission(
            name,
            &vhost,
            user.permissions_in(&vhost)?,
        ))
    };
    Ok(Json(users.iter().filter_map(of).collect()))
}
