//! One connection: the handshake, then frames until the end, then the release of everything that
//! the connection held. Relies on `channel` and `registry`.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{tcp, unix};

use crate::broker_state::BrokerState;
use crate::lock::lock;
use crate::login_places::LoginPlace;
use crate::registry::{ConnectionHandle, SocketEnd};
use crate::time::wall_ms;
use crate::users::LoginOrigin;

mod blocking;
mod ending;
mod handshake;
mod heartbeat;
mod input;
mod open_channels;
mod reader;
mod start_ok;
mod writer;
mod yield_policy;

use input::ReadBuffer;

pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// The half of a socket that is read, and the socket itself.
pub(crate) trait ReadHalf: AsyncRead + Send + Unpin {
    fn socket(&self) -> BorrowedFd<'_>;
}

impl ReadHalf for tcp::OwnedReadHalf {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_ref().as_fd()
    }
}

impl ReadHalf for unix::OwnedReadHalf {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_ref().as_fd()
    }
}

/// A socket that was accepted.
pub(crate) struct AcceptedSocket {
    pub(crate) read: Box<dyn ReadHalf>,
    pub(crate) write: WriteHalf,
    pub(crate) peer: SocketEnd,
    pub(crate) local: SocketEnd,
    pub(crate) is_tls: bool,
    /// Its place among the connections without a login; `None` on the Unix socket.
    pub(crate) place: Option<LoginPlace>,
}

/// Where the client is, which decides whether it may sign in as `guest`.
fn origin(peer: &SocketEnd) -> LoginOrigin {
    let is_local = peer.port == 0
        || peer
            .host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback());
    if is_local {
        LoginOrigin::Loopback
    } else {
        LoginOrigin::Elsewhere
    }
}

async fn place_lost(place: Option<&LoginPlace>) {
    match place {
        Some(place) => place.wait_until_lost().await,
        None => std::future::pending().await,
    }
}

/// Serves one client to its end.
pub(crate) async fn serve(broker: Arc<BrokerState>, accepted: AcceptedSocket) {
    let origin = origin(&accepted.peer);
    let connection = Arc::new(ConnectionHandle::new(
        broker.next_id(),
        (accepted.peer, accepted.local),
        accepted.is_tls,
        wall_ms(),
    ));
    lock(&broker.connections).insert(connection.id, Arc::clone(&connection));
    broker.totals.connections_opened.add(1);
    let writing = tokio::spawn(writer::run(
        Arc::clone(&broker),
        Arc::clone(&connection),
        accepted.write,
    ));
    let mut input = ReadBuffer::new(accepted.read, &connection.holdings);
    let greeting = handshake::run(&broker, &connection, origin, &mut input);
    let place = accepted.place;
    let mut ending = connection.ending.subscribe();
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(broker.limits.handshake, greeting) => {
            greeted.map_err(|_| "the handshake took too long")
        }
        () = place_lost(place.as_ref()) => Err("others wait for a login"),
        _ = ending::wait_for_end(&mut ending) => Err("it was ended before its login"),
    };
    drop(place);
    match greeted {
        Ok(Ok(context)) => {
            tracing::debug!(
                connection = %connection.name, user = %context.user, vhost = %context.vhost.name(),
                "open"
            );
            let beating = heartbeat::start(&broker, &connection);
            reader::run(context, input).await;
            beating.abort();
            tracing::debug!(connection = %connection.name, "closed");
        }
        // A program that checks the port connects every few seconds.
        Ok(Err(handshake::HandshakeEnd::Gone)) => {
            tracing::debug!(connection = %connection.name, "gone before its login");
        }
        Ok(Err(end)) => tracing::info!(connection = %connection.name, %end, "refused"),
        Err(reason) => {
            tracing::info!(connection = %connection.name, "dropped: {reason}");
            connection.cut();
        }
    }
    connection.outbox.finish();
    lock(&broker.connections).remove(&connection.id);
    broker.totals.connections_closed.add(1);
    // The last frames have a short time to be sent; a peer that reads nothing does not hold the
    // task.
    if tokio::time::timeout(std::time::Duration::from_secs(3), writing)
        .await
        .is_err()
    {
        connection.cut();
    }
}

#[cfg(test)]
mod tests;
