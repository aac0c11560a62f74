//! Identifies the sender of a request, and checks what that user may do.
//!
//! Tools use basic authentication, the page a cookie. The two never mix: basic authentication is
//! refused to requests with an `Origin`, so that a browser's remembered password is of no use to a
//! page, and a cookie changes nothing unless our own `Origin` came with it. A cookie counts only
//! with its key, which the page sends beside it: pages of other ports can plant cookies here, and
//! see ours, but not the key. One that is planted in place of ours only signs the page out. Over
//! loopback both count only from the system user who signed in: another one may have held the port
//! while the broker was down, and got both.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::http_listener::RemoteEnd;
use super::refusal::ApiError;
use super::sign_ins::{self, ClientLocation, Fingerprint, FoundSignIn};
use super::{Api, SharedApi, page_cookie};
use crate::inspect::{self, ConnectionHandle};
use crate::lock::read;
use crate::login_throttle::ClientEnds;
use crate::time::now_ms;
use crate::users::{LoginOrigin, Operation, Rank, User, Users};
use crate::vhost::Vhost;

/// The header with the key of the page's sign-in.
const PAGE_KEY: &str = "x-cbroker-key";

/// A user who may use the API.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) name: Arc<str>,
    pub(super) user: Arc<User>,
    pub(super) by: AuthMethod,
    /// Whether this is the system user who runs the broker, as far as that is proven: it came over
    /// the Unix socket or by a link that was made there, or knows the password that is stored for
    /// it.
    pub(super) is_owner: bool,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthMethod {
    Password,
    /// By the cookie of this sign-in.
    Cookie(Fingerprint),
    /// By the Unix socket, as the same system user as the broker.
    Socket,
}

/// A refused caller. A tool is prompted for a password, but a browser is not, because it would
/// remember it.
pub(super) struct RefusedCaller {
    refusal: ApiError,
    asks: bool,
}

impl IntoResponse for RefusedCaller {
    fn into_response(self) -> Response {
        let mut response = self.refusal.into_response();
        if self.asks {
            let broker = HeaderValue::from_static("Basic realm=\"cbroker management\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, broker);
        }
        response
    }
}

impl FromRequestParts<SharedApi> for Caller {
    type Rejection = RefusedCaller;

