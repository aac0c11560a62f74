//! Connects a command to its broker, and starts the local broker if allowed.

use std::time::Instant;

use super::start;
use crate::config::{Config, Endpoint};
use crate::error::Error;
use crate::name::SessionName;
use crate::output::Output;
use crate::peer::{Peer, PeerError};

/// Whether a command may start the local broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Autostart {
    /// Wraps, `send` and `ask`, without `--no-start`.
    Allowed,
    /// All other commands.
    Never,
}

impl Autostart {
    /// From the flag `--no-start`.
    pub(super) fn unless(no_start: bool) -> Self {
        if no_start { Self::Never } else { Self::Allowed }
    }
}

/// Connects to the broker. Starts the local broker first if it is needed and allowed.
pub(super) async fn peer(
    config: &Config,
    purpose: &str,
    autostart: Autostart,
    output: &Output,
) -> Result<Peer, Error> {
    let (peer, _) = peer_and_config(config, purpose, autostart, output).await?;
    Ok(peer)
}

/// Like [`peer`], with the configuration for that broker: one that was just started may have other
/// ports.
pub(super) async fn peer_and_config(
    config: &Config,
    purpose: &str,
    autostart: Autostart,
    output: &Output,
) -> Result<(Peer, Config), Error> {
    match connect(&config.endpoint, purpose, output).await {
        Err(PeerError::Unreachable { .. }) if may_start(config, autostart) => {
            let started = start::quietly(config, output).await?;
            let peer = connect(&started.endpoint, purpose, output).await?;
            Ok((peer, started))
        }
        other => Ok((other?, config.clone())),
    }
}

/// Fails if the broker does not answer, for a command whose management API does not: without a
/// broker there is none, so the error is about the broker.
pub(super) async fn require_broker(config: &Config, purpose: &str) -> Result<(), Error> {
    Peer::connect(&config.endpoint, purpose)
        .await?
        .close()
        .await;
    Ok(())
}

/// Deletes a queue of answers, which every exit must do. A connection that has published can be
/// blocked by the broker; then a new connection, which has published nothing, deletes it.
pub(super) async fn delete_answers(peer: &mut Peer, config: &Config, queue: &SessionName) {
    let Err(PeerError::Blocked(_)) = peer.delete(queue).await else {
        return;
    };
    if let Ok(mut other) = Peer::connect(&config.endpoint, "clearing up").await {
        let _ = other.delete(queue).await;
        other.close().await;
    }
}

async fn connect(endpoint: &Endpoint, purpose: &str, output: &Output) -> Result<Peer, PeerError> {
    let began = Instant::now();
    let peer = Peer::connect(endpoint, purpose).await?;
    output.detail(format!(
        "connected to {} as {} in {} ms",
        endpoint.address,
        endpoint.login.user,
        began.elapsed().as_millis()
    ));
    Ok(peer)
}

/// Whether the command may start the broker, the user named no broker, and the configuration allows
/// it.
pub(super) fn may_start(config: &Config, autostart: Autostart) -> bool {
    autostart == Autostart::Allowed && !config.names_a_broker() && config.settings.autostart
}
