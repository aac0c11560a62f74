//! The causes of a [`PeerError`](super::PeerError): what its `source` returns.

use std::io;
use std::sync::Arc;

use lapin::ErrorKind;

use crate::name::SessionName;
use crate::transport::{TransportError, in_words};

/// A reason in the broker's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BrokerText(String);

impl From<String> for BrokerText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Why a connection could not be opened, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionFailure {
    /// The transport below AMQP could not be opened.
    #[error(transparent)]
    Transport(TransportError),
    /// The transport failed.
    #[error("{}", in_words(.0))]
    Io(#[source] Arc<io::Error>),
    /// No answer within this many seconds.
    #[error("no answer within {0} s")]
    Silent(u64),
    /// The broker sent nothing for too long.
    #[error("no heartbeat")]
    NoHeartbeat,
    /// The broker closed it.
    #[error(transparent)]
    Closed(#[from] BrokerText),
    /// The connection was closed without a reason.
    #[error("the connection is gone")]
    Gone,
    /// The queue that is consumed no longer exists.
    #[error("the queue was deleted")]
    QueueDeleted,
    /// The queue for requests to sessions no longer exists.
    #[error("the presence queue was deleted")]
    PresenceQueueDeleted,
    /// Another failure of the AMQP client.
    #[error(transparent)]
    Client(lapin::Error),
}

impl From<lapin::Error> for ConnectionFailure {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::IOError(error) => Self::Io(Arc::clone(error)),
            ErrorKind::MissingHeartbeatError => Self::NoHeartbeat,
            // What is asked after the connection was lost.
            ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_) => Self::Gone,
            _ => Self::Client(error),
        }
    }
}

/// Why the login failed.
#[derive(Debug, thiserror::Error)]
pub enum SignInFailure {
    /// The broker refused.
    #[error(transparent)]
    Refused(#[from] BrokerText),
    /// The broker's part of the proof is wrong.
    #[error("{}", proof_in_words(.0))]
    Proof(#[source] lapin::Error),
    /// The broker ended the login before its part of the proof.
    #[error("the listener did not prove that it knows the password")]
    NoProof,
}

/// Returns the error of `scram` without the words that the AMQP client puts in front of it.
fn proof_in_words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::AuthProviderError(why) => why.clone(),
        _ => error.to_string(),
    }
}

/// Who uses a queue exclusively.
#[derive(Debug, thiserror::Error)]
pub enum OtherConsumer {
    /// Sessions that are attached to it.
    #[error("{count} other session(s) named {name} are attached")]
    Sessions {
        /// How many.
        count: u32,
        /// Their name.
        name: SessionName,
    },
    /// A client, as the broker describes it.
    #[error(transparent)]
    Client(#[from] BrokerText),
}
