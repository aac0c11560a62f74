//! Opens a connection: transport, login, heartbeat, and the name that the broker shows.

use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use tokio::sync::Mutex;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::cause::{BrokerText, ConnectionFailure, SignInFailure};
use super::error::RefusedSignIn;
use super::frames::{FRAME_BYTES, ReadableFrames, UnreadableFrame};
use super::scram::Scram;
use super::{PRODUCT, PeerError, runtime};
use crate::config::{Address, Endpoint, Login, UrlScheme};
use crate::transport::{self, BrokerStream, ListenerIdentity, Stream, TransportError};

/// Half-open connections are noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 20;
/// AMQP's code for a login that is not accepted.
const ACCESS_REFUSED: u16 = 403;
/// AMQP's code for a vhost that does not exist or is not this user's, and for a limit.
const NOT_ALLOWED: u16 = 530;

/// Connects and logs in. Returns the user's name as well.
pub(super) async fn open(
    endpoint: &Endpoint,
    purpose: &str,
    within: Duration,
) -> Result<(Connection, String), PeerError> {
    let connecting = async {
        let link = transport::open(&endpoint.route())
            .await
            .map_err(|error| no_way(endpoint, error))?;
        sign_in(endpoint, purpose, link).await
    };
    match tokio::time::timeout(within, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(PeerError::Unreachable {
            address: Box::new(endpoint.address.clone()),
            source: ConnectionFailure::Silent(within.as_secs()),
            is_local_broker: endpoint.is_local_broker,
        }),
    }
}

pub(super) async fn sign_in(
    endpoint: &Endpoint,
    purpose: &str,
    link: BrokerStream,
) -> Result<(Connection, String), PeerError> {
    let mut properties = ConnectionProperties::default()
        .with_connection_name(format!("cbroker {purpose}").into())
        .with_client_property("product".into(), PRODUCT.into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    // The login is read again at every connect, because it may have changed.
    let mut login = endpoint.login_now();
    let mut progress = None;
    if link.listener == ListenerIdentity::Unknown && endpoint.guard.is_secret() {
        let scram = Scram::new(&login).ok_or(PeerError::NoRandomNumbers)?;
        progress = Some(scram.progress());
        properties = properties.with_auth_provider(scram);
        login.password.clear();
    }
    let readable: Stream = Box::new(ReadableFrames::new(link.stream));
    let stream = Mutex::new(Some(readable));
    let connector = async move |_uri, _runtime| match stream.lock().await.take() {
        Some(stream) => Ok(AsyncTcpStream::Plain(stream.compat())),
        // One stream serves one attempt; another attempt needs a new connection.
        None => Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into()),
    };
    let user = login.user.clone();
    let uri = uri(&endpoint.address, login);
    let connected = Connection::connector(uri, runtime::current(), connector, properties).await;
    match connected {
        Ok(_) if progress.is_some_and(|progress| !progress.is_proven()) => {
            Err(PeerError::SignInRefused {
                address: Box::new(endpoint.address.clone()),
                source: SignInFailure::NoProof,
                refused: RefusedSignIn::StoredLogin,
            })
        }
        Ok(connection) => Ok((connection, user)),
        Err(error) => Err(explain(endpoint, error)),
    }
}

fn uri(address: &Address, login: Login) -> AMQPUri {
    AMQPUri {
        scheme: match address.scheme {
            UrlScheme::Amqp => AMQPScheme::AMQP,
            UrlScheme::Amqps => AMQPScheme::AMQPS,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: login.user,
                password: login.password,
            },
            host: address.host.clone(),
            port: address.port,
        },
        vhost: address.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT_SECONDS),
            frame_max: Some(FRAME_BYTES),
            ..AMQPQueryString::default()
        },
    }
}

fn no_way(endpoint: &Endpoint, error: TransportError) -> PeerError {
    let address = Box::new(endpoint.address.clone());
    match error {
        TransportError::Io(error) if is_no_tls(&error) => PeerError::NotTls(address),
        TransportError::Foreign(owner) => PeerError::Foreign { address, owner },
        TransportError::NotTrusted(source) => PeerError::NotTrusted { address, source },
        TransportError::Setup(why) => PeerError::Setup(why),
        TransportError::Io(_) => PeerError::Unreachable {
            address,
            source: ConnectionFailure::Transport(error),
            is_local_broker: endpoint.is_local_broker,
        },
    }
}

