//! Accepts connections to the management API: TCP with or without TLS, and the Unix socket.
//!
//! Idle connections do not lock out other clients. A TLS handshake and the head of each request
//! have a time limit, which also ends idle connections, and so has a response that the client does
//! not read (`write_deadline`). At most [`WITHOUT_LOGIN`] connections without a login are open; one
//! more ends the oldest of the address or local user that has the most (`login_places`). At most
//! [`OF_ONE_USER`] of each user are open, and one more ends the oldest of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::Uri;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::sign_ins::ClientLocation;
use super::write_deadline::{SPAN, WriteDeadline};
use crate::listener::UnixSocket;
use crate::lock::lock;
use crate::login_places::{LoginPlace, LoginPlaces};
use crate::login_throttle::{ClientEnds, LoginThrottle};
use crate::platform;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit from waiting for a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request. It bounds the memory that a client without a login can take.
const HEAD_BYTES: usize = 64 * 1024;
/// The limit of connections without a login.
const WITHOUT_LOGIN: usize = 256;
/// The limit of connections of one user.
const OF_ONE_USER: usize = 256;
/// Rest after a failed accept, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The far end of a connection.
#[derive(Clone, Debug)]
pub(super) struct RemoteEnd {
    /// `None` on the Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// Our own end of a connection over TCP.
    pub(super) local: Option<SocketAddr>,
    /// Whether the peer runs as the same user of the machine as this broker. The kernel reports
    /// this for a Unix socket.
    pub(super) is_same_user: bool,
    /// Where the client is, once that was looked up.
    location: Arc<OnceLock<ClientLocation>>,
    permit: Arc<ConnectionPermit>,
}

impl RemoteEnd {
    /// Records the login of a user on this connection.
    pub(super) fn signed_in(&self, user: &str) {
        self.permit.promote(user);
    }

    /// Returns where the client is. Over loopback the first call looks up its system user.
    pub(super) async fn location(&self, look_ups: &LoginThrottle) -> ClientLocation {
        if let Some(location) = self.location.get() {
            return *location;
        }
        let (Some(peer), Some(local)) = (self.address, self.local) else {
            return ClientLocation::UnknownLocalUser;
        };
        let client = ClientEnds { peer, local };
        if !client.is_local() {
            return ClientLocation::Network;
        }
        // The kernel's table may leave out a socket while others come and go, so a second look is
        // worth it, and what was not found is looked up again at the next request.
        for _ in 0..2 {
            if let Some(user) = look_ups.local_user(client).await
                && Some(user) != platform::UNMAPPED_USER
            {
                return *self
                    .location
                    .get_or_init(|| ClientLocation::LocalUser(user));
            }
        }
        ClientLocation::UnknownLocalUser
    }

    /// The far end of a connection from there, for unit tests.
    #[cfg(test)]
    pub(super) fn at(location: ClientLocation) -> Self {
        Self {
            address: None,
            local: None,
            is_same_user: false,
            location: Arc::new(OnceLock::from(location)),
            permit: Arc::<HttpConnections>::default().admit(None),
        }
    }

    /// A number that no other connection has.
    pub(super) fn number(&self) -> u64 {
        self.permit.id
    }
}

/// The open connections.
#[derive(Debug)]
struct HttpConnections {
    without_login: Arc<LoginPlaces>,
    users: Mutex<UserConnections>,
}

/// Connections with a login.
#[derive(Debug, Default)]
struct UserConnections {
    /// Numbers grow, so the least is the oldest.
    next: u64,
    slots: HashMap<u64, ConnectionSlot>,
}

#[derive(Debug)]
struct ConnectionSlot {
    user: Arc<str>,
    end: Arc<Notify>,
}

/// One connection; its place is free again when this is dropped.
#[derive(Debug)]
struct ConnectionPermit {
    connections: Arc<HttpConnections>,
    id: u64,
    /// Until the first login; `None` on the Unix socket, where every client is known.
    place: Mutex<Option<LoginPlace>>,
    end: Arc<Notify>,
}

impl Default for HttpConnections {
    fn default() -> Self {
        Self {
            without_login: Arc::new(LoginPlaces::new(WITHOUT_LOGIN)),
            users: Mutex::default(),
        }
    }
}

impl HttpConnections {
    /// Admits a new connection, which has a place unless it is on the Unix socket.
    fn admit(self: &Arc<Self>, place: Option<LoginPlace>) -> Arc<ConnectionPermit> {
        let end = place
            .as_ref()
            .map_or_else(Arc::default, LoginPlace::release_request);
        let id = {
            let mut users = lock(&self.users);
            users.next += 1;
            users.next
        };
        Arc::new(ConnectionPermit {
            connections: Arc::clone(self),
            id,
            place: Mutex::new(place),
            end,
        })
    }
}

