//! Signing in at the page: a tool gets a one-time token, the page redeems it for a cookie .

use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Routes;
use crate::fault::Fault;
use crate::lock::read;
use crate::management::auth::{self, Caller, SignIn};
use crate::management::refusal::ApiError;
use crate::management::sessions::{self, SESSION_LIFE_MS, TOKEN_LIFE};
use crate::management::{Api, HttpScheme, SharedApi};
use crate::persist::records::Definition;
use crate::time::now_ms;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .post(
            "/api/session/token",
            "a token that signs a browser in once, within a minute",
            token,
        )
        .post(
            "/api/session",
            "sign in with a token, or with a name and password",
            sign_in,
        )
        .get("/api/session", "who is signed in", show)
        .delete("/api/session", "sign out", sign_out)
}

fn no_randomness(error: getrandom::Error) -> ApiError {
    tracing::error!(%error, "the machine gives no random numbers");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "no random numbers",
    )
}

/// For tools alone: a page has no use for a token but to hand it to another browser.
async fn token(State(api): State<SharedApi>, caller: Caller) -> Result<Json<Value>, ApiError> {
    if matches!(caller.by, SignIn::Cookie(_)) {
        return Err(ApiError::suspicious("a token is given for a password only"));
    }
    let token = api
        .sessions()
        .issue(&caller.name, Instant::now())
        .map_err(no_randomness)?;
    Ok(Json(json!({
        "token": token,
        "expires_in": TOKEN_LIFE.as_secs(),
        "path": format!("/#token={token}"),
    })))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entrance {
    Token { token: String },
    Password { username: String, password: String },
}

async fn sign_in(
    State(api): State<SharedApi>,
    parts: Parts,
    body: Bytes,
) -> Result<Response, ApiError> {
    // A form on a foreign page could post this without an Origin of its own in very old browsers:
    // ours always has one.
    if !parts.headers.contains_key(header::ORIGIN) {
        return Err(ApiError::suspicious("signing in happens at our own page"));
    }
    let user = match super::read(&body)? {
        Entrance::Token { token } => api
            .sessions()
            .redeem(&token, Instant::now())
            .ok_or_else(ApiError::login)?,
        Entrance::Password { username, password } => {
            auth::check_password(&parts, &api, &username, &password).await?;
            username.into()
        }
    };
    let credential = {
        let users = read(&api.broker.users);
        let user = users.get(&user).ok_or_else(ApiError::login)?;
        auth::check_rank(user)?;
        sessions::digest(user.password.as_ref())
    };
    let opened = api.sessions().sign_in(&user, credential, now_ms());
    let opened = opened.map_err(no_randomness)?;
    api.forget_sessions(opened.forgotten);
    let saved = api.broker.facts.save(&Definition::Session(opened.stored));
    super::kept(&api, saved.map_err(Fault::from)?).await?;
    api.mind_the_tap();
    let cookie = set_cookie(&api, &opened.secret, SESSION_LIFE_MS / 1000);
    Ok((
        [(header::SET_COOKIE, cookie)],
        Json(json!({ "name": &*user })),
    )
        .into_response())
}

fn set_cookie(api: &Api, secret: &str, seconds: u64) -> HeaderValue {
    let secure = if api.scheme == HttpScheme::Https {
        "; Secure"
    } else {
        ""
    };
    let name = &api.cookie;
    let text =
        format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

async fn show(caller: Caller) -> Json<Value> {
    let tags: Vec<_> = caller.user.tags.iter().map(|tag| &tag.0).collect();
    Json(json!({ "name": &*caller.name, "tags": tags }))
}

async fn sign_out(State(api): State<SharedApi>, headers: HeaderMap, _caller: Caller) -> Response {
    for secret in auth::cookies(&headers, &api) {
        let ended = api.sessions().sign_out(secret);
        api.forget_sessions(ended);
    }
    // A tap that the session opened ends too.
    api.broker.permissions_changed();
    api.mind_the_tap();
    (
        StatusCode::NO_CONTENT,
        [(header::SET_COOKIE, set_cookie(&api, "", 0))],
    )
        .into_response()
}
