//! Definitions on their way in: all of a document, or nothing of it.
//!
//! The whole document is checked against what is there before anything is changed, and the first
//! thing that cannot be is named. Then everything is done without a pause, topology first, and
//! waited for once. What may still fail then, because somebody declared something else in between,
//! is undone. What a document says of policies and parameters is left alone.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{Routes, kept};
use crate::management::SharedApi;
use crate::management::auth::Caller;
use crate::management::held::{self, CallerBody, UserHolding};
use crate::management::refusal::ApiError;
use crate::persist::Ticket;

mod carry_out;
mod plan;

use plan::ImportPlan;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .post(
            "/api/definitions",
            "bring such a document in, as JSON or as the part \"file\" of a form",
            import,
        )
        .post(
            "/api/definitions/{vhost}",
            "bring such a document into a vhost",
            import_vhost,
        )
}

async fn import(
    State(api): State<SharedApi>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    caller.administers()?;
    let (caller, upload) = Upload::receive(&api, caller, request).await?;
    caller.administers()?;
    let document = upload.document.clone();
    bring_in(&api, caller, document, None).await?;
    Ok(upload.answer())
}

async fn import_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    caller.vhost(&api, &vhost)?;
    let (caller, upload) = Upload::receive(&api, caller, request).await?;
    caller.vhost(&api, &vhost)?;
    let document = upload.document.clone();
    bring_in(&api, caller, document, Some(vhost)).await?;
    Ok(upload.answer())
}

/// A document as it came.
struct Upload {
    document: Bytes,
    /// Where a form wants its sender to go afterwards.
    redirect: Option<HeaderValue>,
}

impl Upload {
    /// The document, and its sender with the rights of after it came.
    async fn receive(
        api: &SharedApi,
        caller: Caller,
        request: Request,
    ) -> Result<(Caller, Self), ApiError> {
        let (parts, body) = request.into_parts();
        let sent = CallerBody::receive(api, caller, body, held::MUCH_BYTES).await?;
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let is_form = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
        let upload = if is_form {
            Self::of_form(Request::from_parts(parts, sent.body.into())).await?
        } else {
            Self {
                document: sent.body,
                redirect: None,
            }
        };
        Ok((sent.caller, upload))
    }

    async fn of_form(mut request: Request) -> Result<Self, ApiError> {
        DefaultBodyLimit::max(held::MUCH_BYTES).apply(&mut request);
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|_| Self::unreadable())?;
        let mut upload = Self {
            document: Bytes::new(),
            redirect: None,
        };
        while let Some(part) = form.next_field().await.map_err(|_| Self::unreadable())? {
            let name = part.name().unwrap_or_default().to_owned();
            let value = part.bytes().await.map_err(|_| Self::unreadable())?;
            match name.as_str() {
                "file" => upload.document = value,
                "redirect" => upload.redirect = within(&value),
                _ => {}
            }
        }
        Ok(upload)
    }

    fn unreadable() -> ApiError {
        ApiError::bad("the upload is broken or too large")
    }

    fn answer(self) -> Response {
        match self.redirect {
            Some(place) => (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response(),
            None => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

/// A place of this server: a form cannot send people elsewhere.
fn within(place: &[u8]) -> Option<HeaderValue> {
    // Browsers leave tabs out, so one between two slashes leads to another server.
    let leads_away = |byte: &u8| matches!(byte, b':' | b'\\') || byte.is_ascii_control();
    let is_relative = !place.iter().any(leads_away) && !place.starts_with(b"//");
    let value = HeaderValue::from_bytes(place).ok();
    value.filter(|_| is_relative && !place.is_empty())
}

async fn bring_in(
    api: &SharedApi,
    caller: Caller,
    document: Bytes,
    into: Option<String>,
) -> Result<(), ApiError> {
    let shared = SharedApi::clone(api);
    let user = Arc::clone(&caller.name);
    let work = move || carry_out(&shared, &caller, &document, into.as_deref());
    let ticket = api.aside(&user, work).await??;
    kept(api, ticket).await
}

fn carry_out(
    api: &SharedApi,
    caller: &Caller,
    document: &Bytes,
    into: Option<&str>,
) -> Result<Ticket, ApiError> {
    let mut holding = api.holdings.of(&caller.name);
    weigh(document, &mut holding)?;
    let document = serde_json::from_slice(document).ok();
    let Some(Value::Object(document)) = document else {
        return Err(ApiError::bad("failed_to_parse_json"));
    };
    let mut plan = ImportPlan::new(api, into);
    plan.read(&Value::Object(document))?;
    if into.is_some() {
        plan.check_caller(caller)?;
    }
    plan.carry_out(caller)
}

/// What a value costs in the tree of a document, with its key and the room for more.
const VALUE_BYTES: usize = 64;
/// The largest tree.
const TREE_BYTES: usize = 256 * 1024 * 1024;

/// Refuses a document that would be too large as a tree, before it is one.
fn weigh(document: &[u8], holding: &mut UserHolding) -> Result<(), ApiError> {
    let begins_value = |byte: &&u8| matches!(byte, b',' | b'[' | b'{' | b':');
    let values = document.iter().filter(begins_value).count();
    let bytes = document.len() + values * VALUE_BYTES;
    if bytes > TREE_BYTES {
        return Err(ApiError::bad("the document is too large"));
    }
    holding.set(bytes)
}

fn named(kind: &str, name: &str, vhost: &str) -> String {
    format!("{kind} '{name}' in vhost '{vhost}'")
}

/// What a refusal calls a line.
fn called(kind: &str, line: &Value) -> String {
    let field = |field: &str| line.get(field).and_then(Value::as_str);
    let place = field("vhost").map_or(String::new(), |vhost| format!(" in vhost '{vhost}'"));
    match kind {
        "binding" => {
            let part = |name| field(name).unwrap_or("?");
            let (source, destination) = (part("source"), part("destination"));
            format!("binding from '{source}' to '{destination}'{place}")
        }
        "permissions" => format!("permissions of '{}'{place}", field("user").unwrap_or("?")),
        _ => format!("{kind} '{}'{place}", field("name").unwrap_or("?")),
    }
}
