//! Sockets that clients come to: TCP, TLS and a Unix socket. Relies on `connection`.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

mod port;

pub(crate) use port::Port;

use crate::connection::{self, Accepted};
use crate::lock::lock;
use crate::realm::Realm;
use crate::registry::Endpoint;

/// Sockets beyond the connection limit that may be in their handshake, so that they can be told.
const GREETING: usize = 256;
/// Rest after a failed accept, which is mostly a lack of descriptors.
const REST: Duration = Duration::from_millis(100);

/// Serves clients that speak plainly.
pub(crate) async fn serve_tcp(realm: Arc<Realm>, listener: TcpListener) {
    loop {
        if let Some(stream) =
            accept(&realm, listener.accept().await.map(|(stream, _)| stream)).await
        {
            let realm = Arc::clone(&realm);
            tokio::spawn(async move {
                if let Some((peer, local)) = prepare(&stream) {
                    let (read, write) = stream.into_split();
                    connection::serve(
                        realm,
                        Accepted {
                            read: Box::new(read),
                            write: Box::new(write),
                            peer,
                            local,
                            is_tls: false,
                        },
                    )
                    .await;
                }
            });
        }
    }
}

/// Serves clients that speak TLS.
pub(crate) async fn serve_tls(realm: Arc<Realm>, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        if let Some(stream) =
            accept(&realm, listener.accept().await.map(|(stream, _)| stream)).await
        {
            let (realm, acceptor) = (Arc::clone(&realm), acceptor.clone());
            tokio::spawn(async move {
                let Some((peer, local)) = prepare(&stream) else {
                    return;
                };
                match tokio::time::timeout(realm.limits.handshake, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let (read, write) = tokio::io::split(stream);
                        connection::serve(
                            realm,
                            Accepted {
                                read: Box::new(read),
                                write: Box::new(write),
                                peer,
                                local,
                                is_tls: true,
                            },
                        )
                        .await;
                    }
                    Ok(Err(error)) => tracing::info!(peer = %peer.host, %error, "no TLS"),
                    Err(_) => tracing::info!(peer = %peer.host, "the TLS handshake took too long"),
                }
            });
        }
    }
}

/// Serves clients on the Unix socket.
pub(crate) async fn serve_unix(realm: Arc<Realm>, socket: UnixSocket) {
    loop {
        if let Some(stream) = accept(&realm, socket.accept().await).await {
            let (realm, host) = (Arc::clone(&realm), socket.path.display().to_string());
            tokio::spawn(async move {
                let (read, write) = stream.into_split();
                let end = Endpoint { host, port: 0 };
                let accepted = Accepted {
                    read: Box::new(read),
                    write: Box::new(write),
                    peer: end.clone(),
                    local: end,
                    is_tls: false,
                };
                connection::serve(realm, accepted).await;
            });
        }
    }
}

/// A socket that was accepted, unless there are too many already.
async fn accept<S>(realm: &Realm, accepted: std::io::Result<S>) -> Option<S> {
    match accepted {
        Ok(stream) if lock(&realm.links).len() < realm.limits.connections + GREETING => {
            Some(stream)
        }
        Ok(_) => {
            tracing::warn!("a connection beyond the limit was closed at once");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept");
            tokio::time::sleep(REST).await;
            None
        }
    }
}

/// Small writes leave at once: the writer has gathered what belongs together.
fn prepare(stream: &TcpStream) -> Option<(Endpoint, Endpoint)> {
    let end = |address: SocketAddr| Endpoint {
        host: address.ip().to_canonical().to_string(),
        port: address.port(),
    };
    stream.set_nodelay(true).ok()?;
    Some((
        end(stream.peer_addr().ok()?),
        end(stream.local_addr().ok()?),
    ))
}

/// A Unix socket for this user alone, removed with the broker.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// The next client.
    pub(crate) async fn accept(&self) -> std::io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Takes the path; a socket that a killed broker left behind is replaced. `None`, with a warning, where that fails:
    /// the ports still serve.
    pub(crate) fn bind(path: &Path) -> Option<Self> {
        match Self::listen(path) {
            Ok(listener) => Some(Self {
                listener,
                path: path.to_owned(),
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "not listening there");
                None
            }
        }
    }

    fn listen(path: &Path) -> std::io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket's file stays");
        }
    }
}
