//! Where connections of the management port come in, with TLS or without.
//!
//! Handshakes run beside one another and are given up after [`HANDSHAKE`], so that nobody who stops in the middle of
//! one keeps the next client waiting.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::listener::Port;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections through their handshake that wait to be served.
const WAITING: usize = 64;

/// The far end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Either kind of stream.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// The listener that axum serves from.
pub(super) struct Door {
    address: SocketAddr,
    entered: mpsc::Receiver<(Stream, SocketAddr)>,
}

impl Door {
    pub(super) fn open(port: Port, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let address = port.address();
        let tls = tls.map(TlsAcceptor::from);
        let (enter, entered) = mpsc::channel(WAITING);
        for listener in port.into_listeners() {
            tokio::spawn(admit(listener, tls.clone(), enter.clone()));
        }
        Self { address, entered }
    }
}

/// Accepts until the door is dropped.
async fn admit(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    enter: mpsc::Sender<(Stream, SocketAddr)>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = enter.closed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                tokio::spawn(greet(stream, peer, tls.clone(), enter.clone()));
            }
            Err(error) => {
                // Too many open files, most likely: the next accept would fail at once too.
                tracing::warn!(%error, "the management port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    enter: mpsc::Sender<(Stream, SocketAddr)>,
) {
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
        },
    };
    // Nobody serves any more when this fails.
    let _ = enter.send((stream, peer)).await;
}

impl Listener for Door {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.entered.recv().await {
            Some(entered) => entered,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
