//! A connection to Codex's control socket: JSON-RPC over WebSocket on a Unix socket of this user.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::wrap::ways::SubmissionNumber;

/// Time limit for connecting, and for sending a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum bytes of one message; a thread without its turns has a few kilobytes.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Why the daemon cannot be reached or understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("its control socket cannot be reached")]
    Io(#[from] io::Error),
    #[error("its control socket belongs to another user")]
    Foreign,
    #[error("its control socket speaks another protocol")]
    Protocol(#[from] tungstenite::Error),
    #[error("its control socket does not answer")]
    Silent,
    #[error("its control socket was closed")]
    Closed,
}

/// The daemon's error response, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RequestError(String);

/// What a request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// `initialize`.
    Hello,
    /// `thread/loaded/list`.
    Loaded,
    /// `thread/read` of one thread.
    Read,
    /// `thread/turns/list`, to bring this submission into the running turn.
    Turns(SubmissionNumber),
    /// `turn/start` with this submission.
    Start(SubmissionNumber),
    /// `turn/steer` with this submission.
    Steer(SubmissionNumber),
}

/// A message of the daemon.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The response to a request.
    Response(RequestKind, Result<Value, RequestError>),
    /// A notification.
    Notification(String, Value),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: WebSocketStream<UnixStream>,
    pending: BTreeMap<u64, RequestKind>,
    next_id: u64,
}

impl Link {
    /// Connects and sends `initialize`. No other request may be sent before its response.
    pub(super) async fn connect(socket: &Path) -> Result<Self, LinkError> {
        match tokio::time::timeout(PATIENCE, Self::open(socket)).await {
            Ok(opened) => opened,
            Err(_) => Err(LinkError::Silent),
        }
    }

    async fn open(socket: &Path) -> Result<Self, LinkError> {
        let stream = UnixStream::connect(socket).await?;
        let us = rustix::process::geteuid().as_raw();
        if stream.peer_cred()?.uid() != us {
            return Err(LinkError::Foreign);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        let (stream, _) = client_async_with_config("ws://localhost/", stream, Some(config)).await?;
        let mut link = Self {
            stream,
            pending: BTreeMap::new(),
            next_id: 0,
        };
        let us =
            json!({"name": "cbroker", "title": "cbroker", "version": env!("CARGO_PKG_VERSION")});
        let params = json!({"clientInfo": us, "capabilities": {"experimentalApi": true}});
        link.request(RequestKind::Hello, "initialize", &params)
            .await?;
        Ok(link)
    }

    /// Sends `initialized`, after the response to `initialize`.
    pub(super) async fn send_initialized(&mut self) -> Result<(), LinkError> {
        self.send(&json!({"jsonrpc": "2.0", "method": "initialized"}))
            .await
    }

    /// Sends a request; its response arrives as a [`LinkEvent`].
    pub(super) async fn request(
        &mut self,
        request: RequestKind,
        method: &str,
        params: &Value,
    ) -> Result<(), LinkError> {
        self.next_id += 1;
        self.pending.insert(self.next_id, request);
        let request =
            json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.send(&request).await
    }

    async fn send(&mut self, message: &Value) -> Result<(), LinkError> {
        let sent = self.stream.send(Message::text(message.to_string()));
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(LinkError::Silent),
        }
    }

    /// Waits for the next message. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<LinkEvent, LinkError> {
        loop {
            let message = self.stream.next().await.ok_or(LinkError::Closed)??;
            let Message::Text(text) = message else {
                continue;
            };
            let Ok(mut message) = serde_json::from_str::<Value>(&text) else {
                continue;
            };
            if let Some(method) = message["method"].as_str() {
                // A request of the daemon (an approval) is for Codex's own screen.
                if message["id"].is_null() {
                    return Ok(LinkEvent::Notification(
                        method.to_owned(),
                        message["params"].take(),
                    ));
                }
                continue;
            }
            let request = message["id"]
                .as_u64()
                .and_then(|id| self.pending.remove(&id));
            if let Some(request) = request {
                let answer = match message.get("error") {
                    Some(error) => {
                        let words = error["message"].as_str().unwrap_or("an error");
                        Err(RequestError(words.to_owned()))
                    }
                    None => Ok(message["result"].take()),
                };
                return Ok(LinkEvent::Response(request, answer));
            }
        }
    }
}
