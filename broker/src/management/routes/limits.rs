//! Limits of vhosts and users, which administrators set. Feature flags: there are none.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Routes;
use crate::lock::read;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory::CallerBody;
use crate::management::{Api, SharedApi, views};
use crate::persist::Ticket;
use crate::quotas::{Quota, QuotaScope};
use crate::users::{Rank, Users};
use crate::wire::erlang;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/feature-flags", "none", super::overview::none)
        .put("/api/feature-flags/{name}/enable", "refused", enable)
        .get("/api/vhost-limits", "the limits of all vhosts", of_vhosts)
        .get(
            "/api/vhost-limits/{vhost}",
            "the limits of a vhost",
            of_vhost,
        )
        .put(
            "/api/vhost-limits/{vhost}/{name}",
            "limit a vhost: max-connections, max-queues",
            limit_vhost,
        )
        .delete(
            "/api/vhost-limits/{vhost}/{name}",
            "remove a limit of a vhost",
            free_vhost,
        )
        .get("/api/user-limits", "the limits of all users", of_users)
        .get("/api/user-limits/{user}", "the limits of a user", of_user)
        .put(
            "/api/user-limits/{user}/{name}",
            "limit a user: max-connections, max-channels",
            limit_user,
        )
        .delete(
            "/api/user-limits/{user}/{name}",
            "remove a limit of a user",
            free_user,
        )
        .get(
            "/api/parameters",
            "the limits of all vhosts, as parameters",
            parameters,
        )
}

async fn enable(Path(_name): Path<String>, caller: Caller) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    Err(ApiError::bad("unsupported"))
}

/// The limits of those that `is_seen` chooses, each with its name in the field `field`.
async fn list(
    api: &SharedApi,
    caller: &Caller,
    (scope, field): (QuotaScope, &'static str),
    is_seen: impl Fn(&str) -> bool + Send + 'static,
) -> Result<Response, ApiError> {
    let shared = SharedApi::clone(api);
    let work = move || {
        let quotas = read(&shared.broker.quotas);
        let seen = quotas.iter(scope).filter(|(name, _)| is_seen(name));
        let line = |(name, quota)| json!({ field: name, "value": views::limits(quota) });
        Ok(seen.map(line).collect())
    };
    api.respond_with(caller, work).await
}

/// Which vhosts a caller gets the limits of.
fn sees(caller: Caller) -> impl Fn(&str) -> bool {
    let sees_all = caller.rank() >= Rank::Monitoring;
    move |name| sees_all || caller.sees(name)
}

async fn of_vhosts(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    let is_seen = sees(caller.clone());
    list(&api, &caller, (QuotaScope::Vhost, "vhost"), is_seen).await
}

async fn of_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.vhost(&api, &vhost)?;
    let is_it = move |name: &str| name == vhost;
    list(&api, &caller, (QuotaScope::Vhost, "vhost"), is_it).await
}

async fn of_users(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.administers()?;
    list(&api, &caller, (QuotaScope::User, "user"), |_| true).await
}

async fn of_user(
    State(api): State<SharedApi>,
    Path(user): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.is_or_administers(&user)?;
    find_user(&api, &user)?;
    let is_it = move |name: &str| name == user;
    list(&api, &caller, (QuotaScope::User, "user"), is_it).await
}

async fn parameters(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    let (shared, is_seen) = (SharedApi::clone(&api), sees(caller.clone()));
    api.respond_with(&caller, move || Ok(as_parameters(&shared, is_seen)))
        .await
}

/// The limits of vhosts as RabbitMQ keeps and exports them.
pub(super) fn as_parameters(api: &Api, is_wanted: impl Fn(&str) -> bool) -> Value {
    let quotas = read(&api.broker.quotas);
    let wanted = quotas.iter(QuotaScope::Vhost);
    let line = |(vhost, quota)| {
        json!({
            "component": VHOST_LIMITS,
            "name": "limits",
            "vhost": vhost,
            "value": views::limits(quota),
        })
    };
    wanted
        .filter(|(vhost, _)| is_wanted(vhost))
        .map(line)
        .collect()
}

/// What RabbitMQ calls the parameters that are limits of vhosts.
pub(super) const VHOST_LIMITS: &str = "vhost-limits";

fn find_user(api: &Api, name: &str) -> Result<(), ApiError> {
    let users = read(&api.broker.users);
    users.get(name).map(drop).ok_or_else(ApiError::not_found)
}

fn find_vhost(api: &Api, name: &str) -> Result<(), ApiError> {
    let vhost = api.broker.vhost(name);
    vhost.map(drop).ok_or_else(ApiError::not_found)
}

/// The limits of an object of JSON.
pub(super) fn parse(scope: QuotaScope, limits: &Map<String, Value>) -> Result<Quota, ApiError> {
    // RabbitMQ says of a vhost's that they are validated as parameters are.
    let refusal = |text: String| match scope {
        QuotaScope::Vhost => ApiError::bad(format!("Validation failed\n\n{text}\n")),
        QuotaScope::User => ApiError::bad(text),
    };
    let mut quota = Quota::default();
    for (name, value) in limits {
        let Some(kind) = scope.kind(name) else {
            let place = match scope {
                QuotaScope::Vhost => "limits",
                QuotaScope::User => "user-limits",
            };
            let (name, value) = (erlang::binary(name.as_bytes()), term(value));
            let text = format!("Unrecognised terms [{{{name},{value}}}] in {place}");
            return Err(refusal(text));
        };
        let number = value.as_i64().ok_or_else(|| {
            refusal(format!(
                "{name} should be a number, actually was {}",
                term(value)
            ))
        })?;
        quota.set(kind, number);
    }
    Ok(quota)
}

