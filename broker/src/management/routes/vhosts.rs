//! Vhosts. Other users than administrators see those that they have permissions in.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Routes;
use crate::fault::ReplyCode;
use crate::lock::read;
use crate::management::auth::Caller;
use crate::management::paging::{Listed, ListingQuery};
use crate::management::refusal::ApiError;
use crate::management::user_memory::CallerBody;
use crate::management::{Api, SharedApi, views};
use crate::persist::Ticket;
use crate::users::{Permissions, Rank, User, Users};
use crate::vhost::{Vhost, VhostLabels};

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
            topic_permissions,
        )
}

struct ListedVhost(SharedApi, Arc<Vhost>);

impl Listed for ListedVhost {
    fn name(&self) -> &str {
        self.1.name()
    }

    fn render(&self) -> Value {
        views::vhost(&self.0, &self.1)
    }
}

async fn list(
    State(api): State<SharedApi>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let all = if caller.rank() >= Rank::Monitoring {
        api.broker.vhosts()
    } else {
        caller.vhosts(&api)
    };
    let shared = SharedApi::clone(&api);
    let shown = move || {
        shared.rates.observe(&shared.broker, Instant::now());
        let all = all.into_iter();
        all.map(move |vhost| ListedVhost(SharedApi::clone(&shared), vhost))
    };
    api.list(&caller, listing, shown).await
}

async fn show(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let vhost = api.broker.vhost(&name).ok_or_else(ApiError::not_found)?;
    if !caller.sees(&name) {
        caller.monitors()?;
    }
    let shared = SharedApi::clone(&api);
    let work = move || {
        shared.rates.observe(&shared.broker, Instant::now());
        Ok(views::vhost(&shared, &vhost))
    };
    api.respond_with(&caller, work).await
}

/// The description and tags of a vhost in a request; also part of a line of the definitions.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VhostRequest {
    description: Option<String>,
    tags: Option<VhostTags>,
    metadata: Option<Metadata>,
}

/// Where later versions of RabbitMQ put the same two.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    description: Option<String>,
    tags: Option<VhostTags>,
}

/// A list, or words with commas between them.
#[derive(Debug, Default)]
struct VhostTags(Vec<String>);

impl<'de> Deserialize<'de> for VhostTags {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let words = match &value {
            Value::String(text) => text
                .split(',')
                .map(|word| Some(word.trim().to_owned()))
                .collect(),
            Value::Array(list) => list
                .iter()
                .map(|word| word.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        let words = words.ok_or_else(|| {
            super::custom_error(&json!(["not_a_list_of_tags", super::quoted(&value)]))
        })?;
        Ok(Self(
            words.into_iter().filter(|word| !word.is_empty()).collect(),
        ))
    }
}

impl VhostRequest {
    pub(super) fn labels(self) -> Result<VhostLabels, ApiError> {
        let later = self.metadata.unwrap_or_default();
        let tags = self.tags.or(later.tags).unwrap_or_default().0;
        super::check_tags(tags.iter().map(String::as_str))?;
        Ok(VhostLabels {
            description: self.description.or(later.description).unwrap_or_default(),
            tags,
        })
    }
}

/// Refuses what cannot be the name of a vhost.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > 255 {
        return Err(ApiError::bad("a vhost's name has 1 to 255 bytes"));
    }
    Ok(())
}

/// Creates a vhost and permits its creator to enter, or sets the labels of an existing one. Refused
/// if the caller is not an administrator any more.
pub(super) fn put(
    api: &Api,
    caller: &Caller,
    name: &str,
    labels: VhostLabels,
) -> Result<Ticket, ApiError> {
    let was_there = api.broker.vhost(name).is_some();
    let changed = {
        let users = read(&api.broker.users);
        caller.check_administers_among(&users)?;
        api.broker.put_vhost(name, labels)
    };
    let ticket = changed.map_err(|fault| match fault.code {
        ReplyCode::ResourceLocked => ApiError::new(StatusCode::CONFLICT, "conflict", fault.reason),
        _ => ApiError::from(fault),
    })?;
    if was_there {
        return Ok(ticket);
    }
    Ok(ticket.max(super::permissions::permit(
        api,
        caller,
        (&caller.name, name),
        Permissions::all(),
    )?))
}

