//! Imports definitions: all of a document, or nothing.
//!
//! The whole document is checked against the existing objects before anything is changed. A refusal
//! names the first line that is impossible or that the caller may not do. Then the document is
//! carried out without a pause, topology first, with one wait for the store at the end. If a line
//! still fails, because another client declared something meanwhile, all of it is undone. The
//! sender decides how long the upload takes, so the caller's rights are checked again before each
//! part, before each line after any change of rights, and before each user or permission. If the
//! caller loses its rights among the users and permissions, those already changed stay. Policies
//! and parameters in a document are ignored.

use axum::body::Bytes;
use axum::extract::multipart::Field;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::runtime::Handle;

use super::{Routes, wait_until_durable};
use crate::management::SharedApi;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory::{self, CallerBody, UserHolding};
use crate::persist::Ticket;

mod carry_out;
mod plan;
mod weight;

use plan::ImportPlan;
use weight::weigh;

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
    Ok(upload.into_response())
}

async fn import_vhost(
    State(api): State<SharedApi>,
    Path(vhost): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    caller.vhost(&api, &vhost)?;
    // The content of the document is not known yet, but some users may not declare anything.
    caller.may_declare(&vhost)?;
    let (caller, upload) = Upload::receive(&api, caller, request).await?;
    caller.vhost(&api, &vhost)?;
    let document = upload.document.clone();
    bring_in(&api, caller, document, Some(vhost)).await?;
    Ok(upload.into_response())
}

/// The longest place that a form can name for afterwards.
const REDIRECT_BYTES: usize = 4096;

/// An uploaded document.
struct Upload {
    document: Bytes,
    /// The path to which a form wants to redirect its sender.
    redirect: Option<HeaderValue>,
}

impl Upload {
    /// The document, and its sender with the rights that it had after the upload.
    async fn receive(
        api: &SharedApi,
        caller: Caller,
        request: Request,
    ) -> Result<(Caller, Self), ApiError> {
        let (parts, body) = request.into_parts();
        let sent = CallerBody::receive(api, caller, body, user_memory::MUCH_BYTES).await?;
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let is_form = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
        let upload = if is_form {
            let (holding, copies) = (
                api.holdings.of(&sent.caller.name),
                api.holdings.of(&sent.caller.name),
            );
            // All of the form is here, so nothing in it waits: millions of parts would keep a
            // thread that serves.
            let reading = move || {
                let form = Self::of_form(&parts.headers, sent.body, holding, copies);
                Handle::current().block_on(form)
            };
            api.run_in_slot(&sent.caller, reading).await?
        } else {
            Self {
                document: sent.body,
                redirect: None,
            }
        };
        Ok((sent.caller, upload))
    }

    /// The parts of a form. Its parser has a copy of the whole form, on the account of `parser`
    /// while it works; the document stays on the one of `holding`.
    async fn of_form(
        headers: &HeaderMap,
        body: Bytes,
        holding: UserHolding,
        mut parser: UserHolding,
    ) -> Result<Self, ApiError> {
        let length = body.len();
        parser.set(2 * length)?;
        let mut request = Request::new(body.into());
        request.headers_mut().clone_from(headers);
        DefaultBodyLimit::max(user_memory::MUCH_BYTES).apply(&mut request);
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|_| Self::unreadable())?;
        // One allocation of a known size: growing would need more than is on the account.
        let mut document = Vec::with_capacity(length);
        let mut redirect = Vec::new();
        while let Some(part) = form.next_field().await.map_err(|_| Self::unreadable())? {
            match part.name().unwrap_or_default() {
                "file" => collect(part, length, &mut document).await?,
                "redirect" => collect(part, REDIRECT_BYTES, &mut redirect).await?,
                // The parser skips the rest.
                _ => {}
            }
        }
        drop(form);
        document.shrink_to_fit();
        Ok(Self {
            document: user_memory::with_holding(document, holding)?,
            redirect: within(&redirect),
        })
    }

    fn unreadable() -> ApiError {
        ApiError::bad("the upload is broken or too large")
    }

    fn into_response(self) -> Response {
        match self.redirect {
            Some(place) => (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response(),
            None => StatusCode::NO_CONTENT.into_response(),
        }
    }
}

