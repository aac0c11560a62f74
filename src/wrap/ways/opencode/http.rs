//! A small HTTP client for opencode's server on loopback, with one connection for each request.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::transport::{self, ListenerDemand, ListenerIdentity, Route, TransportError};

/// Time limit for a response.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum bytes of one response, and of one event.
const LIMIT: usize = 16 << 20;
/// The user name that opencode requires.
const USER: &str = "opencode";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("its server cannot be reached")]
    Io(#[from] io::Error),
    #[error("its port belongs to another user")]
    Foreign,
    #[error("cannot tell which user runs the server")]
    Unproven,
    #[error("its server does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("its server answered {0}")]
    Status(u16),
    #[error("its server does not answer")]
    Silent,
    #[error("its answer cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The stream of events ended, one of them is too long, or a field is missing.
    #[error("its answer cannot be read")]
    Incomplete,
}

impl HttpError {
    /// Whether nothing was sent and the next attempt may succeed: the server is slow or was briefly
    /// unreachable.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Unproven)
    }

    /// Whether the server certainly did not process the request.
    pub(super) fn was_not_processed(&self) -> bool {
        match self {
            Self::Io(_) | Self::Foreign | Self::Unproven => true,
            Self::Status(status) => *status < 500,
            Self::Http(_) | Self::Silent | Self::Unreadable(_) | Self::Incomplete => false,
        }
    }
}

/// The server's port and password.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) password: String,
}

impl Server {
    /// Sends a request and returns the response's body as JSON; `null` if it is empty.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, HttpError> {
        let asked = async {
            let answer = self.send(method, path, body).await?;
            let body = Limited::new(answer.into_body(), LIMIT).collect().await;
            let body = body.map_err(HttpError::Unreadable)?.to_bytes();
            if body.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&body).map_err(|error| HttpError::Unreadable(error.into()))
        };
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        answered.unwrap_or(Err(HttpError::Silent))
    }

    /// Opens the stream of events.
    pub(super) async fn events(&self) -> Result<Events, HttpError> {
        let sent = self.send(Method::GET, "/event", None);
        let answer = tokio::time::timeout(PATIENCE, sent).await;
        let body = answer.unwrap_or(Err(HttpError::Silent))?.into_body();
        Ok(Events {
            body,
            partial: Vec::new(),
        })
    }

    /// Connects. The password and the messages must reach only a program of this user, so the
    /// kernel's socket table must show that one accepted this very connection: the current listener
    /// may be another process.
    async fn open(&self) -> Result<transport::Stream, HttpError> {
        let route = Route {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: self.port,
            is_tls: false,
            ca_cert: None,
            socket: None,
            listener: ListenerDemand::Ours,
        };
        let link = transport::open(&route).await.map_err(|error| match error {
            TransportError::Io(error) => HttpError::Io(error),
            _ => HttpError::Foreign,
        })?;
        if link.listener != ListenerIdentity::Proven {
            return Err(HttpError::Unproven);
        }
        Ok(link.stream)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, HttpError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = self.open().await?;
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let credentials = STANDARD.encode(format!("{USER}:{}", self.password));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", address.to_string())
            .header("authorization", format!("Basic {credentials}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(
                body.map(Value::to_string).unwrap_or_default(),
            )))
            .map_err(|error| HttpError::Unreadable(error.into()))?;
        let answer = client.send_request(request).await?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(HttpError::Status(answer.status().as_u16()))
        }
    }
}

/// Server-sent events, each a JSON object in one `data:` line.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    partial: Vec<u8>,
}

impl Events {
    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Value, HttpError> {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.partial) {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                let event = line.strip_prefix(b"data:").map(serde_json::from_slice);
                if let Some(Ok(event)) = event {
                    return Ok(event);
                }
            }
            if self.partial.len() > LIMIT {
                return Err(HttpError::Incomplete);
            }
            let frame = self.body.frame().await.ok_or(HttpError::Incomplete)??;
            if let Ok(data) = frame.into_data() {
                self.partial.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn nothing_is_sent_before_a_program_of_this_user_has_taken_the_connection() {
        // The connection is never accepted, as if another user's process had taken it and stopped
        // listening.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            port: listener.local_addr().unwrap().port(),
            password: "secret".to_owned(),
        };
        let asked = server.request(Method::GET, "/session", None).await;
        assert!(matches!(asked, Err(HttpError::Unproven)), "{asked:?}");
        let mut sent = Vec::new();
        let (mut connection, _) = listener.accept().unwrap();
        connection.read_to_end(&mut sent).unwrap();
        assert_eq!(String::from_utf8_lossy(&sent), "");
    }
}
