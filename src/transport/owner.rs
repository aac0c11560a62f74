//! Finds the process at the other end of a local TCP connection among the sockets that the system
//! shows (`platform`). Where it shows none, the listener stays unknown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::TransportError;
use crate::platform::{self, SystemSocket, UNMAPPED_USER, canonical};

/// A server accepts at once; one that has not accepted after this time stays unknown.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(3);
/// A connection that a program of this machine can get is in the system's table at once, before it
/// is accepted. One that is not there after this time was forwarded by the kernel.
const SHOWN_WITHIN: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What is known about the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerIdentity {
    /// A program that the route accepts: of this user or of root, for one.
    Proven,
    /// The system does not report it.
    Unknown,
    /// Not checked, because the user gave the login together with the address.
    NotAsked,
}

/// The process that has a socket, as far as the system reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user id.
    pub uid: u32,
    /// The process id, if this user may see it.
    pub pid: Option<u32>,
    /// The program's name, likewise.
    pub program: Option<String>,
}

impl SocketOwner {
    pub(super) fn of(uid: u32, pid: Option<u32>) -> Self {
        let program = pid
            .and_then(platform::program_name)
            .map(|name| crate::clean::line(&name));
        Self { uid, pid, program }
    }

    fn of_socket(socket: &SystemSocket) -> Self {
        Self::of(socket.uid, platform::process_with(socket))
    }

    /// Whether it is this user or root.
    pub fn is_ours(&self) -> bool {
        is_trusted(self.uid)
    }
}

/// Formats as `nc (process 123 of user nobody)`.
impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = platform::user_name(self.uid).map(|name| crate::clean::line(&name));
        let user = user.unwrap_or_else(|| self.uid.to_string());
        match (&self.program, self.pid) {
            (Some(program), Some(pid)) => write!(f, "{program} (process {pid} of user {user})"),
            (None, Some(pid)) => write!(f, "process {pid} of user {user}"),
            _ => write!(f, "a program of user {user}"),
        }
    }
}

/// Root is trusted, because it can read every stored login.
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Finds out which user's program accepted `stream`. The user who alone listens at the port
/// `beside` of the same address is accepted as well.
pub(super) async fn identify(
    stream: &TcpStream,
    beside: Option<u16>,
) -> Result<ListenerIdentity, TransportError> {
    let (near, far) = (
        canonical(stream.local_addr()?),
        canonical(stream.peer_addr()?),
    );
    let neighbour = beside.and_then(|port| {
        let address = SocketAddr::new(far.ip(), port);
        only_user_at(&platform::sockets(port), address)
    });
    let is_accepted = |uid| is_trusted(uid) || neighbour == Some(uid);
    let start = Instant::now();
    loop {
        let sockets = platform::sockets(far.port());
        let listener = sockets
            .iter()
            .find(|socket| is_listening_at(socket, far) && !is_accepted(socket.uid));
        if let Some(socket) = listener {
            return Err(TransportError::Foreign(SocketOwner::of_socket(socket)));
        }
        // Where other users' sockets are not shown, a listener that is shown is this user's. What
        // it accepts will be shown as well.
        let may_come =
            platform::SEES_ALL_SOCKETS || sockets.iter().any(|socket| is_listening_at(socket, far));
        match sockets
            .iter()
            .find(|socket| socket.local == far && socket.remote == Some(near))
        {
            Some(socket) if socket.is_held && is_accepted(socket.uid) => {
                return Ok(ListenerIdentity::Proven);
            }
            Some(socket) if socket.is_held => {
                return Err(TransportError::Foreign(SocketOwner::of_socket(socket)));
            }
            _ if sockets.is_empty() || !may_come || start.elapsed() > ACCEPTED_WITHIN => {
                return Ok(ListenerIdentity::Unknown);
            }
            _ if start.elapsed() > SHOWN_WITHIN && is_forwarded(&sockets, near, far) => {
                return Ok(ListenerIdentity::Unknown);
            }
            _ if has_closed(stream).await => return Err(closed_at_once().into()),
            _ => {}
        }
    }
}

/// Whether the other end has closed the connection, as docker-proxy does where nothing listens
/// behind it. Waits a moment for that.
async fn has_closed(stream: &TcpStream) -> bool {
    match tokio::time::timeout(LOOK_AGAIN, stream.peek(&mut [0])).await {
        Ok(Ok(0) | Err(_)) => true,
        Ok(Ok(_)) => {
            tokio::time::sleep(LOOK_AGAIN).await;
            false
        }
        Err(_) => false,
    }
}

fn closed_at_once() -> io::Error {
    io::Error::other("the connection was closed at once: nothing answers behind this port")
}

