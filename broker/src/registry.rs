//! Open connections and channels as other parts of the broker see them: to list, notify and close
//! them. Depends on `outbox`, `ledger` and `stats`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;

use crate::delivery::confirms::Confirms;
use crate::delivery::ledger::Ledger;
use crate::delivery::outbox::Outbox;
use crate::fault::{Fault, ReplyCode};
use crate::lock::lock;
use crate::memory::{CONNECTIONS, ConnectionHoldings, HoldingKind, KindCharge};
use crate::stats::{ChannelCounters, Counter};
use crate::wire::table::Table;

/// What a connection uses beside its read buffer and its channels: its tasks, its outbox, its
/// places in the tables.
const CONNECTION_BYTES: usize = 10 * 1024;

/// One connection.
#[derive(Debug)]
pub struct ConnectionHandle {
    /// Unique while the broker runs.
    pub id: u64,
    /// `peer -> local`, as RabbitMQ names connections. Over the Unix socket, which has no ports,
    /// the connection's number stands for the client's, so that no two have the same name.
    pub name: String,
    /// The client's address.
    pub peer: SocketEnd,
    /// The address that the client connected to.
    pub local: SocketEnd,
    /// Whether the connection uses TLS.
    pub is_tls: bool,
    /// Milliseconds since the Unix epoch.
    pub connected_at_ms: u64,
    /// Set after the handshake.
    pub opened: OnceLock<OpenedConnection>,
    /// Bytes read from the socket.
    pub received: Counter,
    /// Bytes written to the socket.
    pub sent: Counter,
    /// Whether this is a publisher that was sent `connection.blocked`.
    pub is_blocked: AtomicBool,
    /// Whether reading is paused, so that silence says nothing about the peer.
    pub(crate) is_paused: AtomicBool,
    /// The memory charged to this connection, except for its outbox.
    pub(crate) holdings: Arc<ConnectionHoldings>,
    pub(crate) outbox: Arc<Outbox>,
    /// Set with `opened`.
    charge: OnceLock<KindCharge>,
    channels: Mutex<BTreeMap<u16, Arc<ChannelView>>>,
    /// Set when the server decides to end the connection.
    pub(crate) ending: watch::Sender<Option<ConnectionEnding>>,
}

/// How the server ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnectionEnding {
    /// With a `connection.close`.
    Close(Fault),
    /// By closing the socket.
    Cut,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketEnd {
    /// An IP address, or the path of a Unix socket.
    pub host: String,
    /// 0 for a Unix socket.
    pub port: u16,
}

/// The result of the handshake.
#[derive(Debug)]
pub struct OpenedConnection {
    /// The user.
    pub user: Arc<str>,
    /// The vhost.
    pub vhost: Arc<str>,
    /// PLAIN, AMQPLAIN or SCRAM-SHA-256.
    pub mechanism: &'static str,
    /// The client's own description of itself, an encoded field table: decoded, it may take thirty
    /// times as much.
    pub client_properties: Box<[u8]>,
    /// The negotiated maximum number of channels.
    pub channel_max: u16,
    /// The negotiated maximum frame size in bytes.
    pub frame_max: u32,
    /// The negotiated heartbeat in seconds, 0 for none.
    pub heartbeat_s: u16,
}

impl OpenedConnection {
    /// Returns the client's own description of itself.
    pub fn client_properties(&self) -> Table {
        // It was decoded once in the handshake.
        Table::decode(&self.client_properties).unwrap_or_default()
    }
}

/// One channel.
#[derive(Debug)]
pub struct ChannelView {
    /// The number on its connection.
    pub number: u16,
    /// What the channel did.
    pub counters: Arc<ChannelCounters>,
    /// The `basic.qos` prefetch count for new consumers.
    pub prefetch: AtomicU32,
    /// Whether publisher confirms are on.
    pub is_confirming: AtomicBool,
    /// Whether the channel is transactional.
    pub is_transactional: AtomicBool,
    /// The number of consumers.
    pub consumers: AtomicU32,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) confirms: Mutex<Option<Arc<Confirms>>>,
}

impl ChannelView {
    pub(crate) fn new(number: u16, ledger: Arc<Ledger>) -> Self {
        Self {
            number,
            counters: Arc::default(),
            prefetch: AtomicU32::new(0),
            is_confirming: AtomicBool::new(false),
            is_transactional: AtomicBool::new(false),
            consumers: AtomicU32::new(0),
            ledger,
            confirms: Mutex::default(),
        }
    }

