//! The memory that users take at the API: request bodies, and responses that are not read yet.
//!
//! Each user has a limit, a part of the memory limit, and each byte is on the account. A body is
//! read only for an identified caller, in bounded time. Its rights are checked after that, so a
//! user that lost them meanwhile is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;

use super::SharedApi;
use super::auth::Caller;
use super::refusal::ApiError;
use crate::lock::lock;
use crate::memory::{self, Charge, MemoryLevel};

/// Bodies up to here are read from any caller.
pub(super) const LITTLE_BYTES: usize = 64 * 1024;
/// A payload of the broker's limit in base64 has to fit.
pub(super) const MUCH_BYTES: usize = 192 * 1024 * 1024;
/// What one user may make the API hold, unless the memory limit allows less.
const LIMIT_BYTES: usize = 2 * MUCH_BYTES;
/// Like [`LIMIT_BYTES`], while there is no memory for publishers.
const SHORT_LIMIT_BYTES: usize = 1024 * 1024;
/// The time limit for the next part of a body.
const PART_WITHIN: Duration = Duration::from_secs(30);

/// What each user holds, in bytes.
#[derive(Debug, Default)]
pub(super) struct UserHoldings(Mutex<HashMap<Arc<str>, usize>>);

/// Bytes that one request holds, on the account and on its user's; released on drop.
#[derive(Debug)]
pub(super) struct UserHolding {
    holdings: Arc<UserHoldings>,
    user: Arc<str>,
    charge: Charge,
}

impl UserHoldings {
    /// A holding of nothing yet.
    pub(super) fn of(self: &Arc<Self>, user: &Arc<str>) -> UserHolding {
        UserHolding {
            holdings: Arc::clone(self),
            user: Arc::clone(user),
            charge: Charge::default(),
        }
    }

    /// What a user holds.
    #[cfg(test)]
    pub(super) fn of_user(&self, user: &str) -> usize {
        lock(&self.0).get(user).copied().unwrap_or(0)
    }
}

impl UserHolding {
    /// What it holds now.
    pub(super) fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// A holding of the same user, of nothing yet.
    pub(super) fn another(&self) -> Self {
        self.holdings.of(&self.user)
    }

    /// Holds `bytes` from now on. Refused where its user would hold more than its limit.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), ApiError> {
        let mut held = lock(&self.holdings.0);
        let before = self.charge.bytes();
        let total = held.get(&self.user).copied().unwrap_or(0) - before + bytes;
        if bytes > before && total > limit() {
            let reason = "this user makes the broker hold too much already";
            return Err(ApiError::busy(reason));
        }
        if total == 0 {
            held.remove(&self.user);
        } else {
            held.insert(Arc::clone(&self.user), total);
        }
        drop(held);
        self.charge.set(bytes);
        Ok(())
    }
}

impl Drop for UserHolding {
    fn drop(&mut self) {
        // A smaller charge is never refused.
        let _ = self.set(0);
    }
}

fn limit() -> usize {
    match memory::level() {
        MemoryLevel::Short => SHORT_LIMIT_BYTES,
        _ => memory::connection_limit()
            .saturating_mul(2)
            .min(LIMIT_BYTES),
    }
}

/// Bytes with their holding: it lasts until the last reference is gone, which is the socket's.
struct HeldBytes {
    bytes: Vec<u8>,
    _holding: UserHolding,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the bytes together with their holding, which lasts as long as they do.
pub(super) fn with_holding(bytes: Vec<u8>, mut holding: UserHolding) -> Result<Bytes, ApiError> {
    holding.set(bytes.capacity())?;
    Ok(Bytes::from_owner(HeldBytes {
        bytes,
        _holding: holding,
    }))
}

/// A response in JSON; its bytes are on the account until the client has read it.
pub(super) fn json_response(bytes: Bytes) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, bytes).into_response()
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn receive(
    body: Body,
    limit: usize,
    mut holding: UserHolding,
) -> Result<Bytes, ApiError> {
    let mut parts = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        let Ok(part) = tokio::time::timeout(PART_WITHIN, parts.next()).await else {
            let reason = "the body was not received in time";
            return Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                reason,
            ));
        };
        let Some(part) = part else { break };
        let part = part.map_err(|_| ApiError::bad("the body is broken"))?;
        let length = bytes.len() + part.len();
        if length > limit {
            let reason = "the body is too large";
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                reason,
            ));
        }
        // A buffer grows by doubling.
        holding.set(length.max(bytes.capacity()))?;
        bytes.extend_from_slice(&part);
    }
    with_holding(bytes, holding)
}

/// A caller and the small body that it sent. Its rights are those after the body came.
#[derive(Debug)]
pub(super) struct CallerBody {
    pub(super) caller: Caller,
    pub(super) body: Bytes,
}

impl FromRequest<SharedApi> for CallerBody {
    type Rejection = Response;

    async fn from_request(request: Request, api: &SharedApi) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, api).await;
        let caller = caller.map_err(IntoResponse::into_response)?;
        let sent = Self::receive(api, caller, body, LITTLE_BYTES).await;
        sent.map_err(IntoResponse::into_response)
    }
}

impl CallerBody {
    /// Receives a body of at most `limit` bytes from a caller whose rights were checked already.
    pub(super) async fn receive(
        api: &SharedApi,
        caller: Caller,
        body: Body,
        limit: usize,
    ) -> Result<Self, ApiError> {
        let holding = api.holdings.of(&caller.name);
        let body = receive(body, limit, holding).await?;
        let caller = caller.recheck(api)?;
        Ok(Self { caller, body })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn what_one_user_holds_is_bounded_and_another_has_a_share_of_its_own() {
        let holdings = Arc::<UserHoldings>::default();
        let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
        let mut one = holdings.of(&ada);
        one.set(LIMIT_BYTES - 10).unwrap();
        let mut two = holdings.of(&ada);
        two.set(10).unwrap();
        assert!(two.set(11).is_err(), "one byte too many");
        assert!(holdings.of(&bob).set(1000).is_ok());
        drop(one);
        two.set(1000).unwrap();
        let bytes = with_holding(vec![1; 100], two).unwrap();
        let part = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(lock(&holdings.0)["ada"], 100, "a part keeps all");
        drop(part);
        assert!(lock(&holdings.0).is_empty());
    }
}