/// Reads a part of a form into `bytes`, in place of what an earlier part left there.
async fn collect(mut part: Field<'_>, limit: usize, bytes: &mut Vec<u8>) -> Result<(), ApiError> {
    bytes.clear();
    while let Some(chunk) = part.chunk().await.map_err(|_| Upload::unreadable())? {
        if bytes.len() + chunk.len() > limit {
            return Err(Upload::unreadable());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(())
}

/// A path on this server: a form cannot redirect to another server.
fn within(place: &[u8]) -> Option<HeaderValue> {
    // Browsers leave spaces around it out too.
    let place = place.trim_ascii();
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
    let asker = caller.clone();
    let work = move || carry_out(&shared, &caller, &document, into.as_deref());
    let ticket = api.run_in_slot(&asker, work).await?;
    wait_until_durable(api, ticket).await
}

fn carry_out(
    api: &SharedApi,
    caller: &Caller,
    document: &Bytes,
    into: Option<&str>,
) -> Result<Ticket, ApiError> {
    let mut holding = api.holdings.of(&caller.name);
    holding.set(weigh(document)?)?;
    let document = serde_json::from_slice(document).ok();
    let Some(Value::Object(document)) = document else {
        return Err(ApiError::bad("failed_to_parse_json"));
    };
    let mut plan = ImportPlan::new(api, caller, into);
    plan.read(document)?;
    plan.carry_out()
}

fn named(kind: &str, name: &str, vhost: &str) -> String {
    format!("{kind} '{name}' in vhost '{vhost}'")
}

/// The longest name that a refusal quotes, in bytes.
const NAME_BYTES: usize = 255;

/// The name of a line in a refusal.
fn called(kind: &str, line: &Value) -> String {
    // A name may be as long as the document.
    let field = |field: &str| {
        let text = line.get(field)?.as_str()?;
        Some(&text[..text.floor_char_boundary(NAME_BYTES)])
    };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::Arc;

    use super::*;
    use crate::management::tests::TestApi;
    use crate::management::user_memory::UserHoldings;

    fn form(document: &str) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        let kind = "multipart/form-data; boundary=b";
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let part = |name: &str, value: &str| {
            format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let parts = [
            part("other", &"o".repeat(1000)),
            part("file", document),
            part("redirect", "/#queues"),
        ];
        (headers, format!("{}--b--\r\n", parts.concat()).into())
    }

    #[tokio::test]
    async fn documents_uploaded_as_forms_that_wait_are_on_the_account_of_their_user() {
        let holdings = Arc::<UserHoldings>::default();
        let (ada, text) = (Arc::from("ada"), "x".repeat(100_000));
        let (headers, body) = form(&text);
        let (holding, parser) = (holdings.of(&ada), holdings.of(&ada));
        let upload = Upload::of_form(&headers, body, holding, parser)
            .await
            .unwrap();
        assert_eq!(upload.document.as_ref(), text.as_bytes());
        assert_eq!(upload.redirect.as_ref().unwrap(), "/#queues");
        assert_eq!(
            holdings.of_user("ada"),
            100_000,
            "and nothing of the parser"
        );
        drop(upload);
        assert_eq!(holdings.of_user("ada"), 0);
    }

    #[tokio::test]
    async fn the_copies_of_a_form_count_before_they_are_made() {
        let holdings = Arc::<UserHoldings>::default();
        let ada = Arc::from("ada");
        let mut others = holdings.of(&ada);
        while others.set(holdings.of_user("ada") + 1000).is_ok() {}
        let (headers, body) = form(&"x".repeat(1000));
        let (holding, parser) = (holdings.of(&ada), holdings.of(&ada));
        let refused = Upload::of_form(&headers, body, holding, parser).await;
        assert!(refused.is_err_and(|refusal| refusal.status == StatusCode::SERVICE_UNAVAILABLE));
    }

    #[tokio::test]
    async fn a_form_of_many_parts_holds_up_no_thread_that_serves() {
        let test = TestApi::start().await;
        let (headers, body) = form("{}");
        let mut request = Request::new(body.into());
        *request.headers_mut() = headers;
        let reading = Upload::receive(&test.api, test.ada(), request);
        let (upload, has_waited) = test.without_slots(reading).await;
        let (_, upload) = upload.unwrap();
        assert_eq!(upload.document.as_ref(), b"{}");
        assert!(has_waited, "it was read where requests are served");
        test.stop().await;
    }
}
