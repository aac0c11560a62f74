//! Whether the broker takes messages at the moment: `connection.blocked`, with the broker's reason, and the all-clear.
//!
//! lapin writes nothing at all to a connection that is blocked, so nothing may be asked there either.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use lapin::{Connection, Event};

use super::PeerError;

/// What a broker said of taking messages, as far as it was listened to.
pub(super) struct Blockage {
    events: BoxStream<'static, Event>,
    reason: Option<String>,
}

impl Blockage {
    /// Listens from now on. A broker blocks a connection only after it has published.
    pub(super) fn of(connection: &Connection) -> Self {
        Self {
            events: connection.events_listener().boxed(),
            reason: None,
        }
    }

    /// [`PeerError::Blocked`] while the broker takes nothing.
    pub(super) fn check(&mut self) -> Result<(), PeerError> {
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.note(event);
        }
        match &self.reason {
            None => Ok(()),
            Some(reason) => Err(PeerError::Blocked(reason.clone())),
        }
    }

    /// Resolves with the broker's reason once it has taken nothing for so long. Never, where it takes messages.
    pub(super) async fn lasts(&mut self, patience: Duration) -> String {
        loop {
            match &self.reason {
                None => self.next().await,
                Some(reason) => {
                    let reason = reason.clone();
                    if tokio::time::timeout(patience, self.next()).await.is_err() {
                        return reason;
                    }
                }
            }
        }
    }

    async fn next(&mut self) {
        match self.events.next().await {
            Some(event) => self.note(event),
            // The connection is gone; whoever waits for an answer on it is told so.
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::ConnectionBlocked(reason) => self.reason = Some(reason),
            Event::ConnectionUnblocked => self.reason = None,
            _ => {}
        }
    }
}
