//! Proves to the page that a response comes from the broker.
//!
//! While the broker is down, a program of another system user may listen on its port and keep the
//! connections that it accepts: an open page sends its requests there. So the page sends a nonce
//! with each request, and the response has the HMAC-SHA256 of the nonce with the proof key, which
//! is sent once, when the sign-in begins. A program that forwards a request gets no proof, because
//! over loopback a sign-in counts only for the system user who opened it. The page ignores
//! responses without a proof (`page/proof.js`). Depends on `auth`.
//!
//! When the page doubts who listens it sends none of its secrets, but the id of its sign-in, and
//! gets a proof for that alone.

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Api, SharedApi, auth};

const NONCE: &str = "x-cbroker-nonce";
/// The header with the id of a sign-in, which is no secret.
const SIGN_IN: &str = "x-cbroker-sign-in";
const PROOF: HeaderName = HeaderName::from_static("x-cbroker-proof");

/// The layer around every route: adds a proof to the response if the request has a nonce.
pub(super) async fn prove(api: SharedApi, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // Computed first, because the request may end its sign-in.
    let proof = proof(&parts, &api).await;
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(proof) = proof {
        response.headers_mut().insert(PROOF, proof);
    }
    response
}

/// The proof for the request's nonce; `None` if it has no nonce or no valid sign-in.
async fn proof(parts: &Parts, api: &Api) -> Option<HeaderValue> {
    let nonce = parts.headers.get(NONCE)?;
    let sign_in = auth::present(parts, api).await?;
    of_nonce(nonce, &sign_in.proof_key)
}

/// The proof for the nonce of a request without secrets, which names its sign-in; `None` if it
/// comes from another location than where that was made. Requests forwarded by another system user
/// get none either.
pub(super) async fn of_named_sign_in(
    parts: &Parts,
    api: &Api,
) -> Option<(HeaderName, HeaderValue)> {
    let (nonce, id) = (parts.headers.get(NONCE)?, parts.headers.get(SIGN_IN)?);
    let sign_in = auth::named(parts, api, id.to_str().ok()?).await?;
    Some((PROOF, of_nonce(nonce, &sign_in.proof_key)?))
}

fn of_nonce(nonce: &HeaderValue, proof_key: &str) -> Option<HeaderValue> {
    let mut mac = Hmac::<Sha256>::new_from_slice(proof_key.as_bytes()).ok()?;
    mac.update(nonce.as_bytes());
    let proof = STANDARD.encode(mac.finalize().into_bytes());
    HeaderValue::from_str(&proof).ok()
}
