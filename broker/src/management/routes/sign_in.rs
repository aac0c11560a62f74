//! Signing in at the page: a tool gets a one-time token, the page redeems it for a cookie.
//!
//! Any user can make a link and redirect another person's browser to it; that person would then
//! work as that user without knowing it. So a link signs in at once only if the browser's user
//! stays the same, or if a program of the broker's own system user made the link. Any other link
//! needs a confirmation of the user's name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Routes;
use crate::fault::Fault;
use crate::lock::read;
use crate::management::auth::{self, AuthMethod, Caller};
use crate::management::http_listener::RemoteEnd;
use crate::management::proof;
use crate::management::refusal::ApiError;
use crate::management::sign_ins::{ClientLocation, Issuer, ProvenUser, TOKEN_LIFE};
use crate::management::user_memory;
use crate::management::{SharedApi, page_cookie};
use crate::persist::Ticket;
use crate::time::now_ms;

/// The size limit of a request to sign in, in bytes.
const SIGN_IN_BYTES: usize = 4096;

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
        .get(
            "/api/session/proof",
            "prove to the page that this broker made its sign-in",
            prove,
        )
        .delete("/api/session", "sign out", sign_out)
}

fn no_randomness(error: getrandom::Error) -> ApiError {
    tracing::error!(%error, "the system gives no random bytes");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "the system gives no random bytes",
    )
}