/// As Erlang writes what came as JSON.
fn term(value: &Value) -> String {
    match value {
        Value::String(text) => erlang::binary(text.as_bytes()),
        other => other.to_string(),
    }
}

#[derive(Deserialize)]
struct Limit {
    #[serde(deserialize_with = "present")]
    value: Value,
}

/// A value that must be there and may be `null`.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
    Value::deserialize(from)
}

/// Sets one limit.
async fn set(
    api: &Api,
    sent: &CallerBody,
    (scope, of): (QuotaScope, &str),
    name: String,
) -> Result<StatusCode, ApiError> {
    let limit: Limit = super::read(&sent.body)?;
    let quota = parse(scope, &[(name, limit.value)].into_iter().collect())?;
    let ticket = merge(api, &sent.caller, (scope, of), &quota)?;
    super::wait_until_durable(api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes limits. Refused if the caller is not an administrator any more.
pub(super) fn change(
    api: &Api,
    caller: &Caller,
    of: (QuotaScope, &str),
    change: impl FnOnce(&mut Quota),
) -> Result<Ticket, ApiError> {
    let check = |users: &Users| caller.check_administers_among(users);
    api.broker.change_quota(of, change, check)
}

/// Sets these limits and keeps the others.
pub(super) fn merge(
    api: &Api,
    caller: &Caller,
    of: (QuotaScope, &str),
    limits: &Quota,
) -> Result<Ticket, ApiError> {
    change(api, caller, of, |quota| quota.merge(limits))
}

/// Removes one limit; there may be none.
async fn free(
    api: &Api,
    caller: &Caller,
    (scope, of): (QuotaScope, &str),
    name: &str,
) -> Result<StatusCode, ApiError> {
    if let Some(kind) = scope.kind(name) {
        let ticket = change(api, caller, (scope, of), |quota| quota.remove(kind))?;
        super::wait_until_durable(api, ticket).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn limit_vhost(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    sent: CallerBody,
) -> Result<StatusCode, ApiError> {
    sent.caller.administers()?;
    find_vhost(&api, &vhost)?;
    set(&api, &sent, (QuotaScope::Vhost, &vhost), name).await
}

async fn free_vhost(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    find_vhost(&api, &vhost)?;
    free(&api, &caller, (QuotaScope::Vhost, &vhost), &name).await
}

async fn limit_user(
    State(api): State<SharedApi>,
    Path((user, name)): Path<(String, String)>,
    sent: CallerBody,
) -> Result<StatusCode, ApiError> {
    sent.caller.administers()?;
    if find_user(&api, &user).is_err() {
        return Err(ApiError::bad_value(json!(["no_such_user", user])));
    }
    set(&api, &sent, (QuotaScope::User, &user), name).await
}

async fn free_user(
    State(api): State<SharedApi>,
    Path((user, name)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    find_user(&api, &user)?;
    free(&api, &caller, (QuotaScope::User, &user), &name).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::tests::TestApi;

    #[tokio::test]
    async fn a_deleted_administrator_changes_no_limits() {
        let test = TestApi::start().await;
        let state = || State(SharedApi::clone(&test.api));
        let limit = || Path(("/".to_owned(), "max-queues".to_owned()));
        let sent = |caller, value: &'static str| CallerBody {
            caller,
            body: value.as_bytes().into(),
        };
        let set = limit_vhost(state(), limit(), sent(test.ada(), r#"{"value":7}"#)).await;
        assert!(set.is_ok());
        let limits = || {
            let quotas = read(&test.api.broker.quotas);
            quotas.get(QuotaScope::Vhost, "/").cloned()
        };
        let (before, ada) = (limits(), test.deleted_ada());
        assert!(before.is_some());
        let other = sent(ada.clone(), r#"{"value":9}"#);
        assert!(limit_vhost(state(), limit(), other).await.is_err());
        assert!(free_vhost(state(), limit(), ada).await.is_err());
        assert_eq!(limits(), before);
        test.stop().await;
    }

    #[tokio::test]
    async fn a_list_of_limits_of_many_vhosts_and_users_holds_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let state = || State(SharedApi::clone(&test.api));
        let root = || Path("/".to_owned());
        let ada = || Path("ada".to_owned());
        for (response, has_waited) in [
            test.without_slots(of_vhosts(state(), test.ada())).await,
            test.without_slots(of_vhost(state(), root(), test.ada()))
                .await,
            test.without_slots(of_users(state(), test.ada())).await,
            test.without_slots(of_user(state(), ada(), test.ada()))
                .await,
            test.without_slots(parameters(state(), test.ada())).await,
        ] {
            assert!(response.is_ok());
            assert!(has_waited, "it was made where requests are served");
        }
        test.stop().await;
    }
}
