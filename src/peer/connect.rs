//! Opening a connection: address, login, TLS, heartbeat, and the name under which the broker shows it.

use std::fs;
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, ErrorKind};

use super::PeerError;
use crate::config::{Address, Endpoint, Scheme};

/// The smallest that every broker accepts. The client keeps buffers of 64 frames for as long as a session lives: at the
/// usual 128 KiB they would be 8 MiB.
const FRAME_BYTES: u32 = 8192;

/// Half-open connections are noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 20;

pub(super) async fn open(
    endpoint: &Endpoint,
    purpose: &str,
    within: Duration,
) -> Result<Connection, PeerError> {
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("cbroker {purpose}").into())
        .with_client_property("product".into(), "cbroker".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let tls = OwnedTLSConfig {
        identity: None,
        cert_chain: certificates(endpoint)?,
    };
    if endpoint.address.scheme == Scheme::Amqps {
        // Already installed is fine: all of the program uses the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let runtime = lapin::runtime::default_runtime()?;
    let connecting = Connection::connect_uri_with_config(uri(endpoint), properties, tls, runtime);
    match tokio::time::timeout(within, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(explain(&endpoint.address, &error)),
        Err(_) => Err(PeerError::Unreachable {
            address: Box::new(endpoint.address.clone()),
            why: format!("no answer within {} s", within.as_secs()),
        }),
    }
}

fn uri(endpoint: &Endpoint) -> AMQPUri {
    let address = &endpoint.address;
    AMQPUri {
        scheme: match address.scheme {
            Scheme::Amqp => AMQPScheme::AMQP,
            Scheme::Amqps => AMQPScheme::AMQPS,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: endpoint.login.user.clone(),
                password: endpoint.login.password.clone(),
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

fn certificates(endpoint: &Endpoint) -> Result<Option<String>, PeerError> {
    let Some(path) = &endpoint.ca_cert else {
        return Ok(None);
    };
    match fs::read_to_string(path) {
        Ok(pem) => Ok(Some(pem)),
        Err(error) => Err(PeerError::Setup(format!(
            "cannot read the certificates in {}: {error}",
            path.display()
        ))),
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
        ErrorKind::IOError(error) if error.to_string().contains("certificate") => {
            PeerError::NotTrusted {
                address,
                why: plain(error),
            }
        }
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            PeerError::NotAmqp(address)
        }
        ErrorKind::IOError(error) => PeerError::Unreachable {
            address,
            why: plain(error),
        },
        _ => PeerError::Unreachable {
            address,
            why: error.to_string(),
        },
    }
}

/// The system's words without its error number: `connection refused`.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
