//! Open connections and channels as others see them: to be listed, told, closed. Relies on `outbox`, `ledger` and
//! `stats`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;

use crate::confirms::Confirms;
use crate::fault::Fault;
use crate::ledger::Ledger;
use crate::lock::lock;
use crate::memory::Share;
use crate::outbox::Outbox;
use crate::stats::{ChannelCounters, Counter};
use crate::wire::table::Table;

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Never used twice while the broker runs.
    pub id: u64,
    /// `peer -> here`, RabbitMQ's name for a connection.
    pub name: String,
    /// Where the client is.
    pub peer: Endpoint,
    /// Where it connected to.
    pub local: Endpoint,
    /// It speaks TLS.
    pub is_tls: bool,
    /// Milliseconds since 1970.
    pub connected_at_ms: u64,
    /// Known once the handshake is through.
    pub session: OnceLock<Session>,
    /// Bytes read from the socket.
    pub received: Counter,
    /// Bytes written to it.
    pub sent: Counter,
    /// Publishers are told to wait, and this is one.
    pub is_blocked: AtomicBool,
    /// Nothing is read for the moment, so silence says nothing about the peer.
    pub(crate) is_paused: AtomicBool,
    /// What it makes the broker hold beside its outbox.
    pub(crate) share: Arc<Share>,
    pub(crate) outbox: Arc<Outbox>,
    channels: Mutex<BTreeMap<u16, Arc<ChannelView>>>,
    /// How the server wants to end it.
    pub(crate) ending: watch::Sender<Option<Ending>>,
}

/// How the server ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With a `connection.close`.
    Close(Fault),
    /// By closing the socket.
    Cut,
}

/// An end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// An address, or the path of a socket.
    pub host: String,
    /// 0 for a Unix socket.
    pub port: u16,
}

/// What the handshake agreed on.
#[derive(Debug)]
pub struct Session {
    /// Who.
    pub user: Arc<str>,
    /// Where.
    pub vhost: Arc<str>,
    /// PLAIN, AMQPLAIN or SCRAM-SHA-256.
    pub mechanism: &'static str,
    /// What the client says of itself.
    pub client_properties: Table,
    /// Channels that it may open.
    pub channel_max: u16,
    /// Octets of a frame.
    pub frame_max: u32,
    /// Seconds, 0 for none.
    pub heartbeat_s: u16,
}

/// One channel.
#[derive(Debug)]
pub struct ChannelView {
    /// Its number on the connection.
    pub number: u16,
    /// What it did.
    pub counters: Arc<ChannelCounters>,
    /// `basic.qos` for new consumers.
    pub prefetch: AtomicU32,
    /// Publisher confirms are on.
    pub is_confirming: AtomicBool,
    /// Transactions are on.
    pub is_transactional: AtomicBool,
    /// Its consumers.
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

    /// Deliveries that the client has not settled.
    pub fn unsettled(&self) -> usize {
        self.ledger.len()
    }

    /// Publishes that are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        lock(&self.confirms)
            .as_ref()
            .map_or(0, |confirms| confirms.len())
    }

    /// `basic.qos` with `global`.
    pub fn global_prefetch(&self) -> u32 {
        self.ledger.limit()
    }
}

impl Link {
    pub(crate) fn new(
        id: u64,
        (peer, local): (Endpoint, Endpoint),
        is_tls: bool,
        connected_at_ms: u64,
    ) -> Self {
        Self {
            id,
            name: format!(
                "{}:{} -> {}:{}",
                peer.host, peer.port, local.host, local.port
            ),
            peer,
            local,
            is_tls,
            connected_at_ms,
            session: OnceLock::new(),
            received: Counter::default(),
            sent: Counter::default(),
            is_blocked: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            share: Arc::default(),
            outbox: Arc::default(),
            channels: Mutex::default(),
            ending: watch::Sender::new(None),
        }
    }

    /// Open channels by number.
    pub fn channels(&self) -> Vec<Arc<ChannelView>> {
        lock(&self.channels).values().cloned().collect()
    }

    /// Number of open channels.
    pub fn channel_count(&self) -> usize {
        lock(&self.channels).len()
    }

    pub(crate) fn add_channel(&self, view: &Arc<ChannelView>) {
        lock(&self.channels).insert(view.number, Arc::clone(view));
    }

    pub(crate) fn remove_channel(&self, number: u16) {
        lock(&self.channels).remove(&number);
    }

    /// Ends the connection from the server's side, with a `connection.close` that gives the fault.
    pub fn end(&self, fault: Fault) {
        self.ending.send_if_modified(|ending| {
            ending.is_none() && ending.replace(Ending::Close(fault)).is_none()
        });
    }

    /// Ends the connection without a word: the peer is gone, or does not take what it is sent.
    pub(crate) fn cut(&self) {
        self.ending
            .send_if_modified(|ending| ending.replace(Ending::Cut) != Some(Ending::Cut));
    }

    /// Bytes of memory that the broker holds for this connection alone: unsent frames, bytes that were read, unfinished
    /// publishes and transactions.
    pub fn held_bytes(&self) -> u64 {
        (self.outbox.pending_bytes() + self.share.total()) as u64
    }

    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Relaxed);
    }
}
