//! The permissions of users in vhosts, for administrators. A withdrawn permission takes effect at
//! once, also on open connections.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::Routes;
use super::users::forget;
use crate::broker_state::{check_access_room, permission_definition};
use crate::lock::{read, write};
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory::CallerBody;
use crate::management::{Api, SharedApi, views};
use crate::persist::Ticket;
use crate::revocation;
use crate::users::{Permissions, User, Users};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/api/users/{user}/permissions",
            "what a user may touch",
            permissions_of,
        )
        .get("/api/permissions", "all permissions", permissions)
        .get(
            "/api/permissions/{vhost}/{user}",
            "a user's permissions in a vhost",
            permission,
        )
        .put(
            "/api/permissions/{vhost}/{user}",
            "let a user into a vhost",
            allow,
        )
        .delete(
            "/api/permissions/{vhost}/{user}",
            "shut a user out of a vhost",
            forbid,
        )
        .get("/api/topic-permissions", "none", super::overview::none)
}

async fn permissions_of(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.is_or_administers(&name)?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let user = read(&shared.broker.users).get(&name).cloned();
        let user = user.ok_or_else(ApiError::not_found)?;
        Ok(all_of(&name, &user).collect())
    };
    api.respond_with(&caller, work).await
}

fn all_of<'a>(name: &'a str, user: &'a User) -> impl Iterator<Item = Value> + 'a {
    user.permissions()
        .map(move |(vhost, permissions)| views::permission(name, vhost, permissions))
}

async fn permissions(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let users = read(&shared.broker.users).snapshot();
        let each = users.iter().flat_map(|(name, user)| all_of(name, user));
        Ok(each.collect())
    };
    api.respond_with(&caller, work).await
}

async fn permission(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.administers()?;
    let users = read(&api.broker.users);
    let found = users
        .permissions(&name, &vhost)
        .ok_or_else(ApiError::not_found)?;
    Ok(Json(views::permission(&name, &vhost, found)))
}

/// Three expressions; also a line of the definitions.
#[derive(Debug, Deserialize)]
pub(super) struct PermissionPatterns {
    configure: String,
    write: String,
    read: String,
}

impl PermissionPatterns {
    pub(super) fn compile(&self) -> Result<Permissions, ApiError> {
        Ok(Permissions::new(&self.configure, &self.write, &self.read)?)
    }
}

/// About how many bytes more these permissions take than those that the user has there.
pub(super) fn permission_growth(
    api: &Api,
    user: &str,
    vhost: &str,
    permissions: &Permissions,
) -> usize {
    let users = read(&api.broker.users);
    let known = users.permissions(user, vhost);
    let held = known.map_or(0, |known| known.footprint(vhost));
    permissions.footprint(vhost).saturating_sub(held)
}

/// Sets the permissions of a user in a vhost. Refused if the caller is not an administrator any
/// more.
pub(super) fn permit(
    api: &Api,
    caller: &Caller,
    (user, vhost): (&str, &str),
    permissions: Permissions,
) -> Result<Ticket, ApiError> {
    let check = |users: &Users| caller.check_administers_among(users);
    let ticket = api.broker.permit((user, vhost), permissions, check);
    revocation::restrict(&api.broker, user, vhost);
    ticket?.ok_or_else(ApiError::not_found)
}

async fn allow(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    caller.administers()?;
    let allowed: PermissionPatterns = super::read(&body)?;
    let is_user = read(&api.broker.users).get(&name).is_some();
    if !is_user || api.broker.vhost(&vhost).is_none() {
        return Err(ApiError::bad("vhost_or_user_not_found"));
    }
    let was_there = read(&api.broker.users).may_enter(&name, &vhost);
    let permissions = allowed.compile()?;
    let growth = permission_growth(&api, &name, &vhost, &permissions);
    check_access_room(growth, || format!("let user '{name}' into vhost '{vhost}'"))?;
    let ticket = permit(&api, &caller, (&name, &vhost), permissions)?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(super::made(was_there))
}

async fn forbid(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    let gone = permission_definition(&name, &vhost, &Permissions::all());
    let ticket = {
        let mut users = write(&api.broker.users);
        caller.check_administers_among(&users)?;
        if !users.forbid(&name, &vhost) {
            return Err(ApiError::not_found());
        }
        forget(&api, &[gone])
    };
    revocation::restrict(&api.broker, &name, &vhost);
    super::wait_until_durable(&api, ticket?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::tests::TestApi;
    use crate::vhost::VhostLabels;

    #[tokio::test]
    async fn the_permissions_of_a_user_in_many_vhosts_hold_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let state = State(SharedApi::clone(&test.api));
        let request = permissions_of(state, Path("ada".to_owned()), test.ada());
        let (response, has_waited) = test.without_slots(request).await;
        assert!(response.is_ok());
        assert!(has_waited, "they were listed where requests are served");
        test.stop().await;
    }

    #[tokio::test]
    async fn a_deleted_administrator_shuts_nobody_out() {
        let test = TestApi::start().await;
        write(&test.api.broker.users).put("bee", None, Vec::new());
        let place = ("bee", "/");
        assert!(permit(&test.api, &test.ada(), place, Permissions::all()).is_ok());
        let state = State(SharedApi::clone(&test.api));
        let named = Path(("/".to_owned(), "bee".to_owned()));
        assert!(forbid(state, named, test.deleted_ada()).await.is_err());
        assert!(read(&test.api.broker.users).may_enter("bee", "/"));
        test.stop().await;
    }

    #[tokio::test]
    async fn a_right_in_a_vhost_that_goes_meanwhile_does_not_wait_for_the_next_of_its_name() {
        let test = TestApi::start().await;
        let ada = |vhost: &str| read(&test.api.broker.users).may_enter("ada", vhost);
        assert!(
            test.api
                .broker
                .put_vhost("v", VhostLabels::default())
                .is_ok()
        );
        let permit = || {
            let place = ("ada", "v");
            permit(&test.api, &test.ada(), place, Permissions::all())
        };
        assert!(permit().is_ok());
        assert!(test.api.broker.remove_vhost_here("v").is_ok());
        assert!(!ada("v"), "it went with the vhost");
        assert!(permit().is_err());
        assert!(!ada("v"), "it was given for a vhost that is not there");
        test.stop().await;
    }
}
