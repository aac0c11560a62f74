//! What the channels of one connection share: who the client is, and where its frames go.

use std::sync::Arc;

use crate::broker_state::BrokerState;
use crate::registry::ConnectionHandle;
use crate::vhost::Vhost;

/// What every channel of a connection shares.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionContext {
    pub(crate) broker: Arc<BrokerState>,
    pub(crate) vhost: Arc<Vhost>,
    pub(crate) connection: Arc<ConnectionHandle>,
    pub(crate) user: Arc<str>,
    pub(crate) frame_max: u32,
    /// The client wants `basic.cancel` when a queue is deleted.
    pub(crate) wants_cancel: bool,
    /// The client wants `connection.blocked` when publishers are blocked.
    pub(crate) wants_blocked: bool,
}

impl ConnectionContext {
    /// Writes to the client, in a unit of work of its own.
    pub(crate) fn send(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut effects = self.broker.begin_unit();
        self.connection.outbox.write(&mut effects, append);
        self.broker.end_unit(effects);
    }
}