/// Whether the first bytes that came are no TLS record.
fn is_no_tls(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// Brokers refuse a login by a protocol error; old ones close the socket.
fn explain(endpoint: &Endpoint, error: lapin::Error) -> PeerError {
    let address = Box::new(endpoint.address.clone());
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => {
            let why = refusal.get_message().to_string();
            let refused = match refusal.get_id() {
                ACCESS_REFUSED => refused_login(endpoint),
                // If a limit of the vhost is reached, another vhost need not be suggested.
                NOT_ALLOWED if !why.contains("limit") => RefusedSignIn::Vhost,
                _ => RefusedSignIn::Other,
            };
            PeerError::SignInRefused {
                address,
                source: BrokerText::from(why).into(),
                refused,
            }
        }
        ErrorKind::AuthProviderError(_) => PeerError::SignInRefused {
            address,
            source: SignInFailure::Proof(error),
            refused: refused_login(endpoint),
        },
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            PeerError::NotAmqp(address)
        }
        _ => match unreadable_frame(&error) {
            Some(source) => PeerError::Unreadable { address, source },
            None => PeerError::Unreachable {
                address,
                source: error.into(),
                is_local_broker: endpoint.is_local_broker,
            },
        },
    }
}

fn unreadable_frame(error: &lapin::Error) -> Option<UnreadableFrame> {
    match error.kind() {
        ErrorKind::IOError(error) => error.get_ref()?.downcast_ref().copied(),
        _ => None,
    }
}