async fn make(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    caller.administers()?;
    check_name(&name)?;
    let wanted: VhostRequest = super::read_or_default(&body)?;
    let was_there = api.broker.vhost(&name).is_some();
    let ticket = put(&api, &caller, &name, wanted.labels()?)?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(super::made(was_there))
}

async fn delete(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    api.broker.vhost(&name).ok_or_else(ApiError::not_found)?;
    if name == "/" {
        return Err(ApiError::bad("the vhost '/' always exists"));
    }
    let check = |users: &Users| caller.check_administers_among(users);
    let ticket = api.broker.remove_vhost(&name, check).await?;
    super::wait_until_durable(&api, ticket).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn topic_permissions(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    caller.vhost(&api, &vhost)?;
    Ok(Json(json!([])))
}

async fn permissions(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.administers()?;
    api.broker.vhost(&vhost).ok_or_else(ApiError::not_found)?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let users = read(&shared.broker.users).snapshot();
        let of = |(name, user): &(Arc<str>, Arc<User>)| {
            let found = user.permissions_in(&vhost)?;
            Some(views::permission(name, &vhost, found))
        };
        Ok(users.iter().filter_map(of).collect())
    };
    api.respond_with(&caller, work).await
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::management::tests::TestApi;

    #[tokio::test]
    async fn what_many_queues_or_users_of_a_vhost_add_up_to_holds_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let api = SharedApi::clone(&test.api);
        let request = show(State(api), Path("/".to_owned()), test.ada());
        let (response, has_waited) = test.without_slots(request).await;
        assert!(response.is_ok());
        assert!(has_waited, "it was made where requests are served");
        let state = State(SharedApi::clone(&test.api));
        let request = permissions(state, Path("/".to_owned()), test.ada());
        let (response, has_waited) = test.without_slots(request).await;
        assert!(response.is_ok());
        assert!(has_waited, "the permissions of many users were made there");
        test.stop().await;
    }

    #[tokio::test]
    async fn a_deleted_administrator_makes_changes_and_deletes_no_vhost() {
        let test = TestApi::start().await;
        let broker = Arc::clone(&test.api.broker);
        assert!(broker.put_vhost("v", VhostLabels::default()).is_ok());
        let ada = test.deleted_ada();
        let state = State(SharedApi::clone(&test.api));
        let refused = delete(state, Path("v".to_owned()), ada.clone()).await;
        assert!(refused.is_err() && broker.vhost("v").is_some());
        assert!(put(&test.api, &ada, "w", VhostLabels::default()).is_err());
        assert!(broker.vhost("w").is_none(), "it was made");
        let labels = VhostLabels {
            description: "hers".to_owned(),
            ..VhostLabels::default()
        };
        assert!(put(&test.api, &ada, "v", labels).is_err());
        let labels = broker.vhost("v").map(|vhost| vhost.labels());
        assert_eq!(labels, Some(VhostLabels::default()));
        test.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_vhost_is_refused_with_409_while_an_older_one_is_being_deleted() {
        let test = TestApi::start().await;
        let (broker, ada) = (Arc::clone(&test.api.broker), test.ada());
        assert!(broker.put_vhost("v", VhostLabels::default()).is_ok());
        let vhost = broker.vhost("v").expect("it was made");
        // A deletion needs the tables of the vhost.
        let deleting = vhost.with_exchange("amq.fanout", |_| {
            let everybody = |_: &Users| Ok::<_, ApiError>(());
            let removing = async move { broker.remove_vhost("v", everybody).await.is_ok() };
            let deleting = tokio::spawn(removing);
            while test.api.broker.vhost("v").is_some() {
                std::thread::yield_now();
            }
            let refused = put(&test.api, &ada, "v", VhostLabels::default());
            let status = refused.map_err(|refused| refused.into_response().status());
            assert_eq!(status.err(), Some(StatusCode::CONFLICT));
            deleting
        });
        let deleting = deleting.expect("every vhost has this exchange");
        assert!(deleting.await.is_ok_and(|is_gone| is_gone));
        test.stop().await;
    }
}
