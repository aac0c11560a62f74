//! What can go wrong between us and a broker, sorted by what the caller can do about it.

use lapin::ErrorKind;

use crate::config::{Address, UrlScheme};
use crate::error::Error;
use crate::exit::Exit;

/// A failure of the connection or a refusal by the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing answers at the address, or not in AMQP.
    #[error("no broker answers at {address}: {why}")]
    Unreachable {
        /// Where.
        address: Box<Address>,
        /// What the system says.
        why: String,
    },
    /// The broker answers and refuses us: the login, the vhost, TLS.
    #[error("the broker at {address} refused: {why}")]
    SignInRefused {
        /// Where.
        address: Box<Address>,
        /// The broker's words.
        why: String,
        /// What it refused.
        refused: RefusedSignIn,
    },
    /// The broker's certificate is not signed by anybody we trust, or is for another name.
    #[error("the certificate of {address} is not trusted: {why}")]
    NotTrusted {
        /// Where.
        address: Box<Address>,
        /// What is wrong with it.
        why: String,
    },
    /// Another user's program listens there. Nothing was sent to it.
    #[error("{owner} listens at {address}; no password was sent")]
    Foreign {
        /// Where.
        address: Box<Address>,
        /// The program, its process and its user, as far as the system reports them.
        owner: String,
    },
    /// Something answers, but not in AMQP.
    #[error("{0} does not speak AMQP")]
    NotAmqp(Box<Address>),
    /// The connection went away in the middle.
    #[error("the connection to the broker was lost: {0}")]
    Lost(String),
    /// There is no queue of that name.
    #[error("there is no queue of that name")]
    NoSuchQueue,
    /// There is no exchange of that name.
    #[error("there is no exchange of that name")]
    NoSuchExchange,
    /// The queue lives with other arguments than ours.
    #[error("the queue was declared with other arguments: {why}")]
    OtherArguments {
        /// Its TTL, if the broker's text contains it.
        live_ttl_ms: Option<u64>,
        /// The broker's words.
        why: String,
    },
    /// Another client has the queue exclusively.
    #[error("the queue is in exclusive use: {0}")]
    InUse(String),
    /// The broker refused for another reason.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// No confirm in so many seconds.
    #[error("the broker has not confirmed the message within {0} s")]
    TimedOut(u64),
    /// The broker takes no messages at the moment: low on disk or memory, in its own words.
    #[error("the broker takes no messages: {0}")]
    Blocked(String),
    /// A file that the connection needs cannot be used.
    #[error("{0}")]
    Setup(String),
}

/// What a broker refused when we signed in: what there is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedSignIn {
    /// The user and password that are stored for the local broker.
    StoredLogin,
    /// The user and password of the URL.
    GivenLogin,
    /// The user guest, which stands in where the URL has no login and none is stored.
    Guest,
    /// The vhost, or this user's way into it.
    Vhost,
    /// Anything else, such as one connection too many.
    Other,
}

impl RefusedSignIn {
    /// What can be done about it.
    fn hint(self, address: &Address) -> Option<String> {
        let port = address.port;
        Some(match self {
            Self::StoredLogin => format!(
                "another broker may have this port: name it with its login, as in `--url \
                 amqp://guest:guest@localhost:{port}`, or start yours elsewhere with \
                 `cbroker start --port PORT`"
            ),
            Self::GivenLogin => "check user and password of the URL".to_owned(),
            Self::Guest if address.is_local() => format!(
                "name that broker with its login, as in `--url \
                 amqp://USER:PASSWORD@localhost:{port}`, or start your own elsewhere with \
                 `cbroker start --port PORT`"
            ),
            Self::Guest => "add user and password to the URL: amqp://USER:PASSWORD@HOST".to_owned(),
            Self::Vhost => "check the vhost at the end of the URL, and that its user may enter \
                            it; without a name there it is `/`"
                .to_owned(),
            Self::Other => return None,
        })
    }
}

/// What there is to do where a broker is low on disk or memory.
pub const BLOCKED_HINT: &str = "free what it is low on, or purge queues; what was sent may still \
                                arrive then, so look before sending again";

impl PeerError {
    /// Whether another attempt may succeed without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Foreign { .. }
                | Self::Lost(_)
                | Self::TimedOut(_)
                | Self::Blocked(_)
        )
    }
}

impl From<lapin::Error> for PeerError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => {
                let text = refusal.get_message().to_string();
                match (refusal.get_id(), text.as_str()) {
                    (404, text) if text.contains("exchange") => Self::NoSuchExchange,
                    (404, _) => Self::NoSuchQueue,
                    (405, _) => Self::InUse(text),
                    (403, text) if text.contains("exclusive") => Self::InUse(text.to_owned()),
                    (406, _) => Self::OtherArguments {
                        live_ttl_ms: super::topology::live_ttl_ms(&text),
                        why: text,
                    },
                    // The broker goes down, or an operator closed the connection.
                    (320, _) => Self::Lost(text),
                    _ => Self::Refused(text),
                }
            }
            ErrorKind::IOError(error) => Self::Lost(error.to_string()),
            ErrorKind::MissingHeartbeatError => Self::Lost("no heartbeat".into()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Unreachable { address, why } => {
                let told = Self::new(format!("no broker answers at {address}")).because(why);
                let hint = if address.is_local() && address.scheme == UrlScheme::Amqp {
                    "start one with `cbroker start`"
                } else {
                    "`cbroker doctor` looks at every step on the way there"
                };
                told.hint(hint).exit_with(Exit::Unreachable)
            }
            PeerError::SignInRefused {
                address,
                why,
                refused,
            } => {
                let told = Self::new(format!("the broker at {address} refused")).because(why);
                let told = match refused.hint(&address) {
                    Some(hint) => told.hint(hint),
                    None => told,
                };
                told.exit_with(Exit::Unreachable)
            }
            PeerError::Foreign { address, owner } => Self::new(format!(
                "another user's program listens at {address}"
            ))
            .because(format!("{owner}; no password was sent to it"))
            .hint(format!(
                "`cbroker start --port PORT` starts your broker elsewhere; if that one is meant, \
                 name it with its login: --url amqp://guest:guest@localhost:{}",
                address.port
            ))
            .exit_with(Exit::Unreachable),
            PeerError::NotTrusted { .. } => Self::new(error.to_string())
                .hint("--ca-cert FILE trusts the certificates in FILE as well")
                .exit_with(Exit::Unreachable),
            PeerError::NotAmqp(_) => Self::new(error.to_string())
                .hint("another program has that port, or it has TLS and wants amqps://")
                .exit_with(Exit::Unreachable),
            PeerError::Lost(why) => Self::new("the connection to the broker was lost")
                .because(why)
                .exit_with(Exit::Unreachable),
            PeerError::TimedOut(_) => Self::new(error.to_string()).exit_with(Exit::Unconfirmed),
            PeerError::Blocked(why) => Self::new("the broker takes no messages")
                .because(why)
                .hint(BLOCKED_HINT)
                .exit_with(Exit::Unconfirmed),
            PeerError::Refused(why) | PeerError::InUse(why) => Self::new("the broker refused")
                .because(why)
                .exit_with(Exit::Unreachable),
            other => Self::new(other.to_string()),
        }
    }
}
