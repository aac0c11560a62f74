//! Who sends a request, and what that user may do here.
//!
//! Tools come with basic authentication, the page with a cookie. The two never mix: basic authentication is refused to
//! requests with an `Origin`, so that a browser's remembered password is of no use to a page, and a cookie changes
//! nothing unless our own `Origin` came with it (SPEC §7.14).

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::door::Peer;
use super::refusal::Refusal;
use super::{Api, Scheme, Shared};
use crate::lock::read;
use crate::users::{Operation, Origin, Rank, User};
use crate::vhost::Vhost;

/// A user who may use the API.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) name: Arc<str>,
    pub(super) user: User,
    pub(super) by: Proof,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Password,
    Cookie,
}

/// A caller who is not let in. A tool is asked for a password; a browser is not, for it would remember it.
pub(super) struct Unwelcome {
    refusal: Refusal,
    asks: bool,
}

impl IntoResponse for Unwelcome {
    fn into_response(self) -> Response {
        let mut response = self.refusal.into_response();
        if self.asks {
            let realm = HeaderValue::from_static("Basic realm=\"cbroker management\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, realm);
        }
        response
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Unwelcome;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, Unwelcome> {
        let from_browser = parts.headers.contains_key(header::ORIGIN)
            || parts.headers.contains_key("sec-fetch-mode");
        identify(parts, api).map_err(|refusal| {
            let asks = refusal.status == StatusCode::UNAUTHORIZED && !from_browser;
            Unwelcome { refusal, asks }
        })
    }
}

fn identify(parts: &Parts, api: &Api) -> Result<Caller, Refusal> {
    let (name, by) = match parts.headers.get(header::AUTHORIZATION) {
        Some(value) => (by_password(parts, api, value)?, Proof::Password),
        None => (by_cookie(parts, api)?, Proof::Cookie),
    };
    let user = read(&api.realm.users)
        .get(&name)
        .cloned()
        .ok_or_else(Refusal::login)?;
    if user.rank() < Rank::Management {
        return Err(Refusal::forbidden("Not management user"));
    }
    Ok(Caller { name, user, by })
}

fn by_password(parts: &Parts, api: &Api, value: &HeaderValue) -> Result<Arc<str>, Refusal> {
    if parts.headers.contains_key(header::ORIGIN) {
        return Err(Refusal::suspicious(
            "a page signs in with a token, not with a password in a header",
        ));
    }
    let (name, password) = credentials(value).ok_or_else(Refusal::login)?;
    check_password(parts, api, &name, &password)?;
    Ok(name.into())
}

/// Whether this name and password may enter from where the request came from.
pub(super) fn check_password(
    parts: &Parts,
    api: &Api,
    name: &str,
    password: &str,
) -> Result<(), Refusal> {
    let peer = parts
        .extensions
        .get::<ConnectInfo<Peer>>()
        .map(|ConnectInfo(peer)| peer.0.ip());
    let origin = if peer.is_some_and(|address| address.to_canonical().is_loopback()) {
        Origin::Loopback
    } else {
        Origin::Elsewhere
    };
    read(&api.realm.users)
        .authenticate(name, password.as_bytes(), origin)
        .map_err(|_| {
            api.realm.totals.logins_refused.add(1);
            Refusal::login()
        })
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

fn by_cookie(parts: &Parts, api: &Api) -> Result<Arc<str>, Refusal> {
    let secret = cookie(&parts.headers, api.scheme).ok_or_else(Refusal::login)?;
    let name = api
        .sessions()
        .user(secret, Instant::now())
        .ok_or_else(Refusal::login)?;
    if !parts.method.is_safe() && !parts.headers.contains_key(header::ORIGIN) {
        return Err(Refusal::suspicious(
            "a change by cookie must come from our own page",
        ));
    }
    Ok(name)
}

/// The name tells ports apart only by scheme: cookies know no ports.
pub(super) const fn cookie_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "cbroker",
        Scheme::Https => "__Host-cbroker",
    }
}

pub(super) fn cookie(headers: &HeaderMap, scheme: Scheme) -> Option<&str> {
    let pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = pairs
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == cookie_name(scheme))
        .map(|(_, secret)| secret)
}

impl Caller {
    /// The same caller as it is now.
    pub(super) fn anew(self, api: &Api) -> Result<Self, Refusal> {
        let user = read(&api.realm.users)
            .get(&self.name)
            .cloned()
            .ok_or_else(Refusal::login)?;
        Ok(Self { user, ..self })
    }

    pub(super) fn rank(&self) -> Rank {
        self.user.rank()
    }

    /// Refuses callers below administrators.
    pub(super) fn administers(&self) -> Result<(), Refusal> {
        if self.rank() >= Rank::Administrator {
            Ok(())
        } else {
            Err(Refusal::forbidden("Not administrator user"))
        }
    }

    /// Refuses callers who may not see other people's connections and traffic.
    pub(super) fn monitors(&self) -> Result<(), Refusal> {
        if self.rank() >= Rank::Monitoring {
            Ok(())
        } else {
            Err(Refusal::forbidden("Not monitor user"))
        }
    }

    /// Whether what happens in this vhost is for the caller's eyes.
    pub(super) fn sees(&self, vhost: &str) -> bool {
        self.user.permissions_in(vhost).is_some()
    }

    /// The vhosts that the caller sees.
    pub(super) fn vhosts(&self, api: &Api) -> Vec<Arc<Vhost>> {
        api.realm
            .vhosts()
            .into_iter()
            .filter(|vhost| self.sees(vhost.name()))
            .collect()
    }

    /// A vhost that exists and that the caller sees.
    pub(super) fn vhost(&self, api: &Api, name: &str) -> Result<Arc<Vhost>, Refusal> {
        let vhost = api.realm.vhost(name).ok_or_else(Refusal::not_found)?;
        if self.sees(name) {
            Ok(vhost)
        } else {
            Err(Refusal::forbidden(
                "User not authorised to access virtual host",
            ))
        }
    }

    /// Refuses what AMQP would refuse this user.
    pub(super) fn may(
        &self,
        vhost: &str,
        operation: Operation,
        resource: &str,
    ) -> Result<(), Refusal> {
        match self.user.permissions_in(vhost) {
            Some(permissions) if permissions.allow(operation, resource) => Ok(()),
            _ => Err(Refusal::forbidden("Access refused.")),
        }
    }
}
