//! Accepts AMQP clients on TCP, TLS and Unix sockets. Depends on `connection`.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

mod port;

pub(crate) use port::Port;

use crate::broker_state::BrokerState;
use crate::connection::{self, AcceptedSocket, ReadHalf};
use crate::lock::lock;
use crate::login_places::LoginPlace;
use crate::login_throttle::ClientEnds;
use crate::registry::SocketEnd;

/// Sockets above the connection limit that are accepted anyway, so that the handshake can refuse
/// them with an error instead of a closed socket.
const GREETING: usize = 256;
/// The pause after a failed accept, which usually means that file descriptors ran out.
const REST: Duration = Duration::from_millis(100);

/// After so long without a byte from a client, the system asks whether it is there: one whose
/// machine lost its power or its network says nothing.
const SILENT: Duration = Duration::from_mins(1);
/// How often it is asked again, and how many times in vain before the connection counts as broken.
const ASK_EVERY: Duration = Duration::from_secs(15);
const ASKED_IN_VAIN: u32 = 4;

/// Accepts clients without TLS.
pub(crate) async fn serve_tcp(broker: Arc<BrokerState>, listener: TcpListener) {
    loop {
        if let Some(stream) =
            accept(&broker, listener.accept().await.map(|(stream, _)| stream)).await
        {
            let Some((peer, local, place)) = prepare(&broker, &stream).await else {
                continue;
            };
            let (read, write) = stream.into_split();
            let accepted = AcceptedSocket {
                read: Box::new(read),
                write: Box::new(write),
                peer,
                local,
                is_tls: false,
                place: Some(place),
            };
            tokio::spawn(connection::serve(Arc::clone(&broker), accepted));
        }
    }
}

/// The half of a TLS connection that is read.
struct TlsReadHalf {
    stream: tokio::io::ReadHalf<TlsStream<TcpStream>>,
    /// A copy: the socket of the stream cannot be reached once it is split.
    socket: OwnedFd,
}

impl AsyncRead for TlsReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl ReadHalf for TlsReadHalf {
    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Accepts clients with TLS.
pub(crate) async fn serve_tls(
    broker: Arc<BrokerState>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
) {
    loop {
        if let Some(stream) =
            accept(&broker, listener.accept().await.map(|(stream, _)| stream)).await
        {
            let Some((peer, local, place)) = prepare(&broker, &stream).await else {
                continue;
            };
            let (broker, acceptor) = (Arc::clone(&broker), acceptor.clone());
            tokio::spawn(async move {
                let greeting = acceptor.accept(stream);
                let greeted = tokio::select! {
                    greeted = tokio::time::timeout(broker.limits.handshake, greeting) => greeted,
                    () = place.wait_until_lost() => return,
                };
                match greeted {
                    Ok(Ok(stream)) => {
                        let Ok(socket) = stream.get_ref().0.as_fd().try_clone_to_owned() else {
                            return tracing::warn!("closed a connection: no descriptor is free");
                        };
                        let (stream, write) = tokio::io::split(stream);
                        connection::serve(
                            broker,
                            AcceptedSocket {
                                read: Box::new(TlsReadHalf { stream, socket }),
                                write: Box::new(write),
                                peer,
                                local,
                                is_tls: true,
                                place: Some(place),
                            },
                        )
                        .await;
                    }
                    Ok(Err(error)) => {
                        tracing::info!(peer = %peer.host, %error, "the TLS handshake failed");
                    }
                    Err(_) => tracing::info!(peer = %peer.host, "the TLS handshake took too long"),
                }
            });
        }
    }
}

/// Accepts clients on the Unix socket.
pub(crate) async fn serve_unix(broker: Arc<BrokerState>, socket: UnixSocket) {
    loop {
        if let Some(stream) = accept(&broker, socket.accept().await).await {
            let (broker, host) = (Arc::clone(&broker), socket.path.display().to_string());
            tokio::spawn(async move {
                let (read, write) = stream.into_split();
                let end = SocketEnd { host, port: 0 };
                let accepted = AcceptedSocket {
                    read: Box::new(read),
                    write: Box::new(write),
                    peer: end.clone(),
                    local: end,
                    is_tls: false,
                    place: None,
                };
                connection::serve(broker, accepted).await;
            });
        }
    }
}

/// Returns the accepted socket, or `None` after an error or above the limit.
async fn accept<S>(broker: &BrokerState, accepted: std::io::Result<S>) -> Option<S> {
    match accepted {
        Ok(stream) if lock(&broker.connections).len() < broker.limits.connections + GREETING => {
            Some(stream)
        }
        Ok(_) => {
            tracing::warn!("closed a connection: too many connections are open");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(REST).await;
            None
        }
    }
}

/// Sets the socket's options, reads the addresses and takes a place until the login. Small writes
/// should leave at once, because the writer has already gathered what can be sent together.
async fn prepare(
    broker: &BrokerState,
    stream: &TcpStream,
) -> Option<(SocketEnd, SocketEnd, LoginPlace)> {
    let end = |address: SocketAddr| SocketEnd {
        host: address.ip().to_canonical().to_string(),
        port: address.port(),
    };
    stream.set_nodelay(true).ok()?;
    notice_dead_peers(stream).ok()?;
    let peer = stream.peer_addr().ok()?;
    let local = stream.local_addr().ok()?;
    let place = broker
        .login_places
        .acquire(ClientEnds { peer, local })
        .await;
    Some((end(peer), end(local), place))
}

/// Makes the system break a connection whose client is gone without a word, also where there is no
/// heartbeat and where nothing is read from it. A client whose system answers is kept, however long
/// it rests; so `TCP_USER_TIMEOUT`, which ends those that have not read for a while, is not set.
fn notice_dead_peers(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, SILENT)?;
    sockopt::set_tcp_keepintvl(stream, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, ASKED_IN_VAIN)?;
    sockopt::set_socket_keepalive(stream, true)
}

/// A Unix socket that only this system user can open. Its file is removed on drop.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Accepts the next client.
    pub(crate) async fn accept(&self) -> std::io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Listens on `path` and replaces the file that a killed broker left behind. If that fails,
    /// logs a warning and returns `None`: the ports still work.
    pub(crate) fn bind(path: &Path) -> Option<Self> {
        match Self::listen(path) {
            Ok(listener) => Some(Self {
                listener,
                path: path.to_owned(),
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot listen on this socket");
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
            tracing::debug!(
                path = %self.path.display(), %error,
                "the file of the socket could not be removed"
            );
        }
    }
}