/// Returns which programs listen on a port of this machine, on any address.
pub fn listeners(port: u16) -> Vec<SocketOwner> {
    let mut owners: Vec<SocketOwner> = Vec::new();
    for socket in platform::sockets(port) {
        if socket.is_listening() && socket.local.port() == port {
            let owner = SocketOwner::of_socket(&socket);
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
    }
    owners
}

fn is_listening_at(socket: &SystemSocket, address: SocketAddr) -> bool {
    let ip = socket.local.ip();
    socket.is_listening()
        && socket.local.port() == address.port()
        && (ip == address.ip() || ip.is_unspecified())
}

/// Whether the table shows our end of a connection and no other end of it, as where the kernel
/// forwards a port to a container.
fn is_forwarded(sockets: &[SystemSocket], near: SocketAddr, far: SocketAddr) -> bool {
    let has = |local, remote| {
        let mut ends = sockets.iter();
        ends.any(|socket| socket.local == local && socket.remote == Some(remote))
    };
    platform::SEES_ALL_SOCKETS && has(near, far) && !has(far, near)
}

/// The user of all programs that listen at an address; `None` where there are several users, where
/// one may stand for several, or where the system shows none.
fn only_user_at(sockets: &[SystemSocket], address: SocketAddr) -> Option<u32> {
    let mut users = sockets
        .iter()
        .filter(|socket| is_listening_at(socket, address))
        .map(|socket| socket.uid);
    let user = users.next().filter(|user| Some(*user) != UNMAPPED_USER)?;
    users.all(|other| other == user).then_some(user)
}

/// Whether the other end of a connection is on this machine.
pub(super) fn is_on_this_machine(stream: &TcpStream) -> io::Result<bool> {
    let (near, far) = (
        canonical(stream.local_addr()?),
        canonical(stream.peer_addr()?),
    );
    Ok(far.ip().is_loopback() || far.ip() == near.ip())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_port_vouches_for_a_user_only_if_no_other_user_listens_there() {
        let at = |local: &str, uid| SystemSocket {
            local: local.parse().unwrap(),
            remote: None,
            uid,
            is_held: true,
            holder: 1,
        };
        let client = SystemSocket {
            remote: Some("127.0.0.1:5672".parse().unwrap()),
            ..at("127.0.0.1:40000", 3)
        };
        let address = "127.0.0.1:5672".parse().unwrap();
        for (sockets, user) in [
            (vec![], None),
            (vec![client], None),
            (vec![at("127.0.0.1:5672", 1)], Some(1)),
            (vec![at("127.0.0.1:5672", 1), at("[::1]:5672", 2)], Some(1)),
            (
                vec![at("0.0.0.0:5672", 1), at("127.0.0.1:5672", 1)],
                Some(1),
            ),
            (vec![at("0.0.0.0:5672", 1), at("127.0.0.1:5672", 2)], None),
            (vec![at("127.0.0.1:5673", 1)], None),
            (vec![at("127.0.0.1:5672", 65534)], None),
        ] {
            assert_eq!(only_user_at(&sockets, address), user, "{sockets:?}");
        }
    }

    #[test]
    fn a_connection_without_another_end_here_was_forwarded() {
        let (near, far) = ("127.0.0.1:40000", "127.0.0.1:15672");
        let row = |local: &str, remote: &str| SystemSocket {
            local: local.parse().unwrap(),
            remote: remote.parse().ok(),
            uid: 0,
            is_held: true,
            holder: 1,
        };
        let (ours, theirs) = (row(near, far), row(far, near));
        for (sockets, forwarded) in [
            (vec![ours], true),
            (vec![ours, row("127.0.0.1:40001", far)], true),
            (vec![ours, row(far, "127.0.0.1:40001")], true),
            (vec![ours, theirs], false),
            (vec![theirs], false),
            (vec![], false),
        ] {
            let (near, far) = (near.parse().unwrap(), far.parse().unwrap());
            assert_eq!(is_forwarded(&sockets, near, far), forwarded, "{sockets:?}");
        }
    }

    #[tokio::test]
    async fn a_listener_of_this_user_is_proven_and_named() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = tokio::net::TcpListener::bind((host, 0)).await else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            let accepting = tokio::spawn(async move { listener.accept().await });
            let stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(
                identify(&stream, None).await.unwrap(),
                ListenerIdentity::Proven
            );
            let _both_ends_open = accepting.await.unwrap().unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owners = listeners(listener.local_addr().unwrap().port());
        assert_eq!(owners[0].pid, Some(std::process::id()));
        assert!(owners[0].is_ours());
    }
    #[tokio::test]
    async fn a_connection_that_is_closed_at_once_is_not_one_that_nobody_reports() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        drop(listener.accept().await.unwrap());
        assert_eq!(stream.peek(&mut [0]).await.unwrap(), 0);
        let error = identify(&stream, None).await.unwrap_err().to_string();
        assert!(error.contains("closed at once"), "{error}");
    }
}
