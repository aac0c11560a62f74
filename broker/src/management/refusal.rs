//! The response to a refused request: a status and RabbitMQ's JSON, `{"error":…,"reason":…}`.
//! Depends on `fault`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::fault::{Fault, ReplyCode};
use crate::persist::ReadFailed;
use crate::users::BadPattern;

/// The longest reason in bytes. A reason quotes the request, which may be as long as a body.
const REASON_BYTES: usize = 1024;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    error: &'static str,
    reason: Value,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Self {
        Self {
            status,
            error,
            reason: Value::String(shortened(reason.into())),
        }
    }

    /// 400 with a reason that is not a text: RabbitMQ says `["not_integer","x"]`.
    pub(super) fn bad_value(reason: Value) -> Self {
        let text = reason.to_string();
        if text.len() > REASON_BYTES {
            return Self::bad(text);
        }
        Self {
            status: StatusCode::BAD_REQUEST,
            error: "bad_request",
            reason,
        }
    }

    /// 400 with the name of the object that is refused, for requests with several objects.
    pub(super) fn about(self, thing: &str) -> Self {
        let reason = match self.reason {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Self::bad(format!("{thing}: {reason}"))
    }

    /// 404.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
    }

    /// 400.
    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    /// 401 for an identified user without the right.
    pub(super) fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorised", reason)
    }

    /// 401 for a user below administrators.
    pub(super) fn not_administrator() -> Self {
        Self::forbidden("Not administrator user")
    }

    /// 401 for a failed login.
    pub(super) fn login() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorized", "Login failed")
    }

    /// 503 for a request that may succeed later.
    pub(super) fn busy(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", reason)
    }

    /// 500: an internal failure.
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", reason)
    }

    /// 403 for a request that neither our page nor a tool would send.
    pub(super) fn suspicious(reason: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", reason)
    }
}

/// A reason, cut if it is too long.
fn shortened(mut reason: String) -> String {
    if reason.len() > REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES));
        reason.push('…');
        reason.shrink_to_fit();
    }
    reason
}

/// Maps AMQP faults to HTTP statuses, as RabbitMQ does.
impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault.code {
            ReplyCode::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", fault.reason),
            ReplyCode::AccessRefused => Self::forbidden("Access refused."),
            ReplyCode::InternalError => Self::failed(fault.reason),
            ReplyCode::ContentTooLarge
            | ReplyCode::ConnectionForced
            | ReplyCode::ResourceLocked
            | ReplyCode::PreconditionFailed
            | ReplyCode::FrameError
            | ReplyCode::SyntaxError
            | ReplyCode::CommandInvalid
            | ReplyCode::ChannelError
            | ReplyCode::UnexpectedFrame
            | ReplyCode::ResourceError
            | ReplyCode::NotAllowed
            | ReplyCode::NotImplemented => Self::bad(fault.reason),
        }
    }
}

impl From<ReadFailed> for ApiError {
    fn from(error: ReadFailed) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<BadPattern> for ApiError {
    fn from(error: BadPattern) -> Self {
        Self::bad(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (
            self.status,
            Json(json!({ "error": self.error, "reason": self.reason })),
        )
            .into_response()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_holds_no_more_than_a_little_of_what_was_sent() {
        let long = "ä".repeat(1 << 20);
        for refusal in [
            ApiError::bad(format!("no destination_type '{long}'")),
            ApiError::bad_value(json!(["not_integer", long])),
            ApiError::bad("wrong").about(&long),
            ApiError::from(Fault::precondition(long.clone())),
        ] {
            let reason = refusal.reason.to_string();
            assert!(reason.len() < 2 * REASON_BYTES, "{} bytes", reason.len());
        }
        let short = ApiError::bad_value(json!(["not_integer", "x"]));
        assert_eq!(short.reason, json!(["not_integer", "x"]));
    }
}