    /// Returns the number of deliveries that the client has not settled.
    pub fn unsettled(&self) -> usize {
        self.ledger.len()
    }

    /// Returns the number of publishes that are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        lock(&self.confirms)
            .as_ref()
            .map_or(0, |confirms| confirms.len())
    }

    /// Returns the prefetch count of `basic.qos` with `global`.
    pub fn global_prefetch(&self) -> u32 {
        self.ledger.limit()
    }
}

impl ConnectionHandle {
    /// Whether this user opened the connection. Before a login nobody has.
    pub(crate) fn is_of_user(&self, user: &str) -> bool {
        let opened = self.opened.get();
        opened.is_some_and(|opened| *opened.user == *user)
    }

    pub(crate) fn new(
        id: u64,
        (peer, local): (SocketEnd, SocketEnd),
        is_tls: bool,
        connected_at_ms: u64,
    ) -> Self {
        let number = match peer.port {
            0 => id,
            port => port.into(),
        };
        Self {
            id,
            name: format!("{}:{number} -> {}:{}", peer.host, local.host, local.port),
            peer,
            local,
            is_tls,
            connected_at_ms,
            opened: OnceLock::new(),
            received: Counter::default(),
            sent: Counter::default(),
            is_blocked: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            holdings: Arc::default(),
            outbox: Arc::default(),
            charge: OnceLock::new(),
            channels: Mutex::default(),
            ending: watch::Sender::new(None),
        }
    }

    /// Sets the result of the handshake, once. Refused where all connections hold what they may.
    pub(crate) fn open(&self, opened: OpenedConnection) -> Result<(), Fault> {
        let bytes = CONNECTION_BYTES + opened.client_properties.len() + 2 * self.name.len();
        if !CONNECTIONS.has_room(bytes) {
            let mib = CONNECTIONS.limit() >> 20;
            let reason = format!(
                "cannot open a connection: connections hold all the memory that they may ({mib} \
                 MiB)"
            );
            return Err(Fault::connection(ReplyCode::ResourceError, reason));
        }
        // Set by the handshake alone.
        let _ = self.charge.set(CONNECTIONS.charge(bytes));
        let _ = self.opened.set(opened);
        Ok(())
    }

    /// Returns the open channels, ordered by number.
    pub fn channels(&self) -> Vec<Arc<ChannelView>> {
        lock(&self.channels).values().cloned().collect()
    }

    /// Returns the number of open channels.
    pub fn channel_count(&self) -> usize {
        lock(&self.channels).len()
    }

    /// Whether the client holds deliveries that it has not settled, or whose settles are not
    /// committed. Few bytes of them may go unnoticed.
    pub(crate) fn has_unsettled(&self) -> bool {
        self.holdings.bytes(HoldingKind::Unsettled) > 0
    }

    pub(crate) fn add_channel(&self, view: &Arc<ChannelView>) {
        lock(&self.channels).insert(view.number, Arc::clone(view));
    }

    pub(crate) fn remove_channel(&self, number: u16) {
        lock(&self.channels).remove(&number);
    }

    /// Ends the connection with a `connection.close` that carries the fault.
    pub fn end(&self, fault: Fault) {
        self.ending.send_if_modified(|ending| {
            ending.is_none() && ending.replace(ConnectionEnding::Close(fault)).is_none()
        });
    }

    /// Ends the connection by closing its socket: the peer is gone, or does not read what it is
    /// sent.
    pub(crate) fn cut(&self) {
        self.ending.send_if_modified(|ending| {
            ending.replace(ConnectionEnding::Cut) != Some(ConnectionEnding::Cut)
        });
    }

    /// Returns the bytes of memory held for this connection: unsent frames, received bytes,
    /// incomplete publishes, transactions and unsettled messages.
    pub fn held_bytes(&self) -> u64 {
        (self.outbox.pending_bytes() + self.holdings.total()) as u64
    }

    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_over_the_unix_socket_have_names_of_their_own() {
        let name = |id, port| {
            let end = |host: &str, port| SocketEnd {
                host: host.to_owned(),
                port,
            };
            let ends = (end("/home/ada/broker.sock", port), end("there", 0));
            ConnectionHandle::new(id, ends, false, 0).name
        };
        assert_ne!(name(1, 0), name(2, 0));
        assert_eq!(name(2, 7), "/home/ada/broker.sock:7 -> there:0");
    }
}
