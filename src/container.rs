//! LavinMQ in Docker: the container `cbroker-lavinmq` with its data in the volume `cbroker-data`.
//!
//! A container made by `docker compose -f compose/lavinmq.compose.yml up` has the same name and
//! volume and is treated the same. Its default user is the stored one, set by a salted hash of the
//! stored password. `--guest` keeps the user guest.

mod pull;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};

use crate::config::{BrokerKind, Environment, LocalBroker, Login};
use crate::error::Error;
use crate::exit::Exit;

/// The container's name.
pub const CONTAINER: &str = "cbroker-lavinmq";
/// The volume's name.
pub const VOLUME: &str = "cbroker-data";

const SOCKET: &str = "/var/run/docker.sock";
const DATA: &str = "/var/lib/lavinmq";
const AMQP: &str = "5672/tcp";
const MANAGEMENT: &str = "15672/tcp";
const TIMEOUT_SECONDS: u64 = 120;
const USER_VARIABLE: &str = "LAVINMQ_DEFAULT_USER";
const HASH_VARIABLE: &str = "LAVINMQ_DEFAULT_PASSWORD";

/// A Docker engine.
pub struct DockerEngine {
    docker: Docker,
}

/// The parameters of a new container.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// The image to run.
    pub image: String,
    /// The AMQP port on loopback.
    pub port: u16,
    /// The management port on loopback.
    pub management_port: u16,
    /// The default user for LavinMQ; `None` keeps guest.
    pub login: Option<Login>,
}

/// The container as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether it runs.
    pub is_running: bool,
    /// The local broker in it, with its ports if they are known.
    pub local: LocalBroker,
    /// The image that it was created from.
    pub image: String,
}

impl DockerEngine {
    /// Selects the engine that `DOCKER_HOST` names, or the default socket. Does not connect.
    pub fn new(environment: &Environment) -> Result<Self, Error> {
        let socket = match environment.text("DOCKER_HOST") {
            Some(host) if !host.starts_with("unix://") => {
                return Err(Error::new("docker is not available")
                    .caused_by(format!(
                        "DOCKER_HOST is {host}, and only unix:// is supported"
                    ))
                    .with_hint("use the embedded broker: `cbroker start`"));
            }
            Some(socket) => socket,
            None => SOCKET,
        };
        let docker = Docker::connect_with_unix(socket, TIMEOUT_SECONDS, API_DEFAULT_VERSION);
        Ok(Self {
            docker: docker.map_err(unavailable)?,
        })
    }

    /// Whether there may be an engine. A cheap check before a request that would only fail.
    pub fn may_exist(environment: &Environment) -> bool {
        environment.get("DOCKER_HOST").is_some() || std::path::Path::new(SOCKET).exists()
    }

    /// Returns the engine's version, which shows that it answers.
    pub async fn version(&self) -> Result<String, Error> {
        let version = self.docker.version().await.map_err(unavailable)?;
        Ok(version.version.unwrap_or_default())
    }

    /// Returns the container, if it exists.
    pub async fn state(&self) -> Result<Option<ContainerState>, Error> {
        match self.docker.inspect_container(CONTAINER, None).await {
            Ok(told) => Ok(Some(state(&told))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Creates and starts the container, or starts the existing one. Pulls the image if it is
    /// missing, and reports the progress.
    pub async fn start(
        &self,
        plan: &ContainerPlan,
        progress: impl FnMut(String),
    ) -> Result<ContainerState, Error> {
        match self.state().await? {
            Some(state) if state.is_running => return Ok(state),
            Some(_) => {}
            None => self.create(plan, progress).await?,
        }
        self.run_existing().await
    }

    /// Starts the container again; `there` is what [`DockerEngine::state`] said of it.
    pub async fn start_again(
        &self,
        there: Option<ContainerState>,
    ) -> Result<ContainerState, Error> {
        match there {
            None => Err(Error::new("Docker has no such container any more")),
            Some(state) if state.is_running => Ok(state),
            Some(_) => self.run_existing().await,
        }
    }

    async fn run_existing(&self) -> Result<ContainerState, Error> {
        self.docker
            .start_container(CONTAINER, None)
            .await
            .map_err(|error| failed("cannot start the container", error))?;
        let state = self.state().await?;
        state.ok_or_else(|| Error::new("the container was removed while it started"))
    }

    async fn create(
        &self,
        plan: &ContainerPlan,
        progress: impl FnMut(String),
    ) -> Result<(), Error> {
        if self.docker.inspect_image(&plan.image).await.is_err() {
            pull::pull(&self.docker, &plan.image, progress).await?;
        }
        let options = CreateContainerOptionsBuilder::default()
            .name(CONTAINER)
            .build();
        self.docker
            .create_container(Some(options), plan.body())
            .await
            .map_err(|error| failed("cannot create the container", error))?;
        Ok(())
    }

    /// Stops the container and keeps the volume.
    pub async fn stop(&self) -> Result<(), Error> {
        self.docker
            .stop_container(CONTAINER, None)
            .await
            .map_err(|error| failed("cannot stop the container", error))
    }

    /// Removes the container and the volume, if they exist.
    pub async fn remove(&self) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        match self.docker.remove_container(CONTAINER, Some(options)).await {
            Err(error) if !is_missing(&error) => {
                return Err(failed("cannot remove the container", error));
            }
            _ => {}
        }
        let options = RemoveVolumeOptionsBuilder::default().force(true).build();
        match self.docker.remove_volume(VOLUME, Some(options)).await {
            Err(error) if !is_missing(&error) => Err(failed("cannot remove the volume", error)),
            _ => Ok(()),
        }
    }

    /// Returns the last `lines` lines of the container's log, and new ones if `follow` is set.
    pub fn logs(&self, lines: usize, follow: bool) -> impl Stream<Item = Result<String, Error>> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&lines.to_string())
            .build();
        self.docker
            .logs(CONTAINER, Some(options))
            .map(|part| match part {
                Ok(part) => Ok(part.to_string()),
                Err(error) => Err(failed("cannot read the container's log", error)),
            })
    }
}

