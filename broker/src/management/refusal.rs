//! The response to a refused request: a status and RabbitMQ's JSON, `{"error":…,"reason":…}`.
//! Depends on `fault`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::fault::{Fault, ReplyCode};
use crate::users::BadPattern;

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
            reason: Value::String(reason.into()),
        }
    }

    /// 400 with a reason that is not a text: RabbitMQ says `["not_integer","x"]`.
    pub(super) fn bad_value(reason: Value) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: "bad_request",
            reason,
        }
    }

    /// 400 with the thing that it is about, as where one of many is refused.
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

    /// 401 for a failed login.
    pub(super) fn login() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorized", "Login failed")
    }

    /// 503: not now.
    pub(super) fn busy(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", reason)
    }

    /// 500: an internal failure.
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", reason)
    }

    /// 403 for a request that no page and no tool of ours would send.
    pub(super) fn suspicious(reason: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", reason)
    }
}

/// The topology's refusals in HTTP's terms, as RabbitMQ maps them.
impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault.code {
            ReplyCode::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", fault.reason),
            ReplyCode::AccessRefused => Self::forbidden("Access refused."),
            ReplyCode::InternalError => Self::failed(fault.reason),
            _ => Self::bad(fault.reason),
        }
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
