//! `cbroker start`: the embedded broker in the background, or LavinMQ in a container.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::local::{self, RunsAs};
use crate::cli::{IMAGE, StartArgs};
use crate::config::{BrokerKind, Config, Credentials, LocalBroker};
use crate::container::{self, ContainerPlan, ContainerState, DockerEngine};
use crate::daemon::{self, RequestedSettings, StartLock, StartedBroker};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::{Client, ManagementError};
use crate::output::{Output, Style};
use crate::peer::{Peer, PeerError};

const LOOK_AGAIN: Duration = Duration::from_millis(250);
const API_WITHIN: Duration = Duration::from_secs(3);
const API_OPENS_WITHIN: Duration = Duration::from_secs(5);

/// Starts the requested broker unless it runs, waits until it answers, and prints its address.
pub(super) async fn run(args: StartArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    let StartedBroker { local, was_running } = if args.docker {
        start_container(&args, config, output).await?
    } else if let Some(started) = container_as_before(config).await? {
        refuse_other_ports(&started.local, &args)?;
        started
    } else {
        refuse_beside_container(config).await?;
        let requested = RequestedSettings {
            amqp: args.port,
            management: args.mgmt_port,
            arguments: args.serve_arguments.clone(),
        };
        daemon::start(config, requested).await?
    };
    print_started(&local, was_running, output)?;
    warn_of_alarm(config, output).await?;
    Ok(Exit::Done)
}

/// Warns about a broker that runs but accepts no messages, such as one with a full disk.
async fn warn_of_alarm(config: &Config, output: &Output) -> Result<(), Error> {
    match local::alarm(&config.again()?).await {
        Some("low on disk") => output
            .notice("the disk is nearly full: publishers are blocked until there is free space"),
        Some(alarm) => output.notice(format!("the broker is {alarm}: publishers are blocked")),
        None => {}
    }
    Ok(())
}

/// Starts the broker for a command that needs one, the one that was chosen last, and prints a
/// notice. Returns the configuration that leads to it.
pub(super) async fn quietly(config: &Config, output: &Output) -> Result<Config, Error> {
    let started = chosen(config).await?;
    if !started.was_running {
        output.notice(started_quietly(&started.local));
    }
    config.again()
}

/// Starts the broker that was chosen last: a container is never replaced by an embedded broker,
/// which would not have its messages.
pub(super) async fn chosen(config: &Config) -> Result<StartedBroker, Error> {
    match container_as_before(config).await? {
        Some(started) => Ok(started),
        None => daemon::start(config, RequestedSettings::default()).await,
    }
}

/// The notice about a broker that a command has started.
pub(super) fn started_quietly(local: &LocalBroker) -> String {
    let port = local.port;
    match &local.kind {
        BrokerKind::Embedded { .. } => {
            format!("no broker answered; started one on port {port} (`cbroker stop` ends it)")
        }
        BrokerKind::Container { name } => format!(
            "no broker answered; started the container {name}, which has port {port} (`cbroker \
             stop` ends it)"
        ),
    }
}

/// Starts the container if the local broker was one.
async fn container_as_before(config: &Config) -> Result<Option<StartedBroker>, Error> {
    match LocalBroker::read(&config.home).map(|local| local.kind) {
        Some(BrokerKind::Container { .. }) => {}
        _ => return Ok(None),
    }
    let _lock = StartLock::acquire(&config.home).await?;
    let started = start_again(config, GoneContainer::IsChosen).await?;
    record(&started.local, config)?;
    Ok(Some(started))
}

/// What it means that the container cannot be started.
#[derive(Clone, Copy)]
enum GoneContainer {
    /// `broker.json` says that it is the local broker.
    IsChosen,
    /// The local broker is the embedded one, and `nuke` would delete that one's data.
    IsBeside,
}

impl GoneContainer {
    fn hint(self) -> &'static str {
        match self {
            Self::IsChosen => {
                "`cbroker start --docker` creates it again; `cbroker nuke --yes` deletes its data"
            }
            Self::IsBeside => "start Docker; `docker ps -a` shows whether it has the container",
        }
    }
}