impl ConnectionPermit {
    /// Moves the connection from those without a login to those of `user`.
    fn promote(&self, user: &str) {
        let mut users = lock(&self.connections.users);
        let is_known = |slot: &ConnectionSlot| &*slot.user == user;
        if !users.slots.get(&self.id).is_some_and(is_known) {
            let slot = ConnectionSlot {
                user: user.into(),
                end: Arc::clone(&self.end),
            };
            users.slots.insert(self.id, slot);
            users.end_oldest_beyond(user, OF_ONE_USER);
        }
        drop(users);
        drop(lock(&self.place).take());
    }
}

impl UserConnections {
    /// Ends the oldest connection of a user who has too many.
    fn end_oldest_beyond(&mut self, user: &str, most: usize) {
        let group = || {
            let slots = self.slots.iter();
            slots.filter(|(_, slot)| &*slot.user == user)
        };
        if group().count() <= most {
            return;
        }
        if let Some(oldest) = group().map(|(id, _)| *id).min()
            && let Some(slot) = self.slots.remove(&oldest)
        {
            slot.end.notify_one();
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        lock(&self.connections.users).slots.remove(&self.id);
    }
}

/// The router, and the connections that it serves.
#[derive(Clone)]
pub(super) struct HttpServer {
    router: Router,
    tls: Option<TlsAcceptor>,
    connections: Arc<HttpConnections>,
    /// How long the server waits for a client that reads nothing.
    write_timeout: Duration,
    /// How long the server waits for the head of a request.
    head_timeout: Duration,
}

impl HttpServer {
    pub(super) fn new(router: Router, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self {
            router,
            tls: tls.map(TlsAcceptor::from),
            connections: Arc::default(),
            write_timeout: SPAN,
            head_timeout: HEAD_TIMEOUT,
        }
    }

    /// Serves a TCP port until the future is dropped.
    pub(super) async fn serve_tcp(self, listener: TcpListener) {
        let mut serving = JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    if let Some(peer) = self.take_place(&stream, address).await {
                        serving.spawn(self.clone().serve_tcp_client(stream, peer));
                    }
                }
                Err(error) => cannot_accept(&error).await,
            }
            while serving.try_join_next().is_some() {}
        }
    }

    /// Serves the Unix socket until the future is dropped.
    pub(super) async fn serve_unix(self, socket: UnixSocket) {
        let mut serving = JoinSet::new();
        loop {
            match socket.accept().await {
                Ok(stream) => {
                    serving.spawn(self.clone().serve_unix_client(stream));
                }
                Err(error) => cannot_accept(&error).await,
            }
            while serving.try_join_next().is_some() {}
        }
    }

    async fn take_place(&self, stream: &TcpStream, peer: SocketAddr) -> Option<RemoteEnd> {
        let local = stream.local_addr().ok()?;
        let place = self
            .connections
            .without_login
            .acquire(ClientEnds { peer, local })
            .await;
        Some(RemoteEnd {
            address: Some(peer),
            local: Some(local),
            is_same_user: false,
            location: Arc::default(),
            permit: self.connections.admit(Some(place)),
        })
    }

    async fn serve_tcp_client(self, stream: TcpStream, peer: RemoteEnd) {
        let Some(tls) = self.tls.clone() else {
            return self.serve_requests(stream, peer).await;
        };
        let (end, peer_address) = (Arc::clone(&peer.permit.end), peer.address);
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)) => greeted,
            () = end.notified() => return,
        };
        match greeted {
            Ok(Ok(stream)) => self.serve_requests(stream, peer).await,
            Ok(Err(error)) => {
                tracing::debug!(address = ?peer_address, %error, "a TLS handshake failed");
            }
            Err(_) => tracing::debug!(address = ?peer_address, "a TLS handshake took too long"),
        }
    }

    async fn serve_unix_client(self, stream: UnixStream) {
        let own = rustix::process::geteuid().as_raw();
        let user = stream.peer_cred().map(|peer| peer.uid()).ok();
        let peer = RemoteEnd {
            address: None,
            local: None,
            is_same_user: user == Some(own),
            location: Arc::new(
                user.map(ClientLocation::LocalUser)
                    .map_or_else(OnceLock::new, OnceLock::from),
            ),
            permit: self.connections.admit(None),
        };
        self.serve_requests(stream, peer).await;
    }

    /// Serves the requests of one connection until either side closes it.
    async fn serve_requests(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: RemoteEnd,
    ) {
        let stream = WriteDeadline::new(stream, self.write_timeout);
        let end = Arc::clone(&peer.permit.end);
        let routes = TowerToHyperService::new(self.router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            if let Some(uri) = without_trailing_slash(request.uri()) {
                *request.uri_mut() = uri;
            }
            request.extensions_mut().insert(peer.clone());
            routes.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = connection => if let Err(error) = served {
                tracing::debug!(%error, "a connection of the management API broke");
            },
            () = end.notified() => {}
        }
    }
}