    async fn from_request_parts(parts: &mut Parts, api: &SharedApi) -> Result<Self, RefusedCaller> {
        let from_browser = parts.headers.contains_key(header::ORIGIN)
            || parts.headers.contains_key("sec-fetch-mode");
        identify(parts, api).await.map_err(|refusal| {
            let asks = refusal.status == StatusCode::UNAUTHORIZED && !from_browser;
            RefusedCaller { refusal, asks }
        })
    }
}

async fn identify(parts: &Parts, api: &Api) -> Result<Caller, ApiError> {
    let caller = match parts.headers.get(header::AUTHORIZATION) {
        Some(value) => by_password(parts, api, value).await?,
        None => match by_socket(parts, api) {
            Some(name) => Caller::of(api, name, AuthMethod::Socket, true)?,
            None => by_cookie(parts, api).await?,
        },
    };
    check_rank(&caller.user)?;
    if let Some(peer) = parts.extensions.get::<RemoteEnd>() {
        peer.signed_in(&caller.name);
    }
    Ok(caller)
}

/// Refuses users without a tag.
pub(super) fn check_rank(user: &User) -> Result<(), ApiError> {
    if user.rank() < Rank::Management {
        return Err(ApiError::forbidden("Not management user"));
    }
    Ok(())
}

/// Returns the first user for a peer on the Unix socket, which could read its password as well.
fn by_socket(parts: &Parts, api: &Api) -> Option<Arc<str>> {
    let is_local = parts.extensions.get::<RemoteEnd>()?.is_same_user;
    // Pages cannot connect to the Unix socket.
    let is_tool = is_local && !parts.headers.contains_key(header::ORIGIN);
    is_tool.then_some(api.about.local_user.as_deref()?.into())
}

async fn by_password(parts: &Parts, api: &Api, value: &HeaderValue) -> Result<Caller, ApiError> {
    if parts.headers.contains_key(header::ORIGIN) {
        return Err(ApiError::suspicious(
            "a page signs in with a token, not with a password in a header",
        ));
    }
    let (name, password) = credentials(value).ok_or_else(ApiError::login)?;
    let user = check_password(parts, api, &name, &password).await?;
    let is_owner = api.is_login_of_owner(&name, &password).await;
    Ok(Caller {
        name: name.into(),
        user,
        by: AuthMethod::Password,
        is_owner,
    })
}

/// Returns the user with this name and password, as it was when the password was compared, if the
/// user may log in from the request's origin.
pub(super) async fn check_password(
    parts: &Parts,
    api: &Api,
    name: &str,
    password: &str,
) -> Result<Arc<User>, ApiError> {
    let peer = parts.extensions.get::<RemoteEnd>();
    let is_local = peer.is_some_and(|peer| peer.address.is_none());
    let from = peer.and_then(|end| {
        Some(ClientEnds {
            peer: end.address?,
            local: end.local?,
        })
    });
    let peer = peer.and_then(|peer| Some(peer.address?.ip()));
    let paced = api.broker.throttle.begin_attempt(from).await;
    let attempt = paced.map_err(|error| {
        ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            error.to_string(),
        )
    })?;
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    let origin = if is_local || peer.is_some_and(is_loopback) {
        LoginOrigin::Loopback
    } else {
        LoginOrigin::Elsewhere
    };
    let found = {
        let users = read(&api.broker.users);
        let outcome = users.authenticate(name, password.as_bytes(), origin);
        outcome.ok().and_then(|()| users.get(name).cloned())
    };
    if found.is_none() {
        api.broker.totals.logins_refused.add(1);
        api.broker.throttle.record_failure(attempt).await;
    }
    found.ok_or_else(ApiError::login)
}

