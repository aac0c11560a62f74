//! What the program keeps on disk for its user: the conversation, the dead letters, and how
//! sessions were opened.
//!
//! The files belong to the system user who runs the broker. The broker's first user may read them
//! if it connected over the Unix socket, signed in by a link of `cbroker ui`, or used the password
//! that is stored beside the files. No other user may, whatever its tag. Another password of the
//! first user is not enough, because another administrator can set it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::Routes;
use crate::archive::{Archive, ArchiveCharge, ArchiveError, ArchiveResult};
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::user_memory;
use crate::management::{Api, SharedApi};

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/api/messages",
            "the conversation on this machine, its latest messages; known=VERSION",
            conversation,
        )
        .get(
            "/api/messages/{name}/{id}",
            "one message to a session, whole where that is kept; publisher=MARK of another user's",
            message,
        )
        .get(
            "/api/openings",
            "how each session was opened last on this machine",
            openings,
        )
        .get(
            "/api/dead-letters",
            "what sessions of this machine refused",
            dead_letters,
        )
        .get(
            "/api/dead-letters/{id}",
            "one dead letter, as much as is kept",
            dead_letter,
        )
        .delete(
            "/api/dead-letters/{id}",
            "drop a dead letter for good",
            drop_dead_letter,
        )
        .post(
            "/api/dead-letters/{id}/resend",
            "send a dead letter to its session again; yes=true where is_own is false",
            resend,
        )
}

/// Returns the archive if the caller may see it.
pub(super) fn open_to(caller: &Caller, api: &Api) -> Option<Arc<dyn Archive>> {
    archive(caller, api).ok()
}

fn archive(caller: &Caller, api: &Api) -> Result<Arc<dyn Archive>, ApiError> {
    let Some(archive) = api.about.archive.clone() else {
        caller.administers()?;
        return Err(ApiError::not_found());
    };
    if !caller.is_owner {
        return Err(ApiError::forbidden(
            "only the broker's own user sees what is kept on disk: sign in with `cbroker ui`",
        ));
    }
    caller.monitors()?;
    Ok(archive)
}

/// Responds with what is kept. It is on the memory account from when it is read until the client
/// has it.
async fn respond(
    api: SharedApi,
    caller: Caller,
    ask: impl FnOnce(&dyn Archive, ArchiveCharge<'_>) -> ArchiveResult + Send + 'static,
) -> Result<Response, ApiError> {
    let archive = archive(&caller, &api)?;
    let mut holding = api.holdings.of(&caller.name);
    let asking = move || {
        let mut charge = |bytes| holding.set(bytes).map_err(|_| ArchiveError::TooMuch);
        let text = ask(&*archive, &mut charge).map_err(|error| refusal(&error))?;
        user_memory::with_holding(text.into_bytes(), holding)
    };
    Ok(user_memory::json_response(
        api.run_in_slot(&caller, asking).await?,
    ))
}

fn refusal(error: &ArchiveError) -> ApiError {
    match error {
        ArchiveError::Missing => ApiError::not_found(),
        ArchiveError::TooMuch => ApiError::busy(error.to_string()),
        ArchiveError::Unreadable(_) | ArchiveError::NotSent(_) | ArchiveError::NotVouched => {
            ApiError::bad(error.to_string())
        }
    }
}

#[derive(Deserialize)]
struct ConversationQuery {
    known: Option<String>,
}

async fn conversation(
    State(api): State<SharedApi>,
    Query(before): Query<ConversationQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let known = before.known;
    let ask = move |archive: &dyn Archive, charge: ArchiveCharge<'_>| {
        archive.conversation(known.as_deref(), charge)
    };
    respond(api, caller, ask).await
}

#[derive(Deserialize)]
struct MessageQuery {
    publisher: Option<String>,
}

async fn message(
    State(api): State<SharedApi>,
    Path((name, id)): Path<(String, String)>,
    Query(of): Query<MessageQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    respond(api, caller, move |archive, _| {
        archive.message(&name, &id, of.publisher.as_deref())
    })
    .await
}

async fn openings(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    respond(api, caller, |archive, charge| archive.openings(charge)).await
}

async fn dead_letters(State(api): State<SharedApi>, caller: Caller) -> Result<Response, ApiError> {
    respond(api, caller, |archive, charge| archive.dead_letters(charge)).await
}

async fn dead_letter(
    State(api): State<SharedApi>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    respond(api, caller, move |archive, _| archive.dead_letter(&id)).await
}

async fn drop_dead_letter(
    State(api): State<SharedApi>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Response, ApiError> {
    respond(api, caller, move |archive, _| archive.drop_dead_letter(&id)).await
}

#[derive(Deserialize)]
struct ResendQuery {
    #[serde(default)]
    yes: bool,
}

async fn resend(
    State(api): State<SharedApi>,
    Path(id): Path<String>,
    Query(agreed): Query<ResendQuery>,
    caller: Caller,
) -> Result<Response, ApiError> {
    respond(api, caller, move |archive, _| {
        archive.resend(&id, agreed.yes)
    })
    .await
}
