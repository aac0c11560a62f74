//! Users and permissions: for administrators. What a user loses ends at once, at the page and on
//! its connections.

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
use crate::management::held::CallerBody;
use crate::management::paging::{Listed, Listing};
use crate::management::refusal::ApiError;
use crate::management::{Api, SharedApi, views};
use crate::persist::Ticket;
use crate::persist::definition::{Definition, UserDefinition};
use crate::quotas::{Quota, QuotaScope};
use crate::revocation::{self, Loss};
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
        .get("/api/global-parameters", "none", super::overview::none)
        .get("/api/policies", "none", super::overview::none)
        .get("/api/operator-policies", "none", super::overview::none)
}

/// A user, by its name.
struct ListedUser(SharedApi, String);

impl Listed for ListedUser {
    fn name(&self) -> &str {
        &self.1
    }

    fn render(&self) -> Value {
        let Self(api, name) = self;
        match read(&api.broker.users).get(name) {
            Some(user) => views::user(api, name, user),
            // It went meanwhile.
            None => json!({ "name": name }),
        }
    }

    fn footprint(&self) -> usize {
        size_of_val(self) + self.1.len()
    }
}

async fn list(
    State(api): State<SharedApi>,
    Query(listing): Query<Listing>,
    caller: Caller,
) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let all = move || {
        let names: Vec<_> = {
            let users = read(&shared.broker.users);
            users.iter().map(|(name, _)| name.to_owned()).collect()
        };
        let of_it = move |name| ListedUser(SharedApi::clone(&shared), name);
        names.into_iter().map(of_it)
    };
    api.list(&caller, listing, all).await
}

async fn without(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let users = read(&shared.broker.users);
        let nowhere = users
            .iter()
            .filter(|(_, user)| user.permissions().next().is_none());
        Ok(nowhere
            .map(|(name, user)| views::user(&shared, name, user))
            .collect())
    };
    api.work_out(&caller, work).await
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