async fn start_again(config: &Config, gone: GoneContainer) -> Result<StartedBroker, Error> {
    let absent = |error: Error| {
        let name = container::CONTAINER;
        Error::new(format!(
            "the broker in the container {name} cannot be started"
        ))
        .caused_by(error.summary())
        .with_hint(gone.hint())
        .exit_with(Exit::Unreachable)
    };
    let engine = DockerEngine::new(&config.environment).map_err(absent)?;
    let there = engine.state().await.map_err(absent)?;
    let was_running = there.as_ref().is_some_and(|state| state.is_running);
    let local = engine.start_again(there).await.map_err(absent)?.local;
    wait_for_amqp(&config.for_local(&local)?).await?;
    Ok(StartedBroker { local, was_running })
}

/// Starts the container that there is, beside an embedded broker. `broker.json` stays as it is.
pub(super) async fn existing_container(config: &Config) -> Result<LocalBroker, Error> {
    let gone = match LocalBroker::read(&config.home).map(|local| local.kind) {
        Some(BrokerKind::Container { .. }) => GoneContainer::IsChosen,
        _ => GoneContainer::IsBeside,
    };
    Ok(start_again(config, gone).await?.local)
}

/// Starts the container, or makes one on free ports, beside an embedded broker. `broker.json` stays
/// as it is.
pub(super) async fn container(config: &Config, output: &Output) -> Result<LocalBroker, Error> {
    let engine = DockerEngine::new(&config.environment)?;
    let login = Credentials::read_or_create(&config.home);
    let login =
        login.map_err(|error| Error::new("cannot write the credentials").caused_by(error))?;
    let plan = ContainerPlan {
        image: IMAGE.to_owned(),
        port: daemon::free_port_near(5672),
        management_port: daemon::free_port_near(15672),
        login: Some(login),
    };
    let local = start_showing(&engine, &plan, output).await?.local;
    wait_for_amqp(&config.for_local(&local)?).await?;
    Ok(local)
}

/// Starts the container, or makes it, and shows the progress of a pull.
async fn start_showing(
    engine: &DockerEngine,
    plan: &ContainerPlan,
    output: &Output,
) -> Result<ContainerState, Error> {
    let mut progress = ProgressLine::new(output);
    engine.start(plan, |line| progress.show(&line)).await
}

/// Makes it the local broker.
pub(super) fn record(local: &LocalBroker, config: &Config) -> Result<(), Error> {
    let written = local.write(&config.home);
    written.map_err(|error| Error::new("cannot write broker.json").caused_by(error))
}

fn refuse_other_ports(local: &LocalBroker, args: &StartArgs) -> Result<(), Error> {
    let differs = |wanted: Option<u16>, live| wanted.is_some_and(|port| Some(port) != live);
    let embedded_only = !args.serve_arguments.is_empty();
    let is_other = differs(args.port, Some(local.port));
    if is_other || differs(args.mgmt_port, local.management_port) || embedded_only {
        return Err(Error::new(format!(
            "the local broker is the container {}, on port {}",
            container::CONTAINER,
            local.port
        ))
        .with_hint("`cbroker move --from docker` takes its messages to the embedded broker"));
    }
    Ok(())
}

async fn refuse_beside_container(config: &Config) -> Result<(), Error> {
    match local::find(config).await? {
        RunsAs::Container(_, state) if state.is_running => Err(Error::new(format!(
            "LavinMQ already runs in the container {}",
            container::CONTAINER
        ))
        .with_hint("`cbroker stop` first; `cbroker move --from docker` takes its messages along")),
        _ => Ok(()),
    }
}

