//! Streams to a broker and to its management API, and the proof of who is at the other end before a password leaves.
//!
//! A stored login goes only to a program of this user (or of root, who can read the login anyway): through a socket in
//! the private home folder, or through TCP once the kernel's table shows who accepted the connection. A login that the
//! user gave goes where the user said.

mod owner;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};

pub use owner::{Owner, Proof, listeners};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection of any kind.
pub type Stream = Box<dyn Duplex>;

/// Where to connect, and on which terms.
#[derive(Debug, Clone)]
pub struct Route {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub is_tls: bool,
    /// A PEM file with certificates to trust beside the system's.
    pub ca_cert: Option<PathBuf>,
    /// Tried first; TCP serves where it does not exist or nobody listens there.
    pub socket: Option<PathBuf>,
    /// Whether the login is a stored one, so that the other end has to be proven ours.
    pub is_guarded: bool,
}

/// An open connection and what is known of its other end.
pub struct Link {
    /// The connection.
    pub stream: Stream,
    /// Who is there.
    pub proof: Proof,
    /// Whether it is the socket in the home folder.
    pub is_socket: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing answers, or the handshake failed.
    #[error("{}", in_words(.0))]
    Io(#[from] io::Error),
    /// A program of another user listens there. Nothing was sent.
    #[error("{0} listens there")]
    Foreign(Owner),
    /// The certificate is not trusted.
    #[error("{0}")]
    NotTrusted(String),
    /// A file that the connection needs cannot be used.
    #[error("{0}")]
    Setup(String),
}

/// Connects. The error of a guarded route names a foreign listener.
pub async fn open(route: &Route) -> Result<Link, TransportError> {
    if let Some(socket) = &route.socket
        && let Some(link) = through_socket(socket).await?
    {
        return Ok(link);
    }
    let (stream, proof) = through_tcp(route).await?;
    let stream: Stream = if route.is_tls {
        Box::new(tls::handshake(stream, &route.host, route.ca_cert.as_deref()).await?)
    } else {
        Box::new(stream)
    };
    Ok(Link {
        stream,
        proof,
        is_socket: false,
    })
}

/// `None` where no broker listens at the socket.
async fn through_socket(path: &Path) -> Result<Option<Link>, TransportError> {
    let Ok(stream) = UnixStream::connect(path).await else {
        return Ok(None);
    };
    let peer = stream.peer_cred()?;
    if !owner::is_trusted(peer.uid()) {
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        return Err(TransportError::Foreign(Owner::of(peer.uid(), pid)));
    }
    Ok(Some(Link {
        stream: Box::new(stream),
        proof: Proof::Ours,
        is_socket: true,
    }))
}

async fn through_tcp(route: &Route) -> Result<(TcpStream, Proof), TransportError> {
    let host = match route.host.as_str() {
        "" => "127.0.0.1",
        host => host,
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in lookup_host((host, route.port)).await? {
        match to_address(address).await {
            Ok(stream) if route.is_guarded => {
                let proof = owner::prove(&stream).await?;
                return Ok((stream, proof));
            }
            Ok(stream) => return Ok((stream, Proof::NotAsked)),
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

async fn to_address(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The system's words without its error number: `connection refused`.
pub fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
