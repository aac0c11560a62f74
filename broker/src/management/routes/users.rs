//! Users, for administrators. Rights that a user loses end at once, at the page and on its
//! connections.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::{Routes, limits};
use crate::broker_state::{check_access_room, permission_definition};
use crate::lock::{read, write};
use crate::management::auth::Caller;
use crate::management::paging::{Listed, ListingQuery};
use crate::management::refusal::ApiError;
use crate::management::user_memory::CallerBody;
use crate::management::{Api, SharedApi, views};
use crate::persist::Ticket;
use crate::persist::definition::{Definition, UserDefinition};
use crate::quotas::{Quota, QuotaScope};
use crate::revocation::{self, RevokedLogin};
use crate::users::{self, Credential, PasswordHash, Permissions, Tag, User};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/api/users", "users", list)
        .get(
            "/api/users/without-permissions",
            "users who may enter no vhost",
            without,
        )
        .post(
            "/api/users/bulk-delete",
            "delete several users",
            delete_several,
        )
        .get("/api/users/{user}", "one user", show)
        .put("/api/users/{user}", "make or change a user", make)
        .delete("/api/users/{user}", "delete a user", delete)
        .get("/api/global-parameters", "none", super::overview::none)
        .get("/api/policies", "none", super::overview::none)
        .get("/api/operator-policies", "none", super::overview::none)
}

/// A user as it was when the listing began, and its name.
struct ListedUser(SharedApi, Arc<str>, Arc<User>);

impl Listed for ListedUser {
    fn name(&self) -> &str {
        &self.1
    }

    fn render(&self) -> Value {
        let Self(api, name, user) = self;
        views::user(api, name, user)
    }

    fn footprint(&self) -> usize {
        size_of_val(self) + self.1.len()
    }
}

async fn list(
    State(api): State<SharedApi>,
    Query(listing): Query<ListingQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let all = move || {
        let users = read(&shared.broker.users).snapshot();
        let of_it = move |(name, user)| ListedUser(SharedApi::clone(&shared), name, user);
        users.into_iter().map(of_it)
    };
    api.list(&caller, listing, all).await
}

async fn without(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let users = read(&shared.broker.users).snapshot();
        let nowhere = users
            .iter()
            .filter(|(_, user)| user.permissions().next().is_none());
        Ok(nowhere
            .map(|(name, user)| views::user(&shared, name, user))
            .collect())
    };
    api.respond_with(&caller, work).await
}

async fn show(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    if *caller.name != name {
        caller.administers()?;
    }
    let users = read(&api.broker.users);
    users
        .get(&name)
        .map(|user| Json(views::user(&api, &name, user)))
        .ok_or_else(ApiError::not_found)
}

/// The properties of a user in a request; also a line of the definitions.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UserRequest {
    password: Option<String>,
    password_hash: Option<String>,
    hashing_algorithm: Option<String>,
    tags: Option<UserTags>,
    limits: Option<Map<String, Value>>,
}

/// Commas until RabbitMQ 3.8, a list since.
#[derive(Debug)]
enum UserTags {
    Text(String),
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for UserTags {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let words = |list: &Vec<Value>| {
            let words = list.iter().map(|word| word.as_str().map(str::to_owned));
            words.collect::<Option<Vec<_>>>().map(Self::List)
        };
        match &value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Array(list) => words(list),
            _ => None,
        }
        .ok_or_else(|| super::custom_error(&json!(["not_a_list_of_tags", super::quoted(&value)])))
    }
}

impl UserTags {
    fn into_list(self) -> Vec<Tag> {
        match self {
            Self::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|tag| !tag.is_empty())
                .map(|tag| Tag(tag.to_owned()))
                .collect(),
            Self::List(list) => list.into_iter().map(Tag).collect(),
        }
    }
}

impl PreparedUser {
    /// Whether it is to be the user of this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    /// An estimate of the bytes that it takes beyond those of the existing user.
    pub(super) fn growth(&self, api: &Api) -> usize {
        let users = read(&api.broker.users);
        let known = users.get(&self.name);
        let held = known.map_or(0, |user| users::footprint(&self.name, &user.tags));
        users::footprint(&self.name, &self.tags).saturating_sub(held)
    }
}

impl UserRequest {
    fn credential(&self) -> Result<Option<Credential>, ApiError> {
        match (&self.password, self.password_hash.as_deref()) {
            (Some(password), _) if password.is_empty() => Err(ApiError::bad("password is empty")),
            (Some(password), _) => Credential::new(password.as_bytes())
                .map(Some)
                .map_err(|error| ApiError::bad(error.to_string())),
            (None, None | Some("")) => Ok(None),
            (None, Some(_))
                if self
                    .hashing_algorithm
                    .as_deref()
                    .is_some_and(|name| name != "rabbit_password_hashing_sha256") =>
            {
                Err(ApiError::bad(
                    "only rabbit_password_hashing_sha256 is supported",
                ))
            }
            (None, Some(hash)) => PasswordHash::from_base64(hash)
                .map(|hash| Some(Credential::imported(hash)))
                .ok_or_else(|| ApiError::bad("password_hash is no salted SHA-256")),
        }
    }
}