async fn cannot_accept(error: &std::io::Error) {
    tracing::warn!(%error, "the management API cannot accept");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// `/api/queues/` means `/api/queues`, as at RabbitMQ; `None` where there is nothing to change.
fn without_trailing_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || !trimmed.starts_with("/api/") {
        return None;
    }
    let text = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Long enough for a busy machine to read a request.
    const SOON: Duration = Duration::from_millis(500);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

    fn from(ip: [u8; 4]) -> ClientEnds {
        ClientEnds {
            peer: (ip, 1).into(),
            local: ([10, 0, 0, 1], 15672).into(),
        }
    }

    fn is_ended(permit: &ConnectionPermit) -> bool {
        permit.end.notified().now_or_never().is_some()
    }

    async fn admitted(connections: &Arc<HttpConnections>, ip: [u8; 4]) -> Arc<ConnectionPermit> {
        let place = connections.without_login.acquire(from(ip)).await;
        connections.admit(Some(place))
    }

    #[tokio::test]
    async fn many_connections_without_login_end_none_of_another_address_and_none_of_a_user() {
        let connections = Arc::<HttpConnections>::default();
        let user = admitted(&connections, [10, 0, 0, 2]).await;
        user.promote("ada");
        let other = admitted(&connections, [10, 0, 0, 3]).await;
        let mut many = Vec::new();
        for _ in 0..2 * WITHOUT_LOGIN {
            many.push(admitted(&connections, [10, 0, 0, 2]).await);
        }
        assert!(is_ended(&many[0]) && is_ended(&many[WITHOUT_LOGIN]));
        assert!(!is_ended(&many[WITHOUT_LOGIN + 1]), "the last ones stay");
        assert!(!is_ended(&other), "the oldest without a login");
        assert!(!is_ended(&user));
    }

    #[tokio::test]
    async fn one_user_keeps_no_other_out() {
        let connections = Arc::<HttpConnections>::default();
        let bob = connections.admit(None);
        bob.promote("bob");
        let mut many = Vec::new();
        for _ in 0..2 * OF_ONE_USER {
            let permit = admitted(&connections, [10, 0, 0, 2]).await;
            permit.promote("ada");
            many.push(permit);
        }
        assert!(!is_ended(&bob));
        assert!(is_ended(&many[0]));
        assert_eq!(lock(&connections.users).slots.len(), OF_ONE_USER + 1);
        drop(many);
        assert_eq!(lock(&connections.users).slots.len(), 1);
    }

    /// Serves one client, with the limits that `changed` sets.
    fn served(
        router: Router,
        changed: impl FnOnce(&mut HttpServer),
    ) -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let mut server = HttpServer::new(router, None);
        changed(&mut server);
        let peer = RemoteEnd {
            address: None,
            local: None,
            is_same_user: true,
            location: Arc::default(),
            permit: server.connections.admit(None),
        };
        let (client, stream) = tokio::io::duplex(1024);
        (client, tokio::spawn(server.serve_requests(stream, peer)))
    }

    async fn ends(serving: tokio::task::JoinHandle<()>) -> bool {
        let ended = tokio::time::timeout(Duration::from_mins(3), serving).await;
        ended.is_ok()
    }

    #[tokio::test]
    async fn an_answer_that_its_client_does_not_read_is_not_held_for_ever() {
        let response = || async { vec![0u8; 1 << 20] };
        let router = Router::new().route("/", axum::routing::get(response));
        let (mut client, serving) = served(router, |server| server.write_timeout = SOON);
        client.write_all(REQUEST).await.unwrap();
        let mut begin = [0; 100];
        client.read_exact(&mut begin).await.unwrap();
        assert!(begin.starts_with(b"HTTP/1.1 200"));
        assert!(
            ends(serving).await,
            "the response is held as long as the client likes"
        );
    }

    #[tokio::test]
    async fn half_a_head_is_not_waited_for_for_ever() {
        let (mut client, serving) = served(Router::new(), |server| server.head_timeout = SOON);
        client.write_all(&REQUEST[..20]).await.unwrap();
        assert!(ends(serving).await, "the client holds its place");
    }

    #[tokio::test]
    async fn a_client_that_is_silent_after_its_answer_is_not_waited_for_for_ever() {
        let router = Router::new().route("/", axum::routing::get(|| async { "a response" }));
        let (mut client, serving) = served(router, |server| server.head_timeout = SOON);
        client.write_all(REQUEST).await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("a response"), "{response}");
        assert!(!response.contains("connection: close"), "{response}");
        assert!(ends(serving).await);
    }

    #[test]
    fn slashes_at_the_end_of_a_path_of_the_api_mean_nothing() {
        let changed =
            |uri: &str| without_trailing_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(changed("/api/queues/").as_deref(), Some("/api/queues"));
        assert_eq!(
            changed("/api/queues/%2F//?page=1").as_deref(),
            Some("/api/queues/%2F?page=1")
        );
        assert_eq!(changed("/api/queues/%2F/a%2F"), None);
        assert_eq!(changed("/"), None);
    }
}
