//! Errors of starting and stopping a broker. Depends on `persist`.

use std::path::PathBuf;

use crate::persist::{OpenError, Stopped};

/// Why a broker did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The last commit failed.
    #[error("the last changes are not on the disk: {0}")]
    NotCommitted(#[source] Stopped),
    /// The store's thread panicked.
    #[error("the message store failed while it was closed")]
    Panicked,
}

/// Why a broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is in use, or the address cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address and port, or the path of a socket.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the message store in {}: {source}", folder.display())]
    Open {
        /// The folder of the store.
        folder: PathBuf,
        /// The reason.
        source: OpenError,
    },
    /// The thread that opened the store panicked.
    #[error("the message store failed while it was opened")]
    OpenPanicked,
    /// The store stopped while the broker was starting.
    #[error("the message store stopped: {0}")]
    Store(#[from] Stopped),
    /// The store stopped before what the start changed was durable.
    #[error("the message store stopped before it was ready")]
    NotReady,
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The system gives no pipe to wake the task that releases confirms.
    #[error("cannot create a pipe: {0}")]
    Wake(#[source] std::io::Error),
    /// The system starts no thread that tells the program which messages ended.
    #[error("cannot start a thread: {0}")]
    Observe(#[source] std::io::Error),
    /// The system gives no random bytes for a password's salt.
    #[error("the system gives no random bytes")]
    NoRandomness,
}
