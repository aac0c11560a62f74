//! `cbroker start`: the embedded broker in the background, or LavinMQ in a container.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::local::{self, RunsAs};
use crate::cli::StartArgs;
use crate::config::{Config, Credentials, LocalBroker};
use crate::container::{self, ContainerPlan, DockerEngine};
use crate::daemon::{self, Lock, Wishes};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style};
use crate::peer::{Peer, PeerError};

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Starts the requested broker unless it runs, waits until it answers, and prints its address.
pub(super) async fn run(args: StartArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    let (local, was_running) = if args.docker {
        start_container(&args, config, output).await?
    } else {
        refuse_beside_container(config).await?;
        let started = daemon::start(
            config,
            Wishes {
                amqp: args.port,
                management: args.mgmt_port,
                arguments: args.serve_arguments.clone(),
            },
        )
        .await?;
        (started.local, started.was_running)
    };
    tell(&local, was_running, output)?;
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

async fn refuse_beside_container(config: &Config) -> Result<(), Error> {
    match local::look(config).await? {
        RunsAs::Container(_, state) if state.is_running => Err(Error::new(format!(
            "LavinMQ already runs in the container {}",
            container::CONTAINER
        ))
        .hint("`cbroker stop` first; `cbroker move` moves its messages to another broker")),
        _ => Ok(()),
    }
}

async fn start_container(
    args: &StartArgs,
    config: &Config,
    output: &Output,
) -> Result<(LocalBroker, bool), Error> {
    let _lock = Lock::take(&config.home).await?;
    if let Some((local, _)) = daemon::running(&config.home) {
        return Err(Error::new(format!(
            "the embedded broker already runs, on port {}",
            local.port
        ))
        .hint("`cbroker stop` first; `cbroker move` moves its messages to another broker"));
    }
    let engine = DockerEngine::new(&config.environment)?;
    let before = engine.state().await?;
    let was_running = before.as_ref().is_some_and(|state| state.is_running);
    let plan = plan(args, config)?;
    if before.is_none() {
        for (port, option) in [(plan.port, "--port"), (plan.management_port, "--mgmt-port")] {
            if let Some(holder) = daemon::in_use(port) {
                return Err(Error::new(format!("port {port} is in use"))
                    .because(holder)
                    .hint(format!("choose another with {option}")));
            }
        }
    }
    let state = engine
        .start(&plan, |line| show_progress(&line, output))
        .await?;
    state
        .local
        .write(&config.home)
        .map_err(|error| Error::new("cannot write broker.json").because(error))?;
    wait_for_amqp(config).await?;
    Ok((state.local, was_running))
}

fn plan(args: &StartArgs, config: &Config) -> Result<ContainerPlan, Error> {
    let login = if args.guest {
        None
    } else {
        let made = Credentials::read_or_create(&config.home);
        Some(made.map_err(|error| Error::new("cannot write the credentials").because(error))?)
    };
    Ok(ContainerPlan {
        image: args.image.clone(),
        port: args.port.unwrap_or(5672),
        management_port: args.mgmt_port.unwrap_or(15672),
        login,
    })
}

/// Waits until the broker speaks AMQP. A container accepts TCP connections long before that.
async fn wait_for_amqp(config: &Config) -> Result<(), Error> {
    let endpoint = config.again()?.endpoint;
    let until = Instant::now() + container::READY_WITHIN;
    loop {
        match Peer::connect(&endpoint, "start").await {
            Ok(peer) => {
                peer.close().await;
                return Ok(());
            }
            Err(PeerError::SignInRefused { why, .. }) => {
                return Err(Error::new("the container's broker refused our login")
                    .because(why)
                    .hint(
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

/// Shows progress on one line that is overwritten. Without a terminal nothing is shown, because it
/// would only fill a log.
fn show_progress(line: &str, output: &Output) {
    if !output.is_json() && std::io::stderr().is_terminal() {
        let line = crate::clean::line(line);
        let _ = write!(std::io::stderr(), "\r\u{1b}[K{line}");
    }
}

fn tell(local: &LocalBroker, was_running: bool, output: &Output) -> Result<(), Error> {
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