impl ContainerPlan {
    fn body(&self) -> ContainerCreateBody {
        let bound = |port: u16| {
            Some(vec![PortBinding {
                host_ip: Some("127.0.0.1".into()),
                host_port: Some(port.to_string()),
            }])
        };
        let ports = [(AMQP, self.port), (MANAGEMENT, self.management_port)];
        let host = HostConfig {
            binds: Some(vec![format!("{VOLUME}:{DATA}")]),
            port_bindings: Some(
                ports
                    .iter()
                    .map(|(inside, port)| ((*inside).to_owned(), bound(*port)))
                    .collect(),
            ),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        };
        let env = self.login.as_ref().map(|login| {
            let hash = password_hash(&login.password, salt());
            vec![
                format!("{USER_VARIABLE}={}", login.user),
                format!("{HASH_VARIABLE}={hash}"),
            ]
        });
        ContainerCreateBody {
            image: Some(self.image.clone()),
            env,
            exposed_ports: Some(
                ports
                    .iter()
                    .map(|(inside, _)| (*inside).to_owned())
                    .collect(),
            ),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }
}

/// Hashes as RabbitMQ and LavinMQ do: base64 of the salt and the SHA-256 of salt and password.
fn password_hash(password: &str, salt: [u8; 4]) -> String {
    let mut hashed = salt.to_vec();
    hashed.extend(
        Sha256::new()
            .chain_update(salt)
            .chain_update(password)
            .finalize(),
    );
    BASE64_STANDARD.encode(hashed)
}

fn salt() -> [u8; 4] {
    let mut salt = [0; 4];
    // Without randomness the salt is constant, but the password itself has 192 random bits.
    let _ = getrandom::fill(&mut salt);
    salt
}

fn state(told: &ContainerInspectResponse) -> ContainerState {
    let bindings = told
        .host_config
        .as_ref()
        .and_then(|host| host.port_bindings.clone())
        .unwrap_or_default();
    let is_guest = !told
        .config
        .as_ref()
        .and_then(|config| config.env.as_ref())
        .is_some_and(|env| env.iter().any(|line| line.starts_with(USER_VARIABLE)));
    ContainerState {
        is_running: told
            .state
            .as_ref()
            .and_then(|state| state.running)
            .unwrap_or(false),
        image: told
            .config
            .as_ref()
            .and_then(|config| config.image.clone())
            .unwrap_or_default(),
        local: LocalBroker {
            version: 1,
            kind: BrokerKind::Container {
                name: CONTAINER.into(),
            },
            host: Ipv4Addr::LOCALHOST.into(),
            port: host_port(&bindings, AMQP).unwrap_or(5672),
            management_port: host_port(&bindings, MANAGEMENT),
            guest: is_guest,
        },
    }
}

fn host_port(bindings: &HashMap<String, Option<Vec<PortBinding>>>, inside: &str) -> Option<u16> {
    bindings
        .get(inside)?
        .as_ref()?
        .first()?
        .host_port
        .as_ref()?
        .parse()
        .ok()
}

fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(
        error,
        bollard::errors::Error::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}

fn failed(what: &str, error: bollard::errors::Error) -> Error {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => {
            Error::new(what).caused_by(message)
        }
        other => Error::new(what).caused_by(other),
    }
}

fn unavailable(error: bollard::errors::Error) -> Error {
    failed("docker is not available", error)
        .with_hint("start Docker, or use the embedded broker: `cbroker start`")
        .exit_with(Exit::Failed)
}

/// How long a container may take until AMQP answers.
pub const READY_WITHIN: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_hash_is_the_one_of_the_documentation() {
        // RabbitMQ's documentation: salt 908D C60A, password test12.
        assert_eq!(
            password_hash("test12", [0x90, 0x8D, 0xC6, 0x0A]),
            "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
        );
    }

    #[test]
    fn ports_are_bound_on_loopback_only_and_no_password_is_passed_on() {
        let login = Login {
            user: "cbroker".into(),
            password: "secret".into(),
        };
        let plan = ContainerPlan {
            image: "x".into(),
            port: 1,
            management_port: 2,
            login: Some(login),
        };
        let body = serde_json::to_string(&plan.body()).unwrap();
        assert!(!body.contains("secret"));
        assert_eq!(
            body.matches("\"HostIp\":\"127.0.0.1\"").count(),
            2,
            "{body}"
        );
    }
}