async fn start_container(
    args: &StartArgs,
    config: &Config,
    output: &Output,
) -> Result<StartedBroker, Error> {
    let _lock = StartLock::acquire(&config.home).await?;
    if let Some((local, _)) = daemon::running(&config.home) {
        return Err(Error::new(format!(
            "the embedded broker already runs, on port {}",
            local.port
        ))
        .with_hint(
            "`cbroker stop` first, or `cbroker move --to docker`, which takes its messages along",
        ));
    }
    let engine = DockerEngine::new(&config.environment)?;
    let before = engine.state().await?;
    let was_running = before.as_ref().is_some_and(|state| state.is_running);
    let plan = plan(args, config)?;
    if before.is_none() {
        for (port, option) in [(plan.port, "--port"), (plan.management_port, "--mgmt-port")] {
            if let Some(holder) = daemon::in_use(port) {
                return Err(Error::new(format!("port {port} is in use"))
                    .caused_by(holder)
                    .with_hint(format!("choose another with {option}")));
            }
        }
    }
    let state = start_showing(&engine, &plan, output).await?;
    record(&state.local, config)?;
    wait_for_amqp(&config.again()?).await?;
    Ok(StartedBroker {
        local: state.local,
        was_running,
    })
}

fn plan(args: &StartArgs, config: &Config) -> Result<ContainerPlan, Error> {
    let login = if args.guest {
        None
    } else {
        let made = Credentials::read_or_create(&config.home);
        Some(made.map_err(|error| Error::new("cannot write the credentials").caused_by(error))?)
    };
    Ok(ContainerPlan {
        image: args.image.clone(),
        port: args.port.unwrap_or(5672),
        management_port: args.mgmt_port.unwrap_or(15672),
        login,
    })
}

/// Waits until the broker speaks AMQP, and then for its management API. A container accepts TCP
/// connections long before that.
async fn wait_for_amqp(config: &Config) -> Result<(), Error> {
    let endpoint = &config.endpoint;
    let until = Instant::now() + container::READY_WITHIN;
    loop {
        match Peer::connect(endpoint, "start").await {
            Ok(peer) => {
                peer.close().await;
                return wait_for_api(config).await;
            }
            Err(PeerError::SignInRefused { source, .. }) => {
                return Err(Error::new("the container's broker refused our login")
                    .caused_by(source)
                    .with_hint(
                        "its volume was created with another user: `cbroker nuke --yes` deletes \
                         it, or use --url with that user",
                    )
                    .exit_with(Exit::Unreachable));
            }
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Waits a little for the management API, which opens soon after AMQP. A broker without one is no
/// failure.
async fn wait_for_api(config: &Config) -> Result<(), Error> {
    let until = Instant::now() + API_OPENS_WITHIN;
    let api = Client::new(config, API_WITHIN)?;
    while let Err(ManagementError::Unreachable { .. }) = api.overview().await {
        if Instant::now() > until {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Shows progress on one line, which each step overwrites and the end clears. Without a terminal
/// nothing is shown, because it would only fill a log.
struct ProgressLine {
    is_wanted: bool,
    is_shown: bool,
}

impl ProgressLine {
    fn new(output: &Output) -> Self {
        Self {
            is_wanted: !output.is_json() && std::io::stderr().is_terminal(),
            is_shown: false,
        }
    }

    fn show(&mut self, line: &str) {
        if self.is_wanted {
            let line = crate::clean::line(line);
            let _ = write!(std::io::stderr(), "\r\u{1b}[K{line}");
            self.is_shown = true;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

fn print_started(local: &LocalBroker, was_running: bool, output: &Output) -> Result<(), Error> {
    let url = local.address();
    let page = local
        .management_port
        .map(|port| format!("http://{}", SocketAddr::new(local.host, port)));
    output
        .json(&json!({ "url": url.to_string(), "mgmt_url": page, "was_running": was_running }))?;
    let word = if was_running {
        "already runs"
    } else {
        "started"
    };
    let at = page.map_or_else(String::new, |page| format!(", management page at {page}"));
    output.line(format!(
        "{} at {url}{at}",
        output.paint(Style::Good, &format!("broker {word}"))
    ))
}
