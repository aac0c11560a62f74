//! All routes, each with its summary for the `OpenAPI` document, which is made from the same list.
//!
//! A handler checks the caller, asks the broker, and responds with JSON or an [`ApiError`]. Names
//! in paths are percent-decoded; the default exchange is called `amq.default`.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::reading::{
    check_routing_key, claim, custom_error, integer, interpret, quoted, read, read_or_default,
    routing_key,
};
use super::refusal::ApiError;
use super::{Api, SharedApi, page};
use crate::fault::Fault;
use crate::persist::Ticket;

mod archive;
mod bindings;
mod connections;
mod definitions;
mod deletions;
mod exchanges;
mod health;
mod import;
mod limits;
mod messages;
mod metrics;
mod openapi;
mod overview;
mod permissions;
mod publish;
mod queues;
mod sign_in;
mod tap;
mod users;
mod vhosts;

/// Bodies up to this size are read from any caller.
const LITTLE_BYTES: usize = 64 * 1024;

/// The description of a route in the `OpenAPI` document.
#[derive(Debug, Clone)]
pub(super) struct RouteDescription {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
}

/// Collects the routes.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<SharedApi>,
    described: Vec<RouteDescription>,
}

impl Routes {
    /// All of them.
    pub(super) fn all() -> Self {
        let routes = Self::default();
        let routes = overview::routes(routes);
        let routes = health::routes(routes);
        let routes = connections::routes(routes);
        let routes = exchanges::routes(routes);
        let routes = queues::routes(routes);
        let routes = publish::routes(routes);
        let routes = messages::routes(routes);
        let routes = bindings::routes(routes);
        let routes = vhosts::routes(routes);
        let routes = users::routes(routes);
        let routes = permissions::routes(routes);
        let routes = definitions::routes(routes);
        let routes = import::routes(routes);
        let routes = limits::routes(routes);
        let routes = sign_in::routes(routes);
        let routes = tap::routes(routes);
        let routes = archive::routes(routes);
        let routes = metrics::routes(routes);
        page::routes(routes)
    }

    pub(super) fn get<H, T>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: axum::handler::Handler<T, SharedApi>,
        T: 'static,
    {
        self.add(Method::GET, path, summary, on(MethodFilter::GET, handler))
    }

    fn put<H, T>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: axum::handler::Handler<T, SharedApi>,
        T: 'static,
    {
        self.add(Method::PUT, path, summary, on(MethodFilter::PUT, handler))
    }

    fn post<H, T>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: axum::handler::Handler<T, SharedApi>,
        T: 'static,
    {
        self.add(Method::POST, path, summary, on(MethodFilter::POST, handler))
    }

    fn delete<H, T>(self, path: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: axum::handler::Handler<T, SharedApi>,
        T: 'static,
    {
        self.add(
            Method::DELETE,
            path,
            summary,
            on(MethodFilter::DELETE, handler),
        )
    }

    fn add(
        mut self,
        method: Method,
        path: &'static str,
        summary: &'static str,
        route: MethodRouter<SharedApi>,
    ) -> Self {
        self.router = self.router.route(path, route);
        self.described.push(RouteDescription {
            method,
            path,
            summary,
        });
        self
    }

    /// The finished router, which also serves its own description.
    pub(super) fn into_router(self, api: SharedApi) -> Router {
        let document = openapi::document(&self.described);
        self.router
            .route(
                "/api/openapi.json",
                on(MethodFilter::GET, || async { axum::Json(document) }),
            )
            .fallback(|| async { ApiError::not_found() })
            .layer(DefaultBodyLimit::max(LITTLE_BYTES))
            .layer(map_response(in_own_words))
            .with_state(api)
    }
}

/// Rewrites refusals of the HTTP library in the form of the API, because their texts name types of
/// this program.
async fn in_own_words(response: Response) -> Response {
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_text = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    let status = response.status();
    if !(status.is_client_error() && is_text) {
        return response;
    }
    let reason = match status {
        StatusCode::BAD_REQUEST => "the path, the query or the body cannot be understood",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is too large",
        other => other.canonical_reason().unwrap_or_default(),
    };
    ApiError::new(status, "bad_request", reason).into_response()
}

/// Waits until a change is on disk, so that a success is never reported that a crash could undo.
pub(super) async fn wait_until_durable(api: &Api, ticket: Ticket) -> Result<(), ApiError> {
    if api.broker.durable(ticket).await {
        Ok(())
    } else {
        Err(Fault::store_stopped().into())
    }
}

/// 201 for something new, 204 for something that was there.
pub(super) fn made(was_there: bool) -> Response {
    if was_there {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CREATED
    }
    .into_response()
}

/// The longest tag of a user or vhost, in bytes.
const TAG_BYTES: usize = 255;

/// Refuses tags that are too long.
pub(super) fn check_tags<'t>(mut tags: impl Iterator<Item = &'t str>) -> Result<(), ApiError> {
    if tags.any(|tag| tag.len() > TAG_BYTES) {
        return Err(ApiError::bad("a tag has at most 255 bytes"));
    }
    Ok(())
}

/// The real name of an exchange in a path.
pub(super) fn exchange_name(in_path: &str) -> &str {
    if in_path == "amq.default" {
        ""
    } else {
        in_path
    }
}
