//! The cookie of the page: its name, its values in a request, and setting it, also again once the
//! sign-in lives longer than the browser knows. Relied on by `auth`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{Api, HttpScheme, sign_ins};

/// The name contains the port, because cookies do not distinguish ports: two brokers on one machine
/// must not sign each other's pages out. Over TLS the prefix `__Host-` keeps other hosts from
/// setting it.
pub(super) fn name(scheme: HttpScheme, port: u16) -> String {
    match scheme {
        HttpScheme::Http => format!("cbroker-{port}"),
        HttpScheme::Https => format!("__Host-cbroker-{port}"),
    }
}

/// Returns every cookie with our name. A page on another port of this machine can set such cookies
/// too, and the browser may send them first, so any that fits the key counts. The size of a
/// request's head bounds their number, and values that cannot be a secret are left out: each one
/// that stays is hashed together with the key, before anything else is known about the client.
pub(super) fn cookies<'a>(headers: &'a HeaderMap, api: &'a Api) -> impl Iterator<Item = &'a str> {
    let pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = pairs
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(name, secret)| *name == api.cookie && sign_ins::may_be_secret(secret))
        .map(|(_, secret)| secret)
}

/// Returns the header that sets the cookie with this lifetime; zero removes it.
pub(super) fn set(api: &Api, secret: &str, life: Duration) -> HeaderValue {
    let secure = if api.scheme == HttpScheme::Https {
        "; Secure"
    } else {
        ""
    };
    let (name, seconds) = (&api.cookie, life.as_secs());
    let text =
        format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The header for the response to a request whose sign-in lives longer now.
#[derive(Debug, Clone, Default)]
struct LongerCookie(Arc<OnceLock<HeaderValue>>);

/// Leaves the header to [`set_again`].
pub(super) fn note_longer(parts: &Parts, header: HeaderValue) {
    if let Some(longer) = parts.extensions.get::<LongerCookie>() {
        // A request can be identified twice; the cookie is the same.
        let _ = longer.0.set(header);
    }
}

/// The layer around every route. It sends the cookie again when the sign-in was extended, unless
/// the response sets or removes the cookie itself.
pub(super) async fn set_again(mut request: Request, next: Next) -> Response {
    let longer = LongerCookie::default();
    request.extensions_mut().insert(longer.clone());
    let mut response = next.run(request).await;
    if let Some(header) = longer.0.get() {
        let headers = response.headers_mut();
        headers
            .entry(header::SET_COOKIE)
            .or_insert_with(|| header.clone());
    }
    response
}
