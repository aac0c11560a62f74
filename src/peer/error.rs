//! The errors of the AMQP client, divided by what the caller can do about them.

use std::io;

use lapin::ErrorKind;

use super::cause::{BrokerText, ConnectionFailure, OtherConsumer, SignInFailure};
use super::frames::UnreadableFrame;
use crate::config::{Address, UrlScheme};
use crate::error::Error;
use crate::exit::Exit;
use crate::transport::{SocketOwner, TlsSetupError};

/// A failure of the connection or a refusal by the broker.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nothing answers at the address, or not in AMQP.
    #[error("no broker answers at {address}: {source}")]
    Unreachable {
        /// Where.
        address: Box<Address>,
        /// Why not.
        source: ConnectionFailure,
        /// Whether `cbroker start` starts a broker there.
        is_local_broker: bool,
    },
    /// The broker answers and refuses the login or the vhost, or does not prove who it is.
    #[error("the broker at {address} refused: {source}")]
    SignInRefused {
        /// Where.
        address: Box<Address>,
        /// The broker's reason, or what it did not prove.
        source: SignInFailure,
        /// What it refused.
        refused: RefusedSignIn,
    },
    /// The broker's certificate is not signed by an authority that we trust, or is for another
    /// name.
    #[error("the certificate of {address} is not trusted: {source}")]
    NotTrusted {
        /// Where.
        address: Box<Address>,
        /// The error of the TLS handshake.
        source: io::Error,
    },
    /// Another user's program listens there. Nothing was sent to it.
    #[error("{owner} listens at {address}; nothing was sent")]
    Foreign {
        /// Where.
        address: Box<Address>,
        /// The program, its process and its user, as far as the system reports them.
        owner: SocketOwner,
    },
    /// Something answers, but not in AMQP.
    #[error("{0} does not speak AMQP")]
    NotAmqp(Box<Address>),
    /// Something answers in AMQP, and sends what cannot be read.
    #[error("cannot talk to the broker at {address}: {source}")]
    Unreadable {
        /// Where.
        address: Box<Address>,
        /// What it sent.
        source: UnreadableFrame,
    },
    /// Something answers, but not in TLS.
    #[error("{0} does not speak TLS")]
    NotTls(Box<Address>),
    /// The connection was lost during a request.
    #[error("the connection to the broker was lost: {0}")]
    Lost(#[source] ConnectionFailure),
    /// There is no queue of that name.
    #[error("there is no queue of that name")]
    NoSuchQueue,
    /// There is no exchange of that name.
    #[error("there is no exchange of that name")]
    NoSuchExchange,
    /// The queue exists with other arguments than ours.
    #[error("the queue was declared with other arguments: {source}")]
    OtherArguments {
        /// Its TTL, if the broker's text contains it.
        live_ttl_ms: Option<u64>,
        /// The first argument that differs, if the broker's text names it.
        argument: Option<String>,
        /// The broker's words.
        source: BrokerText,
    },
    /// Another client has the queue exclusively.
    #[error("the queue is in exclusive use: {0}")]
    InUse(#[source] OtherConsumer),
    /// The broker refused for another reason.
    #[error("the broker refused: {0}")]
    Refused(#[source] BrokerText),
    /// No confirm within this many seconds.
    #[error("the broker has not confirmed the message within {0} s")]
    TimedOut(u64),
    /// The broker answered a message with a nack. Of the queues that it was routed to at least one
    /// refused it. Others may have it, because anybody who may bind can bind one more.
    #[error("the broker refused it")]
    NotAccepted,
    /// The broker does not accept messages at the moment, for this reason in its own words, such as
    /// low disk or memory.
    #[error("the broker does not accept messages: {0}")]
    Blocked(#[source] BrokerText),
    /// The local part of the TLS setup cannot be used.
    #[error(transparent)]
    Setup(TlsSetupError),
    /// The system gives no random bytes for the login.
    #[error("the system gives no random bytes")]
    NoRandomNumbers,
}

/// What a broker refused at the login, and so what must be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedSignIn {
    /// The user and password that are stored for the local broker.
    StoredLogin,
    /// The user and password of the URL.
    GivenLogin,
    /// The user guest, which stands in where the URL has no login and none is stored.
    Guest,
    /// The vhost, or this user's right to use it.
    Vhost,
    /// Anything else, such as one connection too many.
    Other,
}

impl RefusedSignIn {
    /// A hint about what can be done.
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

/// A hint for a broker that is low on disk or memory.
pub const BLOCKED_HINT: &str = "free what it is low on, or purge queues; what was sent may still \
                                arrive then, so look before sending again";

impl PeerError {
    /// Whether another attempt may succeed without a change of the configuration.
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
        let ErrorKind::ProtocolError(refusal) = error.kind() else {
            return Self::Lost(error.into());
        };
        let text = refusal.get_message().to_string();
        match (refusal.get_id(), text.as_str()) {
            (404, words) if words.contains("exchange") => Self::NoSuchExchange,
            (404, _) => Self::NoSuchQueue,
            (405, _) => Self::InUse(BrokerText::from(text).into()),
            (403, words) if words.contains("exclusive") => {
                Self::InUse(BrokerText::from(text).into())
            }
            (406, words) => Self::OtherArguments {
                live_ttl_ms: super::topology::live_ttl_ms(words),
                argument: super::topology::differing_argument(words).map(str::to_owned),
                source: text.into(),
            },
            // The broker goes down, or an operator closed the connection.
            (320, _) => Self::Lost(BrokerText::from(text).into()),
            _ => Self::Refused(text.into()),
        }
    }
}

fn refused(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new("the broker refused")
        .caused_by(why)
        .exit_with(Exit::Unreachable)
}

/// What to do if no broker answers.
fn unreachable_hint(address: &Address, is_local_broker: bool) -> &'static str {
    if is_local_broker {
        "start one with `cbroker start`"
    } else if address.is_local() && address.scheme == UrlScheme::Amqp {
        "check the URL; `cbroker status` without it shows the local broker"
    } else {
        "`cbroker doctor` looks at every step on the way there"
    }
}

fn sign_in_refused(address: &Address, source: SignInFailure, refused: RefusedSignIn) -> Error {
    let what = format!("the broker at {address} refused");
    let told = Error::new(what)
        .caused_by(source)
        .exit_with(Exit::Unreachable);
    match refused.hint(address) {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

/// The error about a listener that speaks something else, unless the URL's scheme is wrong.
fn other_protocol(error: &PeerError, or: &str) -> Error {
    Error::new(error.to_string())
        .with_hint(format!("another program has that port, or {or}"))
        .exit_with(Exit::Unreachable)
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Unreachable {
                address,
                source,
                is_local_broker,
            } => Self::new(format!("no broker answers at {address}"))
                .caused_by(source)
                .with_hint(unreachable_hint(&address, is_local_broker))
                .exit_with(Exit::Unreachable),
            PeerError::SignInRefused {
                address,
                source,
                refused,
            } => sign_in_refused(&address, source, refused),
            PeerError::Foreign { address, owner } => Self::new(format!(
                "another user's program listens at {address}"
            ))
            .caused_by(format!("{owner}; nothing was sent to it"))
            .with_hint(format!(
                "`cbroker start --port PORT` starts your broker elsewhere; if that one is meant, \
                 name it with its login: --url amqp://guest:guest@localhost:{}",
                address.port
            ))
            .exit_with(Exit::Unreachable),
            PeerError::NotTrusted { address, source } => {
                Self::new(format!("the certificate of {address} is not trusted"))
                    .caused_by(source)
                    .with_hint("--ca-cert FILE trusts the certificates in FILE as well")
                    .exit_with(Exit::Unreachable)
            }
            PeerError::Unreadable { address, source } => {
                Self::new(format!("cannot talk to the broker at {address}"))
                    .caused_by(source)
                    .exit_with(Exit::Unreachable)
            }
            PeerError::NotAmqp(_) => other_protocol(&error, "it has TLS and wants amqps://"),
            PeerError::NotTls(_) => other_protocol(&error, "it has no TLS and wants amqp://"),
            PeerError::Lost(why) => Self::new("the connection to the broker was lost")
                .caused_by(why)
                .exit_with(Exit::Unreachable),
            PeerError::TimedOut(_) => Self::new(error.to_string()).exit_with(Exit::Unconfirmed),
            PeerError::NotAccepted => Self::new("the broker refused the message")
                .caused_by("a queue did not accept it; others may have it")
                .exit_with(Exit::Unconfirmed),
            PeerError::Blocked(why) => Self::new("the broker does not accept messages")
                .caused_by(why)
                .with_hint(BLOCKED_HINT)
                .exit_with(Exit::Unconfirmed),
            PeerError::Refused(why) => refused(why),
            PeerError::InUse(why) => refused(why),
            PeerError::OtherArguments { source, .. } => {
                Self::new("the queue was declared with other arguments").caused_by(source)
            }
            PeerError::Setup(TlsSetupError::Certificates { path, source }) => {
                let path = path.display();
                Self::new(format!("cannot read the certificates in {path}")).caused_by(source)
            }
            other => Self::new(other.to_string()),
        }
    }
}
