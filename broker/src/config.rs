//! What a broker is started with. Relies on nothing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that `Broker::start` needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub bind: Bind,
    /// AMQP port, 0 for a free one.
    pub port: u16,
    /// Management port, 0 for a free one; None for no management.
    pub management_port: Option<u16>,
    /// Folder of the store; made when it is missing.
    pub data_dir: PathBuf,
    /// AMQP over TLS beside the plain port.
    pub tls: Option<Tls>,
    /// Also listen on this socket, for sandboxes without TCP.
    pub unix_socket: Option<PathBuf>,
    /// Also serve the management API on this socket: a client that runs as the same user of the machine needs no password
    /// there and acts as the first user.
    pub management_socket: Option<PathBuf>,
    /// Let `guest`/`guest` in, as RabbitMQ does on loopback.
    pub allow_guest: bool,
    /// The first user, made an administrator with all permissions, or its password changed.
    pub first_user: Option<FirstUser>,
    /// Resident memory above which publishers are told to wait, in bytes; 0 for two fifths of the machine's, as RabbitMQ.
    pub memory_limit_bytes: u64,
    /// What one client may ask for.
    pub limits: Limits,
}

/// The addresses that every port is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bind {
    /// 127.0.0.1, and `[::1]` where the machine has it: `localhost` may mean either.
    #[default]
    Loopback,
    /// This one alone.
    At(IpAddr),
}

impl Bind {
    /// Whether only this machine reaches it.
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Loopback => true,
            Self::At(address) => address.is_loopback(),
        }
    }
}

/// A certificate and where to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Port of AMQP over TLS, 0 for a free one.
    pub port: u16,
    /// Certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The user that exists from the start.
#[derive(Clone)]
pub struct FirstUser {
    /// Its name.
    pub name: String,
    /// Its password in plain text; kept as a salted hash.
    pub password: String,
}

impl std::fmt::Debug for FirstUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Bounds on what clients may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Channels of one connection, as offered in `connection.tune`.
    pub channels: u16,
    /// Octets of one frame, as offered in `connection.tune`.
    pub frame_bytes: u32,
    /// Heartbeat as offered, 0 for none.
    pub heartbeat_s: u16,
    /// Queues of one vhost.
    pub queues: usize,
    /// Octets of one body.
    pub body_bytes: u64,
    /// From the socket's opening to `connection.open`.
    pub handshake: Duration,
    /// How long a client may take less than a mebibyte while more than that waits for it; then it is cut off.
    pub unread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            channels: 2047,
            frame_bytes: 131_072,
            heartbeat_s: 60,
            queues: 1_000_000,
            body_bytes: 128 * 1024 * 1024,
            handshake: Duration::from_secs(10),
            unread: Duration::from_mins(1),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: Bind::Loopback,
            port: 5672,
            management_port: Some(15672),
            data_dir: PathBuf::from("data"),
            tls: None,
            unix_socket: None,
            management_socket: None,
            allow_guest: false,
            first_user: None,
            memory_limit_bytes: 0,
            limits: Limits::default(),
        }
    }
}
