//! Why a request to the management API failed.

use std::error::Error as StdError;

use crate::error::Error;
use crate::exit::Exit;
use crate::transport::{SocketOwner, TransportError};

/// Why a request failed. The text never contains the password.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// Nothing answers, or not with HTTP.
    #[error("no management API answers at {url}: {source}")]
    Unreachable {
        /// The base URL.
        url: String,
        /// How far the request came.
        source: RequestFailure,
    },
    /// A program of another user listens there. Nothing was sent to it.
    #[error("{owner} listens at {url}; nothing was sent")]
    Foreign {
        /// The base URL.
        url: String,
        /// The program, its process and its user, as far as the system reports them.
        owner: SocketOwner,
    },
    /// Like [`Self::Foreign`], at an address that the user did not name.
    #[error(
        "{owner} listens at {url}, which the broker's URL does not name, so nothing was sent; \
         --mgmt-url names the API"
    )]
    Unnamed {
        /// The base URL.
        url: String,
        /// The program, its process and its user, as far as the system reports them.
        owner: SocketOwner,
    },
    /// The login was refused.
    #[error("the management API at {0} refused the login")]
    Login(String),
    /// A status other than success.
    #[error("the management API responded {status} to {path}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The requested path.
        path: String,
    },
    /// The response has an unexpected form.
    #[error("the management API's response to {path} cannot be read: {source}")]
    Response {
        /// The requested path.
        path: String,
        /// The parse error.
        source: serde_json::Error,
    },
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestFailure {
    /// There is no connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The configured address makes no request.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// The connection ended, or the other side does not speak HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The response ended early or is too large.
    #[error(transparent)]
    Body(Box<dyn StdError + Send + Sync>),
    /// The time limit.
    #[error("no answer within {0} s")]
    Silent(u64),
    /// The system does not report which user's program listens, and the login is for one user's.
    #[error("the system does not report which program listens there, so no password is sent")]
    Unproven,
}

impl From<ManagementError> for Error {
    fn from(error: ManagementError) -> Self {
        let text = error.to_string();
        let told = match error {
            ManagementError::Foreign { .. } => {
                Self::new(text).with_hint("`cbroker start --mgmt-port PORT` uses another port")
            }
            ManagementError::Unreachable { url, source } => {
                Self::new(format!("no management API answers at {url}"))
                    .caused_by(source)
                    .with_hint("set its address with --mgmt-url or CBROKER_MGMT_URL")
            }
            ManagementError::Login(_) => Self::new(text)
                .with_hint("set the user and password with --mgmt-user and CBROKER_MGMT_PASS"),
            ManagementError::Response { path, source } => Self::new(format!(
                "the management API's response to {path} cannot be read"
            ))
            .caused_by(source),
            ManagementError::Unnamed { .. } | ManagementError::Status { .. } => Self::new(text),
        };
        told.exit_with(Exit::Unreachable)
    }
}