/// Only for tools: a page could use a token only to pass it to another browser.
async fn token(State(api): State<SharedApi>, caller: Caller) -> Result<Json<Value>, ApiError> {
    if matches!(caller.by, AuthMethod::Cookie(_)) {
        return Err(ApiError::suspicious("a token is given for a password only"));
    }
    let issuer = match caller.by {
        AuthMethod::Socket => Issuer::Own,
        AuthMethod::Password | AuthMethod::Cookie(_) => Issuer::Password,
    };
    let identity = ProvenUser::new(caller.name, &caller.user, caller.is_owner);
    let token = api.sign_ins().issue(identity, issuer, Instant::now());
    let token = token.map_err(no_randomness)?;
    Ok(Json(json!({
        "token": token,
        "expires_in": TOKEN_LIFE.as_secs(),
        "path": format!("/#token={token}"),
        "serves_localhost": api.serves_localhost(),
    })))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SignInRequest {
    Token {
        token: String,
        /// Whether a person confirmed the user's name.
        #[serde(default)]
        confirmed: bool,
    },
    Password {
        username: String,
        password: String,
    },
}

async fn sign_in(State(api): State<SharedApi>, request: Request) -> Result<Response, ApiError> {
    // In very old browsers a form on a foreign page could post this without an `Origin`. Our page
    // always sends one.
    if !request.headers().contains_key(header::ORIGIN) {
        return Err(ApiError::suspicious("signing in happens at our own page"));
    }
    let (parts, body) = request.into_parts();
    // The user is not known yet, so the body is charged to the connection, and no client uses up
    // the memory of others. The number of connections without a login bounds them all.
    let connection = parts
        .extensions
        .get::<RemoteEnd>()
        .map_or(0, RemoteEnd::number);
    let holding = api.holdings.of(&account(connection));
    let body = user_memory::receive(body, SIGN_IN_BYTES, holding).await?;
    let identity = match super::read(&body)? {
        SignInRequest::Token { token, confirmed } => {
            let now = Instant::now();
            let link = api.sign_ins().look_up(&token, now);
            let (user, issuer) = link.ok_or_else(ApiError::login)?;
            let before = auth::present(&parts, &api).await.map(|found| found.user);
            let is_expected = match &before {
                Some(before) => *before == user,
                None => issuer == Issuer::Own,
            };
            if !is_expected && !confirmed {
                return Ok(question(&user, before.as_deref()));
            }
            let redeemed = api.sign_ins().redeem(&token, now);
            redeemed.ok_or_else(ApiError::login)?
        }
        SignInRequest::Password { username, password } => {
            let user = auth::check_password(&parts, &api, &username, &password).await?;
            let is_owner = api.is_login_of_owner(&username, &password).await;
            ProvenUser::new(username.into(), &user, is_owner)
        }
    };
    let location = auth::location(&parts, &api).await;
    complete_sign_in(&api, identity, location).await
}

/// The name under which the bytes of a connection without a login are charged. No user has such a
/// name.
fn account(connection: u64) -> Arc<str> {
    format!("\0sign-in {connection}").into()
}

/// Signs in a user that has proven who it is. If its password was changed since, the sign-in counts
/// for nothing, because it remembers the old password.
async fn complete_sign_in(
    api: &SharedApi,
    identity: ProvenUser,
    location: ClientLocation,
) -> Result<Response, ApiError> {
    let user = Arc::clone(&identity.user);
    {
        let users = read(&api.broker.users);
        auth::check_rank(users.get(&user).ok_or_else(ApiError::login)?)?;
    }
    let (cookie, signed_in, ticket) = {
        let mut sign_ins = api.sign_ins();
        let opened = sign_ins.sign_in(identity, location, now_ms());
        let opened = opened.map_err(no_randomness)?;
        let ticket = api.store_sign_ins(&sign_ins, opened.forgotten, opened.stored)?;
        let signed_in = json!({
            "name": &*user, "id": opened.id, "key": opened.key, "proof_key": opened.proof_key,
        });
        let cookie = page_cookie::set(api, &opened.cookie, sign_ins.life());
        (cookie, signed_in, ticket)
    };
    super::wait_until_durable(api, ticket).await?;
    api.open_or_close_tap();
    Ok(([(header::SET_COOKIE, cookie)], Json(signed_in)).into_response())
}

/// Asks the person to confirm the user.
fn question(user: &str, before: Option<&str>) -> Response {
    let body = json!({
        "error": "confirm",
        "reason": "this link needs a confirmation",
        "user": user,
        "instead_of": before,
    });
    (StatusCode::CONFLICT, Json(body)).into_response()
}

async fn show(State(api): State<SharedApi>, caller: Caller) -> Json<Value> {
    let tags: Vec<_> = caller.user.tags.iter().map(|tag| &tag.0).collect();
    let archive = super::archive::open_to(&caller, &api).is_some();
    Json(json!({ "name": &*caller.name, "tags": tags, "archive": archive }))
}

/// Answers a page that does not know who listens and so sends no secret: with a proof, if the
/// sign-in that it names would count.
async fn prove(State(api): State<SharedApi>, request: Request) -> Result<Response, ApiError> {
    let (parts, _body) = request.into_parts();
    let proof = proof::of_named_sign_in(&parts, &api).await;
    let proof = [proof.ok_or_else(ApiError::login)?];
    Ok((StatusCode::NO_CONTENT, proof).into_response())
}

async fn sign_out(
    State(api): State<SharedApi>,
    headers: HeaderMap,
    _caller: Caller,
) -> Result<Response, ApiError> {
    let key = auth::page_key(&headers).unwrap_or_default();
    let mut cookies = page_cookie::cookies(&headers, &api);
    let ended = cookies.try_fold(Ticket::NONE, |last, cookie| {
        Ok::<_, Fault>(last.max(api.sign_out(cookie, key)?))
    });
    // A tap that was opened with this sign-in ends too.
    api.broker.permissions_changed();
    api.open_or_close_tap();
    super::wait_until_durable(&api, ended?).await?;
    let no_cookie = page_cookie::set(&api, "", Duration::ZERO);
    let no_cookie = [(header::SET_COOKIE, no_cookie)];
    Ok((StatusCode::NO_CONTENT, no_cookie).into_response())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::Barrier;

    use axum::extract::FromRequestParts;
    use axum::http::request::Parts;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::lock::write;
    use crate::management::HttpScheme;
    use crate::management::tests::TestApi;
    use crate::users::{Credential, Tag};

    const HERE: ClientLocation = ClientLocation::LocalUser(1000);

    /// A request of the page that has a sign-in, by a system user.
    async fn opened(api: &SharedApi, identity: ProvenUser, user: u32) -> Parts {
        let mut response = complete_sign_in(api, identity, HERE).await.unwrap();
        let body = std::mem::take(response.body_mut());
        let body = axum::body::to_bytes(body, 10_000).await.unwrap();
        let told: Value = serde_json::from_slice(&body).unwrap();
        let request = Request::get("/api/session")
            .header(header::COOKIE, &response.headers()[header::SET_COOKIE])
            .header("x-cbroker-key", told["key"].as_str().unwrap())
            .extension(RemoteEnd::at(ClientLocation::LocalUser(user)));
        request.body(()).unwrap().into_parts().0
    }

    async fn is_signed_in(api: &SharedApi, identity: ProvenUser) -> bool {
        let request = opened(api, identity, 1000).await;
        auth::present(&request, api).await.is_some()
    }

    #[tokio::test]
    async fn another_system_user_with_the_cookie_and_the_key_is_not_signed_in() {
        let test = TestApi::start().await;
        let ada = test.ada();
        let proven = || ProvenUser::new(Arc::clone(&ada.name), &ada.user, false);
        for (user, is_in) in [(1000, true), (1001, false), (0, false)] {
            let mut request = opened(&test.api, proven(), user).await;
            let caller = Caller::from_request_parts(&mut request, &test.api).await;
            assert_eq!(caller.is_ok(), is_in, "{user}");
        }
        test.stop().await;
    }

    #[tokio::test]
    async fn another_system_user_who_knows_the_id_of_a_sign_in_gets_no_proof() {
        let test = TestApi::start().await;
        let ada = test.ada();
        let proven = ProvenUser::new(Arc::clone(&ada.name), &ada.user, false);
        let id = {
            let mut sign_ins = test.api.sign_ins();
            sign_ins.sign_in(proven, HERE, now_ms()).unwrap().id
        };
        let ask = async |id: &str, user| {
            let request = Request::get("/api/session/proof")
                .header("x-cbroker-nonce", "1")
                .header("x-cbroker-sign-in", id)
                .extension(RemoteEnd::at(ClientLocation::LocalUser(user)));
            let state = State(SharedApi::clone(&test.api));
            let response = prove(state, request.body(().into()).unwrap()).await;
            response.is_ok_and(|response| response.headers().contains_key("x-cbroker-proof"))
        };
        assert!(ask(&id, 1000).await);
        assert!(!ask(&id, 1001).await, "he may have forwarded it");
        assert!(!ask("another", 1000).await);
        test.stop().await;
    }

    #[tokio::test]
    async fn the_cookie_of_a_sign_in_that_is_used_lives_as_long_as_the_sign_in() {
        let test = TestApi::start().await;
        let ada = test.ada();
        let proven = ProvenUser::new(Arc::clone(&ada.name), &ada.user, false);
        let router = crate::management::router(&test.api, HttpScheme::Http);
        for location in [HERE, ClientLocation::UnknownLocalUser] {
            let before = now_ms() - 2 * 60 * 60 * 1000;
            let opened = test
                .api
                .sign_ins()
                .sign_in(proven.clone(), location, before)
                .unwrap();
            let ask = async |method: &str| {
                let cookie = format!("{}={}", test.api.cookie, opened.cookie);
                let request = Request::builder()
                    .method(method)
                    .uri("/api/session")
                    .header(header::HOST, "localhost")
                    .header(header::ORIGIN, "http://localhost")
                    .header(header::COOKIE, cookie)
                    .header("x-cbroker-key", &opened.key)
                    .extension(RemoteEnd::at(location));
                let request = request.body(axum::body::Body::empty()).unwrap();
                let service = TowerToHyperService::new(router.clone());
                let response = service.call(request).await.unwrap();
                let set = response.headers().get_all(header::SET_COOKIE).iter();
                let set: Vec<_> = set.map(|set| set.to_str().unwrap().to_owned()).collect();
                (response.status(), set)
            };
            let life = test.api.sign_ins().life();
            let renewed = page_cookie::set(&test.api, &opened.cookie, life);
            let renewed = renewed.to_str().unwrap().to_owned();
            assert_eq!(ask("GET").await, (StatusCode::OK, vec![renewed]));
            assert_eq!(ask("GET").await, (StatusCode::OK, vec![]), "not each time");
            let (status, set) = ask("DELETE").await;
            assert_eq!(status, StatusCode::NO_CONTENT);
            assert!(set.len() == 1 && set[0].contains("Max-Age=0"), "{set:?}");
            assert_eq!(ask("GET").await, (StatusCode::UNAUTHORIZED, vec![]));
        }
        test.stop().await;
    }

    #[tokio::test]
    async fn long_keys_and_cookies_are_not_hashed() {
        let test = TestApi::start().await;
        let ada = test.ada();
        let proven = ProvenUser::new(Arc::clone(&ada.name), &ada.user, false);
        let mut request = opened(&test.api, proven, 1000).await;
        let name = &test.api.cookie;
        let many = vec![format!("{name}=; {name}={}", "x".repeat(99)); 200].join("; ");
        let headers = &mut request.headers;
        headers.append(header::COOKIE, many.parse().unwrap());
        let all = page_cookie::cookies(headers, &test.api).count();
        assert_eq!(all, 1, "the genuine one alone");
        assert!(auth::present(&request, &test.api).await.is_some());
        for length in [0, 42, 44, 32_000] {
            let key = "k".repeat(length).parse().unwrap();
            request.headers.insert("x-cbroker-key", key);
            assert_eq!(auth::page_key(&request.headers), None, "{length}");
        }
        test.stop().await;
    }

    #[tokio::test]
    async fn a_sign_in_that_ends_while_it_is_used_does_not_come_back_with_a_restart() {
        let test = TestApi::start().await;
        let (api, ada) = (&test.api, test.ada());
        // Late enough for its new end to be stored.
        let later = now_ms() + 2 * 60 * 60 * 1000;
        for _ in 0..2000 {
            let proven = ProvenUser::new(Arc::clone(&ada.name), &ada.user, false);
            let opened = api.sign_ins().sign_in(proven, HERE, now_ms()).unwrap();
            let (cookie, key) = (&opened.cookie, &opened.key);
            let id = api.sign_ins().find(cookie, key, now_ms()).unwrap().id;
            let both = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    api.renew_sign_in(&id, later);
                });
                scope.spawn(|| {
                    both.wait();
                    api.sign_out(cookie, key).unwrap();
                });
            });
        }
        assert_eq!(test.sign_ins_after_a_restart().await, 0);
    }

    #[tokio::test]
    async fn a_sign_out_that_the_store_does_not_have_is_not_confirmed() {
        let test = TestApi::start().await;
        let ada = test.ada();
        let proven = ProvenUser::new(Arc::clone(&ada.name), &ada.user, false);
        let mut request = opened(&test.api, proven, 1000).await;
        let caller = Caller::from_request_parts(&mut request, &test.api).await;
        let state = State(SharedApi::clone(&test.api));
        test.stop().await;
        let response = sign_out(state, request.headers, caller.ok().unwrap()).await;
        assert!(response.is_err(), "it would come back with a restart");
    }

    #[tokio::test]
    async fn a_stranger_who_fills_its_room_to_sign_in_keeps_no_other_out() {
        let test = TestApi::start().await;
        let request = || {
            let body = r#"{"username":"ada","password":"pw"}"#;
            let request = Request::post("/api/session").header(header::ORIGIN, "here");
            sign_in(
                State(SharedApi::clone(&test.api)),
                request.body(body.into()).unwrap(),
            )
        };
        // A request without a connection is of number 0.
        let mut other = test.api.holdings.of(&account(1));
        while other.set(other.bytes() + (1 << 20)).is_ok() {}
        assert!(request().await.is_ok());
        drop(other);
        let mut own = test.api.holdings.of(&account(0));
        for step in [1 << 20, 1 << 10, 1] {
            while own.set(own.bytes() + step).is_ok() {}
        }
        assert!(request().await.is_err(), "its own room is full");
        test.stop().await;
    }

    #[tokio::test]
    async fn a_sign_in_that_a_new_password_overtakes_does_not_outlive_the_old_one() {
        let test = TestApi::start().await;
        let before = test.ada();
        let proven = || ProvenUser::new(Arc::clone(&before.name), &before.user, false);
        assert!(is_signed_in(&test.api, proven()).await);
        let token = {
            let mut sign_ins = test.api.sign_ins();
            let token = sign_ins.issue(proven(), Issuer::Own, Instant::now());
            token.unwrap()
        };
        let redeemed = test.api.sign_ins().redeem(&token, Instant::now()).unwrap();
        let password = Credential::new(b"another").unwrap();
        let tags = vec![Tag("administrator".into())];
        write(&test.api.broker.users).put("ada", Some(password), tags);
        test.api.sign_out_everywhere("ada");
        assert!(!is_signed_in(&test.api, proven()).await);
        assert!(!is_signed_in(&test.api, redeemed).await);
        test.stop().await;
    }
}
