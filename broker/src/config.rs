//! The configuration of a broker. Depends on `archive` and `observer`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::Archive;
use crate::observer::EndObserver;

/// All settings for `Broker::start`.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// The addresses to listen on.
    pub bind: BindAddresses,
    /// The AMQP port; 0 selects a free one.
    pub port: u16,
    /// The management port; 0 selects a free one, `None` disables it.
    pub management_port: Option<u16>,
    /// The folder of the store. It is created if it is missing.
    pub data_dir: PathBuf,
    /// AMQP over TLS, in addition to the plain port.
    pub tls: Option<Tls>,
    /// A Unix socket for AMQP, for sandboxes without TCP.
    pub unix_socket: Option<PathBuf>,
    /// A Unix socket for the management API. A client that runs as the same system user needs no
    /// password there and acts as the first user.
    pub management_socket: Option<PathBuf>,
    /// Whether `guest`/`guest` can log in from loopback, as in RabbitMQ.
    pub allow_guest: bool,
    /// A user that is created with administrator rights and all permissions, or whose password is
    /// updated.
    pub first_user: Option<FirstUser>,
    /// Resident memory in bytes above which publishers are blocked. 0 selects two fifths of the
    /// machine's memory, as RabbitMQ does.
    pub memory_limit_bytes: u64,
    /// Limits for clients.
    pub limits: ClientLimits,
    /// Exchanges where the `user-id` of a message must be its publisher's own name, also if that
    /// user has the tag `impersonator`.
    pub own_names_at: &'static [&'static str],
    /// What the program keeps for the first user, for the page.
    pub archive: Option<Arc<dyn Archive>>,
    /// Receives the messages that end in the broker.
    pub observer: Option<Arc<dyn EndObserver>>,
}

/// The addresses that every port is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BindAddresses {
    /// 127.0.0.1, and `[::1]` if the machine has it, because `localhost` can mean either.
    #[default]
    Loopback,
    /// One address.
    At(IpAddr),
}

impl BindAddresses {
    /// Whether only this machine can reach it.
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Loopback => true,
            Self::At(address) => address.is_loopback(),
        }
    }
}

/// A certificate and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The port of AMQP over TLS; 0 selects a free one.
    pub port: u16,
    /// The certificate chain in PEM, leaf first.
    pub certificate: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

/// The user that exists from the first start.
#[derive(Clone)]
pub struct FirstUser {
    /// The name.
    pub name: String,
    /// The password in plain text. Only a salted hash is stored.
    pub password: String,
}

impl std::fmt::Debug for FirstUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Limits for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// The maximum number of open connections.
    pub connections: usize,
    /// Channels for each connection, as offered in `connection.tune`.
    pub channels: u16,
    /// The frame size in bytes, as offered in `connection.tune`.
    pub frame_bytes: u32,
    /// The heartbeat interval as offered, 0 for none.
    pub heartbeat_s: u16,
    /// The maximum number of queues in a vhost.
    pub queues: usize,
    /// The maximum size of a message body in bytes.
    pub body_bytes: u64,
    /// The time from accepting the socket to `connection.open`.
    pub handshake: Duration,
    /// How long a sign-in at the page lasts after its last use.
    pub page_sign_in: Duration,
    /// A client that has more than a mebibyte to read and reads less than that in this time is
    /// disconnected.
    pub unread: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            channels: 2047,
            frame_bytes: 131_072,
            heartbeat_s: 60,
            queues: 1_000_000,
            body_bytes: 128 * 1024 * 1024,
            handshake: Duration::from_secs(10),
            page_sign_in: Duration::from_hours(12),
            unread: Duration::from_mins(1),
        }
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            bind: BindAddresses::Loopback,
            port: 5672,
            management_port: Some(15672),
            data_dir: PathBuf::from("data"),
            tls: None,
            unix_socket: None,
            management_socket: None,
            allow_guest: false,
            first_user: None,
            memory_limit_bytes: 0,
            limits: ClientLimits::default(),
            own_names_at: &[],
            archive: None,
            observer: None,
        }
    }
}
