//! Shows the page which responses are the broker's.
//!
//! Another system user may hold the port while the broker is down, and keep the connections that he
//! accepted: an open page goes on asking him. So the page sends a nonce with each request, and the
//! response carries its HMAC-SHA256 with the proof key of the sign-in, which is sent once, when
//! that begins. A program that passes a request on gets no proof: over loopback a sign-in counts
//! only for the system user who opened it. A response without a proof changes nothing on the page
//! (`page/proof.js`). Depends on `auth`.

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
const PROOF: HeaderName = HeaderName::from_static("x-cbroker-proof");

/// The layer around every route: it adds the proof that the request asks for.
pub(super) async fn prove(api: SharedApi, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // Before the request may end its sign-in.
    let proof = proof(&parts, &api).await;
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(proof) = proof {
        response.headers_mut().insert(PROOF, proof);
    }
    response
}

/// The proof for a nonce; `None` where there is none, or no sign-in that counts.
async fn proof(parts: &Parts, api: &Api) -> Option<HeaderValue> {
    let nonce = parts.headers.get(NONCE)?;
    let sign_in = auth::present(parts, api).await?;
    let mut mac = Hmac::<Sha256>::new_from_slice(sign_in.proof_key.as_bytes()).ok()?;
    mac.update(nonce.as_bytes());
    let proof = STANDARD.encode(mac.finalize().into_bytes());
    HeaderValue::from_str(&proof).ok()
}
