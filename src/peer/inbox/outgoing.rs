//! The connection on which a session publishes: receipts, answers, announcements.
//!
//! Messages are acked on another connection. A broker that is short of memory or disk reads
//! nothing more from a connection that has published, and lapin writes nothing to one that is
//! blocked: acks would wait for memory that only they make free.

use std::collections::VecDeque;

use lapin::options::BasicAckOptions;
use lapin::{Acker, BasicProperties, Channel, Connection, Consumer};

use super::link::receive_requests;
use super::{OUTGOING, OutgoingMessage};
use crate::peer::blockage::Blockage;
use crate::peer::presence::{Presence, Request};
use crate::peer::topology::PRESENCE_EXCHANGE;
use crate::peer::{PeerError, answered, publish};

/// The connection, and what could not be sent yet.
pub(super) struct OutgoingConnection {
    connection: Connection,
    channel: Channel,
    /// The user that is logged in.
    user: String,
    blockage: Blockage,
    unsent: VecDeque<OutgoingMessage>,
    unannounced: Option<Presence>,
    /// The last request that was handled and is not acked; an ack includes those before it.
    unacked: Option<Acker>,
}

impl OutgoingConnection {
    /// Opens a channel, and consumes the requests that go to every session.
    pub(super) async fn open(
        connection: Connection,
        user: String,
    ) -> Result<(Self, Consumer), PeerError> {
        let blockage = Blockage::of(&connection);
        let channel = connection.create_channel().await?;
        let requests = receive_requests(&channel).await?;
        let this = Self {
            connection,
            channel,
            user,
            blockage,
            unsent: VecDeque::new(),
            unannounced: None,
            unacked: None,
        };
        Ok((this, requests))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Sends a receipt or an answer now, or once the broker accepts it.
    pub(super) async fn send(&mut self, outgoing: OutgoingMessage) {
        if self.unsent.len() < OUTGOING {
            self.unsent.push_back(outgoing);
        }
        self.catch_up().await;
    }

    /// Announces the session's state now, or once the broker accepts it; a newer announcement
    /// replaces one that waits.
    pub(super) async fn announce(&mut self, presence: Presence) {
        self.unannounced = Some(presence);
        self.catch_up().await;
    }

    /// Acks a request that was handled, so that further ones are delivered.
    pub(super) async fn handled(&mut self, request: Acker) {
        self.unacked = Some(request);
        self.catch_up().await;
    }

    /// Sends what is queued, unless the connection is blocked.
    pub(super) async fn catch_up(&mut self) {
        // If the connection is gone, the message stream reports it; the announcement is repeated on
        // attaching.
        while self.blockage.check().is_ok()
            && let Some(outgoing) = self.unsent.pop_front()
        {
            let (queue, body) = outgoing.into_message();
            // The asker's queue may be gone.
            let sent = publish::to_queue(&self.channel, &queue, &body, &self.user);
            let _ = answered(sent).await;
        }
        if self.blockage.check().is_ok()
            && let Some(presence) = self.unannounced.take()
        {
            let body = Request::State(presence).to_json();
            // Any publisher can announce: an announcement counts only with the user.
            let properties = BasicProperties::default().with_user_id(self.user.as_str().into());
            let sent = publish::plain(&self.channel, PRESENCE_EXCHANGE, "", &body, properties);
            let _ = answered(sent).await;
        }
        if self.blockage.check().is_ok()
            && let Some(request) = self.unacked.take()
        {
            let these = BasicAckOptions { multiple: true };
            let _ = answered(request.ack(these)).await;
        }
    }

    /// Closes the connection. A blocked connection can only be dropped.
    pub(super) async fn close(&mut self) {
        if self.blockage.check().is_ok() {
            let goodbye = self.connection.close(200, "the session ended".into());
            let _ = answered(goodbye).await;
        }
    }
}