fn credentials(value: &HeaderValue) -> Option<(String, String)> {
    let text = value.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

async fn by_cookie(parts: &Parts, api: &Api) -> Result<Caller, ApiError> {
    // A page at another port of this host is of the same site, so its requests carry the cookie.
    let site = parts.headers.get("sec-fetch-site");
    let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    if !site.is_none_or(is_own) {
        return Err(ApiError::suspicious(
            "the request comes from a foreign page",
        ));
    }
    let found = signed_in(parts, api).await;
    let (found, is_owner) = found.ok_or_else(ApiError::login)?;
    if !parts.method.is_safe() && !parts.headers.contains_key(header::ORIGIN) {
        return Err(ApiError::suspicious(
            "a change by cookie must come from our own page",
        ));
    }
    if let Some(life) = api.renew_sign_in(&found.id, now_ms()) {
        let key = page_key(&parts.headers).unwrap_or_default();
        let mut cookies = page_cookie::cookies(&parts.headers, api);
        if let Some(cookie) = cookies.find(|cookie| sign_ins::sign_in_id(cookie, key) == found.id) {
            page_cookie::note_longer(parts, page_cookie::set(api, cookie, life));
        }
    }
    Caller::of(api, found.user, AuthMethod::Cookie(found.id), is_owner)
}

/// The key that the page sends beside its cookie; `None` also for what cannot be one.
pub(super) fn page_key(headers: &HeaderMap) -> Option<&str> {
    let key = headers.get(PAGE_KEY)?.to_str().ok()?;
    sign_ins::may_be_secret(key).then_some(key)
}

/// Returns the sign-in of the request's cookies and key, and whether it is the owner's. It counts
/// only from the location where it was made, and while its user has the same password.
async fn signed_in(parts: &Parts, api: &Api) -> Option<(FoundSignIn, bool)> {
    let key = page_key(&parts.headers)?;
    let found: Vec<_> = {
        let sign_ins = api.sign_ins();
        let now = now_ms();
        let cookies = page_cookie::cookies(&parts.headers, api);
        cookies
            .filter_map(|cookie| sign_ins.find(cookie, key, now))
            .collect()
    };
    counting(found, parts, api).await
}

/// Returns the one of these sign-ins that counts for the client of a request, and whether it is the
/// owner's.
async fn counting(
    found: Vec<FoundSignIn>,
    parts: &Parts,
    api: &Api,
) -> Option<(FoundSignIn, bool)> {
    if found.is_empty() {
        return None;
    }
    let location = location(parts, api).await;
    let users = read(&api.broker.users);
    found.into_iter().find_map(|found| {
        let is_owner = found.is_of_owner(users.get(&found.user)?, location)?;
        Some((found, is_owner))
    })
}

/// Where the client of a request is.
pub(super) async fn location(parts: &Parts, api: &Api) -> ClientLocation {
    match parts.extensions.get::<RemoteEnd>() {
        Some(peer) => peer.location(&api.broker.throttle).await,
        None => ClientLocation::UnknownLocalUser,
    }
}

/// Returns the sign-in that the request's cookies and key belong to, if it counts.
pub(super) async fn present(parts: &Parts, api: &Api) -> Option<FoundSignIn> {
    signed_in(parts, api).await.map(|(found, _)| found)
}

/// Returns the sign-in of this id, if it would count for the client of the request. The client is
/// not signed in by that.
pub(super) async fn named(parts: &Parts, api: &Api, id: &str) -> Option<FoundSignIn> {
    let found = api.sign_ins().named(id, now_ms());
    let found = counting(found.into_iter().collect(), parts, api).await;
    found.map(|(found, _)| found)
}

impl Caller {
    /// Returns a caller that needs no password, with its current rights.
    fn of(api: &Api, name: Arc<str>, by: AuthMethod, is_owner: bool) -> Result<Self, ApiError> {
        let user = read(&api.broker.users).get(&name).cloned();
        let user = user.ok_or_else(ApiError::login)?;
        Ok(Self {
            name,
            user,
            by,
            is_owner,
        })
    }

    /// Returns the same caller with its current tags and permissions.
    pub(super) fn with_rights_of_now(self, api: &Api) -> Result<Self, ApiError> {
        let users = read(&api.broker.users);
        let user = users.get(&self.name).cloned();
        drop(users);
        let user = user.ok_or_else(ApiError::login)?;
        Ok(Self { user, ..self })
    }

    /// Returns the same caller with its current rights. Refused if the user was deleted, lost its
    /// tag, has another password, or has signed out.
    pub(super) fn recheck(self, api: &Api) -> Result<Self, ApiError> {
        let before = self.user.password.clone();
        let caller = self.with_rights_of_now(api)?;
        check_rank(&caller.user)?;
        let is_in = match caller.by {
            AuthMethod::Password => caller.user.password == before,
            AuthMethod::Cookie(_) => caller.sign_in_life(api).is_some_and(|life| !life.is_zero()),
            AuthMethod::Socket => true,
        };
        if is_in {
            Ok(caller)
        } else {
            Err(ApiError::login())
        }
    }

    /// Refuses a caller whose rights have changed since its request was checked.
    pub(super) fn check_unchanged(&self, api: &Api) -> Result<(), ApiError> {
        let now = self.clone().recheck(api)?;
        if now.user == self.user {
            Ok(())
        } else {
            Err(ApiError::busy("the user was changed meanwhile; ask again"))
        }
    }

    /// Returns the remaining life of the caller's sign-in, zero if it has ended; `None` for a
    /// caller without one.
    pub(super) fn sign_in_life(&self, api: &Api) -> Option<Duration> {
        let AuthMethod::Cookie(id) = self.by else {
            return None;
        };
        let ends_ms = api.sign_ins().ends_ms(&id).unwrap_or(0);
        Some(Duration::from_millis(ends_ms.saturating_sub(now_ms())))
    }

    pub(super) fn rank(&self) -> Rank {
        self.user.rank()
    }

    /// Refuses callers below administrators.
    pub(super) fn administers(&self) -> Result<(), ApiError> {
        if self.rank() >= Rank::Administrator {
            Ok(())
        } else {
            Err(ApiError::not_administrator())
        }
    }

    /// Refuses a caller who is not an administrator any more, whose password has changed, or who
    /// has signed out.
    pub(super) fn check_still_administers(&self, api: &Api) -> Result<(), ApiError> {
        self.check_administers_among(&read(&api.broker.users))?;
        match self.sign_in_life(api) {
            Some(life) if life.is_zero() => Err(ApiError::login()),
            _ => Ok(()),
        }
    }

    /// Refuses a caller who is not an administrator among these users, or whose password has
    /// changed. A change of rights checks this while the users are locked, so that a deleted
    /// administrator cannot make one more change.
    pub(super) fn check_administers_among(&self, users: &Users) -> Result<(), ApiError> {
        let now = users.get(&self.name).ok_or_else(ApiError::login)?;
        if self.by != AuthMethod::Socket && now.password != self.user.password {
            return Err(ApiError::login());
        }
        if now.rank() < Rank::Administrator {
            return Err(ApiError::not_administrator());
        }
        Ok(())
    }

    /// Refuses callers below administrators, except the user `name`.
    pub(super) fn is_or_administers(&self, name: &str) -> Result<(), ApiError> {
        if *self.name == *name {
            Ok(())
        } else {
            self.administers()
        }
    }

    /// Refuses callers who may not see other people's connections and traffic.
    pub(super) fn monitors(&self) -> Result<(), ApiError> {
        if self.rank() >= Rank::Monitoring {
            Ok(())
        } else {
            Err(ApiError::forbidden("Not monitor user"))
        }
    }

    /// Whether the caller may see this vhost.
    pub(super) fn sees(&self, vhost: &str) -> bool {
        self.user.permissions_in(vhost).is_some()
    }

    /// The connections that the caller sees, oldest first: its own, or all with the tag
    /// `monitoring`.
    pub(super) fn connections(&self, api: &Api) -> Vec<Arc<ConnectionHandle>> {
        let mut connections = inspect::connections(&api.broker);
        connections.sort_by_key(|connection| connection.id);
        if self.monitors().is_err() {
            connections.retain(|connection| connection.is_of_user(&self.name));
        }
        connections
    }

    /// The vhosts that the caller sees.
    pub(super) fn vhosts(&self, api: &Api) -> Vec<Arc<Vhost>> {
        api.broker
            .vhosts()
            .into_iter()
            .filter(|vhost| self.sees(vhost.name()))
            .collect()
    }

    /// The vhosts of a listing: the named one, or all that the caller sees.
    pub(super) fn vhosts_of(
        &self,
        api: &Api,
        vhost: Option<Path<String>>,
    ) -> Result<Vec<Arc<Vhost>>, ApiError> {
        match vhost {
            Some(Path(name)) => Ok(vec![self.vhost(api, &name)?]),
            None => Ok(self.vhosts(api)),
        }
    }

    /// A vhost that exists and that the caller sees.
    pub(super) fn vhost(&self, api: &Api, name: &str) -> Result<Arc<Vhost>, ApiError> {
        let vhost = api.broker.vhost(name).ok_or_else(ApiError::not_found)?;
        if self.sees(name) {
            Ok(vhost)
        } else {
            Err(ApiError::forbidden(
                "User not authorised to access virtual host",
            ))
        }
    }

    /// Refuses an operation that AMQP would refuse this user.
    pub(super) fn may(
        &self,
        vhost: &str,
        operation: Operation,
        resource: &str,
    ) -> Result<(), ApiError> {
        match self.user.permissions_in(vhost) {
            Some(permissions) if permissions.allow(operation, resource) => Ok(()),
            _ => Err(ApiError::forbidden("Access refused.")),
        }
    }

    /// Refuses users who may not declare or bind anything in this vhost, by any name.
    pub(super) fn may_declare(&self, vhost: &str) -> Result<(), ApiError> {
        let permissions = self.user.permissions_in(vhost);
        let allows = |operation| permissions.is_some_and(|found| !found.allow_nothing(operation));
        if allows(Operation::Configure) || allows(Operation::Write) {
            Ok(())
        } else {
            Err(ApiError::forbidden("Access refused."))
        }
    }
}
