//! Opening a connection: transport, login, heartbeat, and the name under which the broker shows it.

use std::time::Duration;

use async_compat::CompatExt;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use tokio::sync::Mutex;

use super::scram::Scram;
use super::{PeerError, runtime};
use crate::config::{Address, Endpoint, Login, Scheme};
use crate::transport::{self, Link, Proof, TransportError};

/// The smallest that every broker accepts. The client keeps buffers of 64 frames for as long as a session lives: at the
/// usual 128 KiB they would be 8 MiB.
const FRAME_BYTES: u32 = 8192;

/// Half-open connections are noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 20;

/// Connects and signs in; gives the user's name too.
pub(super) async fn open(
    endpoint: &Endpoint,
    purpose: &str,
    within: Duration,
) -> Result<(Connection, String), PeerError> {
    let connecting = async {
        let link = transport::open(&endpoint.route())
            .await
            .map_err(|error| no_way(&endpoint.address, error))?;
        sign_in(endpoint, purpose, link).await
    };
    match tokio::time::timeout(within, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(PeerError::Unreachable {
            address: Box::new(endpoint.address.clone()),
            why: format!("no answer within {} s", within.as_secs()),
        }),
    }
}

async fn sign_in(
    endpoint: &Endpoint,
    purpose: &str,
    link: Link,
) -> Result<(Connection, String), PeerError> {
    let mut properties = ConnectionProperties::default()
        .with_connection_name(format!("cbroker {purpose}").into())
        .with_client_property("product".into(), "cbroker".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    // Read again at every connect: it may have been changed since.
    let mut login = endpoint.login_now();
    if link.proof == Proof::Unknown {
        let scram = Scram::new(&login)
            .ok_or_else(|| PeerError::Setup("the system has no random numbers".into()))?;
        properties = properties.with_auth_provider(scram);
        login.password.clear();
    }
    let stream = Mutex::new(Some(link.stream));
    let connector = async move |_uri, _runtime| match stream.lock().await.take() {
        Some(stream) => Ok(AsyncTcpStream::Plain(stream.compat())),
        // One stream, one attempt: whoever wants another connects anew.
        None => Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into()),
    };
    let user = login.user.clone();
    let uri = uri(&endpoint.address, login);
    let connected = Connection::connector(uri, runtime::current(), connector, properties).await;
    match connected {
        Ok(connection) => Ok((connection, user)),
        Err(error) => Err(explain(&endpoint.address, &error)),
    }
}

fn uri(address: &Address, login: Login) -> AMQPUri {
    AMQPUri {
        scheme: match address.scheme {
            Scheme::Amqp => AMQPScheme::AMQP,
            Scheme::Amqps => AMQPScheme::AMQPS,
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

fn no_way(address: &Address, error: TransportError) -> PeerError {
    let address = Box::new(address.clone());
    match error {
        TransportError::Foreign(owner) => PeerError::Foreign {
            address,
            owner: owner.to_string(),
        },
        TransportError::NotTrusted(why) => PeerError::NotTrusted { address, why },
        TransportError::Setup(why) => PeerError::Setup(why),
        TransportError::Io(_) => PeerError::Unreachable {
            address,
            why: error.to_string(),
        },
    }
}

/// The broker's refusals of a login come as protocol errors, or as a closed socket from brokers of the old manners.
fn explain(address: &Address, error: &lapin::Error) -> PeerError {
    let address = Box::new(address.clone());
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => PeerError::SignInRefused {
            address,
            why: refusal.get_message().to_string(),
        },
        ErrorKind::AuthProviderError(why) => PeerError::SignInRefused {
            address,
            why: why.clone(),
        },
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            PeerError::NotAmqp(address)
        }
        ErrorKind::IOError(error) => PeerError::Unreachable {
            address,
            why: transport::in_words(error),
        },
        _ => PeerError::Unreachable {
            address,
            why: error.to_string(),
        },
    }
}
