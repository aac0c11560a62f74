//! Which local broker there is: the embedded one, a container, or none, and how it is.
//!
//! `start`, `stop`, `restart`, `status` and `logs` act on whichever of them runs.

use std::time::Duration;

use crate::config::{Config, Kind, LocalBroker};
use crate::container::{Engine, State};
use crate::daemon::{self, Process};
use crate::error::Error;
use crate::management::Client;

const API_WITHIN: Duration = Duration::from_secs(3);

/// The local broker as it is now.
pub(super) enum Local {
    /// A `serve` process.
    Embedded(LocalBroker, Process),
    /// The container; it may be stopped.
    Container(Engine, State),
    /// Neither.
    Nothing,
}

/// Looks at the embedded broker first: a look at Docker costs more.
pub(super) async fn look(config: &Config) -> Result<Local, Error> {
    if let Some((local, process)) = daemon::running(&config.home) {
        return Ok(Local::Embedded(local, process));
    }
    let is_expected = matches!(
        &config.local,
        Some(LocalBroker {
            kind: Kind::Container { .. },
            ..
        })
    );
    if !is_expected && !Engine::may_exist(&config.environment) {
        return Ok(Local::Nothing);
    }
    let seen = async {
        let engine = Engine::new(&config.environment)?;
        let state = engine.state().await?;
        Ok(state.map(|state| Local::Container(engine, state)))
    };
    match seen.await {
        Ok(Some(container)) => Ok(container),
        // An engine that does not answer matters only where our broker should be in it.
        Err(error) if is_expected => Err(error),
        Ok(None) | Err(_) => Ok(Local::Nothing),
    }
}

/// Why the broker lets publishers wait; `None` also where its management API does not answer.
pub(super) async fn alarm(config: &Config) -> Option<&'static str> {
    Client::new(config, API_WITHIN).ok()?.alarm().await.ok()?
}

/// Fails where the user named a broker that is not ours to start or stop.
pub(super) fn is_ours(config: &Config) -> Result<(), Error> {
    if config.names_a_broker() && !config.endpoint.address.is_local() {
        return Err(
            Error::usage("this acts on the local broker only").because(format!(
                "{} is not on this machine",
                config.endpoint.address
            )),
        );
    }
    Ok(())
}
