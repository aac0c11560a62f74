//! Connections to a broker and its management API, which identify the listener before a
//! password is sent.
//!
//! A stored login is sent only to a program of this user (or of root, who can read the login
//! anyway): through a socket in the private home folder, or through TCP once the kernel's socket
//! table shows who accepted the connection. A login that the user gave is sent to the address that
//! the user gave; at an address that was derived from it, only to the same user's program.

mod owner;
mod tls;

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};

pub use owner::{ListenerIdentity, SocketOwner, listeners};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// Any kind of connection.
pub type Stream = Box<dyn Duplex>;

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct Route {
    /// The host name or IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Whether to use TLS.
    pub is_tls: bool,
    /// A file of PEM certificates to trust in addition to the system's.
    pub ca_cert: Option<PathBuf>,
    /// A Unix socket that is tried first. If it does not exist or nothing listens on it, TCP is
    /// used.
    pub socket: Option<PathBuf>,
    /// Whose program must listen.
    pub listener: ListenerDemand,
}

/// Whose program must listen at an address before a login is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerDemand {
    /// Anybody's.
    Anybody,
    /// One of this user, or of root.
    Ours,
    /// If the address is on this machine and without TLS, whose certificates prove the host: one of
    /// this user, of root, or of the user who alone listens at the port `beside` of the same host.
    OursIfHere {
        /// The broker's port, if the login is meant for any broker there.
        beside: Option<u16>,
    },
}

/// An open connection and what is known about its listener.
pub struct BrokerStream {
    /// The connection.
    pub stream: Stream,
    /// What is known about the listener.
    pub listener: ListenerIdentity,
    /// Whether this is the socket in the home folder.
    pub is_socket: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing answers, or the handshake failed.
    #[error("{}", in_words(.0))]
    Io(#[from] io::Error),
    /// A program of another user listens there. Nothing was sent to it.
    #[error("{0} listens there")]
    Foreign(SocketOwner),
    /// The certificate is not trusted. Holds the error of the TLS handshake.
    #[error(transparent)]
    NotTrusted(io::Error),
    /// What TLS needs on this side cannot be used.
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
}

/// Why a TLS handshake cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The host of the address.
    #[error("`{0}` is not a TLS server name")]
    ServerName(String),
    /// The TLS library has no protocol version to offer.
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    /// The file of additional certificates cannot be used.
    #[error("cannot read the certificates in {}: {source}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The error of the system, of the PEM reader or of the TLS library.
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// Connects. Where the route makes a demand, the error names a foreign listener.
pub async fn open(route: &Route) -> Result<BrokerStream, TransportError> {
    if let Some(socket) = &route.socket
        && let Some(link) = through_socket(socket).await?
    {
        return Ok(link);
    }
    let (stream, listener) = through_tcp(route).await?;
    let stream: Stream = if route.is_tls {
        Box::new(tls::handshake(stream, &route.host, route.ca_cert.as_deref()).await?)
    } else {
        Box::new(stream)
    };
    Ok(BrokerStream {
        stream,
        listener,
        is_socket: false,
    })
}

/// Connects to the socket. `None` if no broker listens on it.
async fn through_socket(path: &Path) -> Result<Option<BrokerStream>, TransportError> {
    let Ok(stream) = UnixStream::connect(path).await else {
        return Ok(None);
    };
    let peer = stream.peer_cred()?;
    if !owner::is_trusted(peer.uid()) {
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        return Err(TransportError::Foreign(SocketOwner::of(peer.uid(), pid)));
    }
    Ok(Some(BrokerStream {
        stream: Box::new(stream),
        listener: ListenerIdentity::Proven,
        is_socket: true,
    }))
}

async fn through_tcp(route: &Route) -> Result<(TcpStream, ListenerIdentity), TransportError> {
    let host = match route.host.as_str() {
        "" => "127.0.0.1",
        host => host,
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in lookup_host((host, route.port)).await? {
        match to_address(address).await {
            Ok(stream) => {
                let listener = listener(route, &stream).await?;
                return Ok((stream, listener));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

async fn listener(route: &Route, stream: &TcpStream) -> Result<ListenerIdentity, TransportError> {
    match route.listener {
        ListenerDemand::Ours => owner::identify(stream, None).await,
        ListenerDemand::OursIfHere { beside }
            if !route.is_tls && owner::is_on_this_machine(stream)? =>
        {
            owner::identify(stream, beside).await
        }
        ListenerDemand::OursIfHere { .. } | ListenerDemand::Anybody => {
            Ok(ListenerIdentity::NotAsked)
        }
    }
}

async fn to_address(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Formats the system's error without its number: `connection refused`.
pub fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
