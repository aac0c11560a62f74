//! Whether the broker accepts messages now: `connection.blocked` with the broker's reason, and
//! `connection.unblocked`.
//!
//! lapin writes nothing to a blocked connection, so no request can be sent on it either.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use lapin::{Connection, Event};
use tokio::time::{Instant, timeout, timeout_at};

use super::PeerError;

/// A broker that accepts messages for this long is not blocked any more. A publisher's grant is
/// shorter.
const MOMENT: Duration = Duration::from_secs(2);

/// The state of a connection, updated when it is checked.
pub(super) struct Blockage {
    events: BoxStream<'static, Event>,
    reason: Option<String>,
}

impl Blockage {
    /// Starts to watch a connection. A broker blocks a connection only after it has published.
    pub(super) fn of(connection: &Connection) -> Self {
        Self {
            events: connection.events_listener().boxed(),
            reason: None,
        }
    }

    /// Fails with [`PeerError::Blocked`] while the broker accepts nothing.
    pub(super) fn check(&mut self) -> Result<(), PeerError> {
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.note(event);
        }
        match &self.reason {
            None => Ok(()),
            Some(reason) => Err(PeerError::Blocked(reason.clone().into())),
        }
    }

    /// Resolves with the broker's reason once it has accepted nothing for `patience`, short moments
    /// aside: while memory is short, the embedded broker gives each publisher a small grant now and
    /// then. Never resolves while the broker accepts messages.
    pub(super) async fn lasts(&mut self, patience: Duration) -> String {
        let mut since = None;
        loop {
            match (&self.reason, since) {
                (None, None) => self.next().await,
                (Some(_), None) => since = Some(Instant::now()),
                (Some(reason), Some(since)) => {
                    let reason = reason.clone();
                    if timeout_at(since + patience, self.next()).await.is_err() {
                        return reason;
                    }
                }
                (None, Some(_)) => {
                    if timeout(MOMENT, self.next()).await.is_err() {
                        since = None;
                    }
                }
            }
        }
    }

    async fn next(&mut self) {
        match self.events.next().await {
            Some(event) => self.note(event),
            // The connection is closed; requests on it fail by themselves.
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