impl UserRequest {
    /// The limits that the user gets besides those that it has.
    pub(super) fn limits(&self) -> Result<Quota, ApiError> {
        let none = Map::new();
        limits::parse(QuotaScope::User, self.limits.as_ref().unwrap_or(&none))
    }

    /// Whether the user already has these properties, limits aside. An import must not sign such a
    /// user out.
    pub(super) fn is_of(&self, user: Option<&Arc<User>>) -> bool {
        let Some(user) = user else { return false };
        let tags = match &self.tags {
            Some(UserTags::List(list)) => list.clone(),
            Some(UserTags::Text(text)) => text.split(',').map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let hash = user.password.as_ref().map(|known| known.hash.to_base64());
        self.password.is_none()
            && self.password_hash == hash
            && user.tags.iter().map(|tag| &tag.0).eq(&tags)
    }
}

/// A checked user with a hashed password; nothing is changed yet.
#[derive(Debug)]
pub(super) struct PreparedUser {
    name: String,
    password: Option<Credential>,
    tags: Vec<Tag>,
}

/// Checks the properties of a user.
pub(super) fn prepare(
    api: &Api,
    name: &str,
    wanted: UserRequest,
) -> Result<PreparedUser, ApiError> {
    if name.is_empty() || name.len() > 255 {
        return Err(ApiError::bad("a user's name has 1 to 255 bytes"));
    }
    let known = read(&api.broker.users).get(name).cloned();
    let known = known.and_then(|user| user.password.clone());
    let password = match (known, &wanted.password) {
        // The same password again does not sign the user out.
        (Some(known), Some(same)) if known.scram.is_some() && known.hash.is_of(same.as_bytes()) => {
            Some(known)
        }
        _ => wanted.credential()?,
    };
    let tags = wanted
        .tags
        .ok_or_else(|| ApiError::bad("tags_not_present"))?
        .into_list();
    super::check_tags(tags.iter().map(|tag| tag.0.as_str()))?;
    Ok(PreparedUser {
        name: name.to_owned(),
        password,
        tags,
    })
}

/// Creates or changes a user. Returns whether it existed. Refused if the caller is not an
/// administrator any more.
pub(super) fn put(
    api: &Api,
    caller: &Caller,
    user: PreparedUser,
) -> Result<(bool, Ticket), ApiError> {
    let PreparedUser {
        name,
        password,
        tags,
    } = user;
    let definition = UserDefinition {
        name: name.clone(),
        password: password
            .as_ref()
            .map(|password| password.hash.as_bytes().to_vec())
            .unwrap_or_default(),
        scram: password
            .as_ref()
            .map(Credential::stored_scram)
            .unwrap_or_default(),
        tags: tags.iter().map(|tag| tag.0.clone()).collect(),
    };
    let (before, ticket) = {
        let mut users = write(&api.broker.users);
        caller.check_administers_among(&users)?;
        let before = users.get(&name).map(|user| user.password.clone());
        users.put(&name, password.clone(), tags);
        (before, save(api, &Definition::User(definition)))
    };
    match &before {
        Some(old) if *old != password => {
            api.sign_out_everywhere(&name);
            revocation::end_connections(&api.broker, &name, RevokedLogin::Password);
        }
        _ => api.broker.permissions_changed(),
    }
    Ok((before.is_some(), ticket?))
}

/// Saves a definition. Changes of users and permissions are saved while the lock of the users is
/// held: the store has them in the order in which they took effect, and nothing that is taken away
/// comes back with a restart.
fn save(api: &Api, definition: &Definition) -> Result<Ticket, ApiError> {
    let saved = api.broker.definitions.save(definition);
    Ok(saved.map_err(crate::fault::Fault::from)?)
}

/// Forgets definitions in one commit.
pub(super) fn forget(api: &Api, definitions: &[Definition]) -> Result<Ticket, ApiError> {
    let _one_commit = api.broker.definitions.pause_commits();
    let mut last = Ticket::NONE;
    for definition in definitions {
        let forgotten = api.broker.definitions.forget(definition);
        last = last.max(forgotten.map_err(crate::fault::Fault::from)?);
    }
    Ok(last)
}

async fn make(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    caller.administers()?;
    let wanted: UserRequest = super::read(&body)?;
    let quota = wanted.limits()?;
    let user = prepare(&api, &name, wanted)?;
    check_access_room(user.growth(&api), || format!("make user '{name}'"))?;
    let (was_there, ticket) = put(&api, &caller, user)?;
    let limited = limits::merge(&api, &caller, (QuotaScope::User, &name), &quota)?;
    super::wait_until_durable(&api, ticket.max(limited)).await?;
    Ok(super::made(was_there))
}

async fn remove(api: &Api, caller: &Caller, name: &str) -> Result<(), ApiError> {
    caller.administers()?;
    let user = Definition::User(UserDefinition {
        name: name.to_owned(),
        password: Vec::new(),
        scram: Vec::new(),
        tags: Vec::new(),
    });
    let ticket = {
        let _one_commit = api.broker.definitions.pause_commits();
        let forgotten = {
            let mut users = write(&api.broker.users);
            caller.check_administers_among(&users)?;
            let known = users.get(name).ok_or_else(ApiError::not_found)?;
            let permission = |vhost| permission_definition(name, vhost, &Permissions::all());
            let permissions = known.permissions().map(|(vhost, _)| permission(vhost));
            let gone: Vec<_> = permissions.chain([user]).collect();
            users.remove(name);
            // No next user of the name is there yet.
            api.broker.tap.forget_user(name);
            forget(api, &gone)
        };
        let unlimited = api.broker.forget_quota(QuotaScope::User, name);
        forgotten.and_then(|ticket| Ok(ticket.max(unlimited?)))
    };
    api.sign_out_everywhere(name);
    revocation::end_connections(&api.broker, name, RevokedLogin::Deleted);
    super::wait_until_durable(api, ticket?).await
}

async fn delete(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, ApiError> {
    remove(&api, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct UserNames {
    users: Vec<String>,
}

async fn delete_several(
    State(api): State<SharedApi>,
    CallerBody { caller, body }: CallerBody,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    let several: UserNames = super::read(&body)?;
    for name in several.users {
        // Each takes a commit, in which the caller may have lost the right.
        caller.check_unchanged(&api)?;
        remove(&api, &caller, &name).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::time::{Duration, Instant};

    use super::*;
    use crate::management::tests::TestApi;
    use crate::tap::{Batch, TapEvent, TapEventKind, TapQueue, TapReaders};

    #[tokio::test]
    async fn a_deleted_administrator_deletes_no_user() {
        let test = TestApi::start().await;
        write(&test.api.broker.users).put("bee", None, Vec::new());
        let ada = test.deleted_ada();
        let state = State(SharedApi::clone(&test.api));
        assert!(delete(state, Path("bee".to_owned()), ada).await.is_err());
        assert!(read(&test.api.broker.users).get("bee").is_some());
        test.stop().await;
    }

    /// They were shown to the next user of the name.
    #[tokio::test]
    async fn what_the_tap_shows_to_a_user_goes_with_it() {
        let test = TestApi::start().await;
        let mut listener = test.api.broker.tap.keep_open();
        write(&test.api.broker.users).put("bee", None, Vec::new());
        let queue = |readers| TapQueue {
            name: "q".into(),
            readers,
        };
        let line = |number| TapEvent {
            what: TapEventKind::Published,
            at_ms: number,
            vhost: "/".into(),
            exchange: Box::default(),
            routing_key: Box::default(),
            queue: None,
            routed: Box::default(),
            properties: [0, 0].into(),
            excerpt: Box::default(),
            body_bytes: 0,
        };
        let of_bee = || TapReaders::Connection("bee".into());
        let tap = &test.api.broker.tap;
        tap.note(line(0));
        tap.note(TapEvent {
            routed: [queue(TapReaders::Permitted), queue(of_bee())].into(),
            ..line(1)
        });
        tap.note(TapEvent {
            queue: Some(queue(of_bee())),
            ..line(2)
        });
        tap.note(TapEvent {
            // The property `user-id` alone.
            properties: b"\0\x10\x03bee".as_slice().into(),
            ..line(3)
        });
        tap.note(TapEvent {
            properties: b"\0\x10\x03ada".as_slice().into(),
            ..line(4)
        });
        remove(&test.api, &test.ada(), "bee").await.unwrap();
        let mut seen = Vec::new();
        loop {
            match listener.take(10) {
                Batch::Missed(count) => seen.push(Err(count)),
                Batch::Lines(lines) if lines.is_empty() => break,
                Batch::Lines(lines) => seen.extend(lines.iter().map(|line| Ok(line.at_ms))),
            }
        }
        assert_eq!(seen, [Ok(0), Err(3), Ok(4)]);
        test.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_login_does_not_wait_for_a_listing_of_users_and_a_change_neither() {
        let test = TestApi::start().await;
        let broker = Arc::clone(&test.api.broker);
        write(&broker.users).put("bee", None, Vec::new());
        let bee = read(&broker.users).snapshot().pop().unwrap().1;
        let before = Arc::strong_count(&bee);
        let until = Instant::now() + Duration::from_mins(1);
        let wait_for = |what: &str, is_so: &dyn Fn() -> bool| {
            while !is_so() {
                assert!(Instant::now() < until, "{what}");
                std::thread::yield_now();
            }
        };
        let request = without(State(SharedApi::clone(&test.api)), test.ada());
        // A line of the listing needs the quotas of its user.
        let quotas = write(&broker.quotas);
        let request = tokio::spawn(request);
        wait_for("the listing has begun", &|| {
            Arc::strong_count(&bee) > before
        });
        wait_for("the users are free", &|| broker.users.try_write().is_ok());
        assert!(!request.is_finished(), "it waits for the quotas");
        drop(quotas);
        assert!(request.await.unwrap().is_ok());
        test.stop().await;
    }
}
