//! Why a broker cannot start. Relies on `persist`.

use std::path::PathBuf;

use crate::persist::Stopped;

/// A broker ended, but not cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The last commit failed.
    #[error("the last changes are not on the disk: {0}")]
    NotCommitted(#[source] Stopped),
    /// The store's thread panicked.
    #[error("the message store failed while it was closed")]
    Panicked,
}

/// What stands in the way of a start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program has the port, or it may not be used.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Address and port, or the path of a socket.
        address: String,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the message store in {}: {reason}", folder.display())]
    Open {
        /// Where it is.
        folder: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The store stopped while the broker was starting.
    #[error("the message store stopped: {0}")]
    Store(String),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The system gives no pipe for the store's thread to wake the others with.
    #[error("cannot make a pipe: {0}")]
    Wake(std::io::Error),
    /// The machine gives no random bytes for a password's salt.
    #[error("the system gives no randomness")]
    NoRandomness,
}
