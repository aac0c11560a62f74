//! Finds the local broker: the embedded one, a container, or none.
//!
//! `start`, `stop`, `restart`, `status` and `logs` act on the one that exists.

use std::time::Duration;

use crate::config::{BrokerKind, Config, LocalBroker};
use crate::container::{ContainerState, DockerEngine};
use crate::daemon::{self, RunningProcess};
use crate::error::Error;
use crate::management::Client;
use crate::output::Output;

const API_WITHIN: Duration = Duration::from_secs(3);

/// What the local broker runs as.
pub(super) enum RunsAs {
    /// A `serve` process.
    Embedded(LocalBroker, RunningProcess),
    /// The container, which may be stopped.
    Container(DockerEngine, ContainerState),
    /// There is no local broker.
    Nothing,
}

/// Finds the local broker. The embedded one is checked first, because asking Docker takes longer.
pub(super) async fn find(config: &Config) -> Result<RunsAs, Error> {
    if let Some((local, process)) = daemon::running(&config.home) {
        return Ok(RunsAs::Embedded(local, process));
    }
    let is_expected = matches!(
        &config.local,
        Some(LocalBroker {
            kind: BrokerKind::Container { .. },
            ..
        })
    );
    if !is_expected && !DockerEngine::may_exist(&config.environment) {
        return Ok(RunsAs::Nothing);
    }
    let seen = async {
        let engine = DockerEngine::new(&config.environment)?;
        let state = engine.state().await?;
        Ok(state.map(|state| RunsAs::Container(engine, state)))
    };
    match seen.await {
        Ok(Some(container)) => Ok(container),
        // An engine that does not answer is an error only if our broker should run in it.
        Err(error) if is_expected => Err(error),
        Ok(None) | Err(_) => Ok(RunsAs::Nothing),
    }
}

/// The configuration with a container as the local broker that was started under cbroker's name by
/// other means, as docker compose does. It applies if no broker was chosen yet.
pub(super) async fn adopt_container(config: &Config, output: &Output) -> Config {
    let is_open = !config.names_a_broker() && LocalBroker::read(&config.home).is_none();
    if !is_open || !DockerEngine::may_exist(&config.environment) {
        return config.clone();
    }
    let looking = async { DockerEngine::new(&config.environment)?.state().await };
    // An engine that does not answer has no such container.
    let seen = tokio::time::timeout(API_WITHIN, looking).await;
    let Ok(Ok(Some(state))) = seen else {
        return config.clone();
    };
    // A store of the embedded broker means that the embedded one was chosen once.
    if !state.is_running && config.home.data().exists() {
        return config.clone();
    }
    let adopted = state.local.write(&config.home).ok();
    let Some(adopted) = adopted.and_then(|()| config.again().ok()) else {
        return config.clone();
    };
    output.notice(format!(
        "the local broker is the container {} on port {}; its user is {}",
        crate::container::CONTAINER,
        state.local.port,
        adopted.endpoint.login.user
    ));
    adopted
}

/// Returns why the broker blocks publishers. `None` if it does not, or if its management API does
/// not answer.
pub(super) async fn alarm(config: &Config) -> Option<&'static str> {
    Client::new(config, API_WITHIN).ok()?.alarm().await.ok()?
}

/// Fails if the user named a broker on another machine, which is not ours to start or stop.
pub(super) fn is_ours(config: &Config) -> Result<(), Error> {
    if config.names_a_broker() && !config.endpoint.address.is_local() {
        return Err(
            Error::usage("this command acts on the local broker only").caused_by(format!(
                "{} is not on this machine",
                config.endpoint.address
            )),
        );
    }
    Ok(())
}