/// Whose user and password were refused.
fn refused_login(endpoint: &Endpoint) -> RefusedSignIn {
    if endpoint.guard.is_secret() {
        RefusedSignIn::StoredLogin
    } else if endpoint.address.user.is_none() {
        RefusedSignIn::Guest
    } else {
        RefusedSignIn::GivenLogin
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::sync::{Arc, Mutex as Shared};

    use broker::{Broker, BrokerConfig, FirstUser};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::config::{Environment, Home, LoginGuard};
    use crate::transport::Duplex;

    const PASSWORD: &str = "a password of 192 bits";

    /// Our own broker at a port and a Unix socket.
    async fn broker(folder: &std::path::Path) -> (Broker, u16) {
        let config = BrokerConfig {
            port: 0,
            data_dir: folder.join("data"),
            management_port: None,
            unix_socket: Some(folder.join("broker.sock")),
            first_user: Some(FirstUser {
                name: "ada".into(),
                password: PASSWORD.into(),
            }),
            ..BrokerConfig::default()
        };
        let broker = Broker::start(config).await.unwrap();
        let port = broker.addresses().amqp.port();
        (broker, port)
    }

    /// Everything that goes to the broker is kept.
    fn overheard(mut broker: impl Duplex, heard: Arc<Shared<Vec<u8>>>) -> Stream {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let (mut up, mut down) = ([0; 4096], [0; 4096]);
            loop {
                tokio::select! {
                    Ok(count) = theirs.read(&mut up) => {
                        heard.lock().unwrap().extend(&up[..count]);
                        if count == 0 || broker.write_all(&up[..count]).await.is_err() {
                            return;
                        }
                    }
                    Ok(count) = broker.read(&mut down) => {
                        if count == 0 || theirs.write_all(&down[..count]).await.is_err() {
                            return;
                        }
                    }
                    else => return,
                }
            }
        });
        Box::new(ours)
    }

    async fn signed_in(
        stream: impl Duplex,
        (port, password): (u16, &str),
        listener: ListenerIdentity,
    ) -> (Result<(), PeerError>, bool) {
        // Nothing is stored there, so the login is that of the endpoint.
        let nowhere = Environment::from_iter([("CBROKER_HOME", "/nonexistent")]);
        let endpoint = Endpoint {
            address: Address::local(port),
            login: Login {
                user: "ada".into(),
                password: password.into(),
            },
            ca_cert: None,
            guard: LoginGuard::Stored {
                home: Home::of(&nowhere).unwrap(),
                has_sockets: false,
            },
            is_local_broker: true,
        };
        let heard = Arc::default();
        let link = BrokerStream {
            stream: overheard(stream, Arc::clone(&heard)),
            listener,
            is_socket: false,
        };
        let result = match sign_in(&endpoint, "test", link).await {
            Ok((connection, user)) => {
                assert_eq!(user, "ada");
                let channel = connection.create_channel().await;
                assert!(channel.is_ok(), "signed in, and it works: {channel:?}");
                Ok(())
            }
            Err(error) => Err(error),
        };
        let heard = heard.lock().unwrap();
        let was_sent = heard
            .windows(password.len())
            .any(|part| part == password.as_bytes());
        (result, was_sent)
    }

    /// A method on channel 0.
    fn method(class: u16, id: u16, arguments: &[u8]) -> Vec<u8> {
        let length = u32::try_from(arguments.len() + 4).unwrap().to_be_bytes();
        let head = [class.to_be_bytes(), id.to_be_bytes()].concat();
        [&[1, 0, 0], &length[..], &head, arguments, &[0xCE]].concat()
    }

    fn long(text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&length[..], text.as_bytes()].concat()
    }

    /// Lets everybody in, and proves nothing.
    async fn pretend(mut client: impl Duplex, asks: bool) {
        let start = [vec![0, 9, 0, 0, 0, 0], long("SCRAM-SHA-256"), long("en_US")].concat();
        let tune = [0, 1, 0, 0, 0x20, 0, 0, 20];
        let (mut heard, mut part) = (Vec::new(), [0; 4096]);
        let mut steps = vec![method(10, 10, &start)];
        if asks {
            steps.push(Vec::new());
        }
        steps.extend([
            method(10, 30, &tune),
            method(10, 41, &[0]),
            method(20, 11, &[0; 4]),
        ]);
        for mut step in steps {
            let count = client.read(&mut part).await.unwrap_or(0);
            heard.extend(&part[..count]);
            if step.is_empty() {
                let text = String::from_utf8_lossy(&heard).into_owned();
                let nonce = text.split_once(",r=").unwrap().1.get(..24).unwrap();
                let salt = "W22ZaJ0SNY7soEsUEjb6gQ==";
                let challenge = format!("r={nonce}more,s={salt},i=4096");
                step = method(10, 20, &long(&challenge));
            }
            if count == 0 || client.write_all(&step).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_listener_that_lets_us_in_without_a_proof_is_left() {
        for asks in [false, true] {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let pretending = tokio::spawn(pretend(theirs, asks));
            let (result, was_sent) =
                signed_in(ours, (1, PASSWORD), ListenerIdentity::Unknown).await;
            let is_left = matches!(result, Err(PeerError::SignInRefused { .. }));
            assert!(is_left, "{result:?}");
            assert!(!was_sent);
            pretending.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_listener_that_nobody_proves_gets_no_password_and_our_own_broker_lets_us_in() {
        let folder = tempfile::tempdir().unwrap();
        let (broker, port) = broker(folder.path()).await;
        let tcp = async || TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let unix = async || {
            UnixStream::connect(folder.path().join("broker.sock"))
                .await
                .unwrap()
        };
        let right = (port, PASSWORD);
        for (result, was_sent) in [
            signed_in(tcp().await, right, ListenerIdentity::Unknown).await,
            signed_in(unix().await, right, ListenerIdentity::Unknown).await,
        ] {
            assert!(result.is_ok() && !was_sent, "{result:?} {was_sent}");
        }
        for (result, was_sent) in [
            signed_in(
                tcp().await,
                (port, "a wrong one"),
                ListenerIdentity::Unknown,
            )
            .await,
            signed_in(
                unix().await,
                (port, "a wrong one"),
                ListenerIdentity::Unknown,
            )
            .await,
        ] {
            assert!(
                matches!(result, Err(PeerError::SignInRefused { .. })),
                "{result:?}"
            );
            assert!(!was_sent);
        }
        let (result, was_sent) = signed_in(tcp().await, right, ListenerIdentity::Proven).await;
        assert!(
            result.is_ok() && was_sent,
            "a proven one is sent it: {result:?} {was_sent}"
        );
        broker.shutdown().await.unwrap();
    }
}
