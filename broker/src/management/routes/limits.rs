//! Limits of vhosts and users, and feature flags: the paths are there, and nothing is ever set.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Routes;
use crate::lock::read;
use crate::management::SharedApi;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/feature-flags", "none", super::overview::none)
        .put("/api/feature-flags/{name}/enable", "refused", enable)
        .get("/api/vhost-limits", "none", of_all)
        .get("/api/vhost-limits/{vhost}", "none", of_vhost)
        .put("/api/vhost-limits/{vhost}/{name}", "refused", limit_vhost)
        .delete(
            "/api/vhost-limits/{vhost}/{name}",
            "accepted, and nothing to do",
            free_vhost,
        )
        .get("/api/user-limits", "none", of_all)
        .get("/api/user-limits/{user}", "none", of_user)
        .put("/api/user-limits/{user}/{name}", "refused", limit_user)
        .delete(
            "/api/user-limits/{user}/{name}",
            "accepted, and nothing to do",
            free_user,
        )
}

/// Why no limit is taken: one that is not kept would be worse.
const NO_LIMITS: &str = "limits of vhosts and users are not supported";

async fn enable(Path(_name): Path<String>, caller: Caller) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    Err(ApiError::bad("unsupported"))
}

async fn of_all(caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.administers()?;
    Ok(Json(json!([])))
}

async fn of_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.vhost(&api, &vhost)?;
    Ok(Json(json!([])))
}

async fn of_user(
    State(api): State<SharedApi>,
    Path(user): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.administers()?;
    find_user(&api, &user)?;
    Ok(Json(json!([])))
}

fn find_user(api: &SharedApi, name: &str) -> Result<(), ApiError> {
    let users = read(&api.broker.users);
    users.get(name).map(drop).ok_or_else(ApiError::not_found)
}

async fn limit_vhost(
    State(api): State<SharedApi>,
    Path((vhost, _name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    api.broker.vhost(&vhost).ok_or_else(ApiError::not_found)?;
    Err(ApiError::bad(NO_LIMITS))
}

async fn free_vhost(
    State(api): State<SharedApi>,
    Path((vhost, _name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    api.broker.vhost(&vhost).ok_or_else(ApiError::not_found)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn limit_user(
    State(api): State<SharedApi>,
    Path((user, _name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    find_user(&api, &user)?;
    Err(ApiError::bad(NO_LIMITS))
}

async fn free_user(
    State(api): State<SharedApi>,
    Path((user, _name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    find_user(&api, &user)?;
    Ok(StatusCode::NO_CONTENT)
}