/// What a user is to be; also a line of the definitions.
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
        .ok_or_else(|| super::because(&json!(["not_a_list_of_tags", value])))
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
    /// About how many bytes more it takes than what there is of it.
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

    /// Whether the user is so already, but for its limits: bringing definitions in must not sign
    /// anybody out.
    pub(super) fn is_of(&self, user: Option<&User>) -> bool {
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

/// A user as it is to be, its password digested: nothing is changed yet.
#[derive(Debug)]
pub(super) struct PreparedUser {
    name: String,
    password: Option<Credential>,
    tags: Vec<Tag>,
}

/// Checks what a user is to be.
pub(super) fn prepare(
    api: &Api,
    name: &str,
    wanted: UserRequest,
) -> Result<PreparedUser, ApiError> {
    if name.is_empty() || name.len() > 255 {
        return Err(ApiError::bad("a user's name has 1 to 255 bytes"));
    }
    let known = read(&api.broker.users).get(name).cloned();
    let known = known.and_then(|user| user.password);
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

/// Makes or changes a user; says whether it was there.
pub(super) fn put(api: &Api, user: PreparedUser) -> Result<(bool, Ticket), ApiError> {
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
        let before = users.get(&name).map(|user| user.password.clone());
        users.put(&name, password.clone(), tags);
        (before, save(api, &Definition::User(definition)))
    };
    match &before {
        Some(old) if *old != password => {
            api.sign_out_everywhere(&name);
            revocation::end_connections(&api.broker, &name, Loss::Password);
        }
        _ => api.broker.permissions_changed(),
    }
    Ok((before.is_some(), ticket?))
}

/// Saves a record. Changes of users and permissions are saved while the lock of the users is held:
/// the store has them in the order in which they took effect, and nothing that is taken away comes
/// back with a restart.
fn save(api: &Api, definition: &Definition) -> Result<Ticket, ApiError> {
    let saved = api.broker.definitions.save(definition);
    Ok(saved.map_err(crate::fault::Fault::from)?)
}

/// Forgets definitions in one commit.
fn forget(api: &Api, definitions: &[Definition]) -> Result<Ticket, ApiError> {
    let _one_commit = api.broker.definitions.together();
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
    let (was_there, ticket) = put(&api, user)?;
    let limited = limits::merge(&api, (QuotaScope::User, &name), &quota)?;
    super::kept(&api, ticket.max(limited)).await?;
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
        let _one_commit = api.broker.definitions.together();
        let forgotten = {
            let mut users = write(&api.broker.users);
            let known = users.get(name).ok_or_else(ApiError::not_found)?;
            let permission = |vhost| permission_definition(name, vhost, &Permissions::all());
            let permissions = known.permissions().map(|(vhost, _)| permission(vhost));
            let gone: Vec<_> = permissions.chain([user]).collect();
            users.remove(name);
            forget(api, &gone)
        };
        let unlimited = api.broker.change_quota(QuotaScope::User, name, |_| ());
        forgotten.and_then(|ticket| Ok(ticket.max(unlimited?)))
    };
    api.sign_out_everywhere(name);
    revocation::end_connections(&api.broker, name, Loss::Deleted);
    super::kept(api, ticket?).await
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
struct Several {
    users: Vec<String>,
}

async fn delete_several(
    State(api): State<SharedApi>,
    CallerBody { caller, body }: CallerBody,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    let several: Several = super::read(&body)?;
    for name in several.users {
        // Each takes a commit, in which the caller may have lost the right.
        caller.check_unchanged(&api)?;
        remove(&api, &caller, &name).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn permissions_of(
    State(api): State<SharedApi>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    if *caller.name != name {
        caller.administers()?;
    }
    let users = read(&api.broker.users);
    let user = users.get(&name).ok_or_else(ApiError::not_found)?;
    Ok(Json(all_of(&name, user).collect()))
}

fn all_of<'a>(name: &'a str, user: &'a User) -> impl Iterator<Item = Value> + 'a {
    user.permissions()
        .map(move |(vhost, permissions)| views::permission(name, vhost, permissions))
}

async fn permissions(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    caller.administers()?;
    let shared = SharedApi::clone(&api);
    let work = move || {
        let users = read(&shared.broker.users);
        let each = users.iter().flat_map(|(name, user)| all_of(name, user));
        Ok(each.collect())
    };
    api.work_out(&caller, work).await
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
pub(super) struct Allowed {
    configure: String,
    write: String,
    read: String,
}

impl Allowed {
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

/// Lets a user into a vhost.
pub(super) fn permit(
    api: &Api,
    user: &str,
    vhost: &str,
    permissions: Permissions,
) -> Result<Ticket, ApiError> {
    let ticket = api.broker.permit(user, vhost, permissions);
    revocation::restrict(&api.broker, user, vhost);
    ticket?.ok_or_else(ApiError::not_found)
}

async fn allow(
    State(api): State<SharedApi>,
    Path((vhost, name)): Path<(String, String)>,
    CallerBody { caller, body }: CallerBody,
) -> Result<Response, ApiError> {
    caller.administers()?;
    let allowed: Allowed = super::read(&body)?;
    let is_user = read(&api.broker.users).get(&name).is_some();
    if !is_user || api.broker.vhost(&vhost).is_none() {
        return Err(ApiError::bad("vhost_or_user_not_found"));
    }
    let was_there = read(&api.broker.users).may_enter(&name, &vhost);
    let permissions = allowed.compile()?;
    let growth = permission_growth(&api, &name, &vhost, &permissions);
    check_access_room(growth, || format!("let user '{name}' into vhost '{vhost}'"))?;
    let ticket = permit(&api, &name, &vhost, permissions)?;
    super::kept(&api, ticket).await?;
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
        if !users.forbid(&name, &vhost) {
            return Err(ApiError::not_found());
        }
        forget(&api, &[gone])
    };
    revocation::restrict(&api.broker, &name, &vhost);
    super::kept(&api, ticket?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::tests::TestApi;
    use crate::vhost::Labels;

    #[tokio::test]
    async fn a_right_in_a_vhost_that_goes_meanwhile_does_not_wait_for_the_next_of_its_name() {
        let test = TestApi::start().await;
        let ada = |vhost: &str| read(&test.api.broker.users).may_enter("ada", vhost);
        assert!(test.api.broker.put_vhost("v", Labels::default()).is_ok());
        assert!(permit(&test.api, "ada", "v", Permissions::all()).is_ok());
        assert!(test.api.broker.remove_vhost("v").is_ok());
        assert!(!ada("v"), "it went with the vhost");
        assert!(permit(&test.api, "ada", "v", Permissions::all()).is_err());
        assert!(!ada("v"), "it was given for a vhost that is not there");
        test.stop().await;
    }
}
