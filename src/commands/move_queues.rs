//! `cbroker move`: moves queues and waiting messages from one broker to another.
//!
//! Each message is confirmed by the target before it is acked at the source, so at every moment at
//! least one of them has it. A queue keeps its arguments. Once it is empty, it is deleted at the
//! source. Its groups get it as a member at the target.
//!
//! `docker` stands for the container of `start --docker`, in place of a URL. Then both local
//! brokers run meanwhile, and the one that was moved to is the local broker from then on.

use std::time::Duration;

use serde::Serialize;

use super::send::CONFIRM_WITHIN;
use super::{groups, local, sessions, start};
use crate::cli::MoveArgs;
use crate::config::{Config, LocalBroker};
use crate::container::{self, DockerEngine};
use crate::daemon::{self, Wishes};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::name::SessionName;
use crate::output::{Output, counted};
use crate::peer::{DeclareArguments, MAX_LENGTH, Peer, PublishOutcome};

const API_WITHIN: Duration = Duration::from_secs(3);

/// One moved queue, as `--json` prints it.
#[derive(Debug, Serialize)]
struct MovedQueue {
    name: String,
    messages: u32,
    /// Why the queue was not deleted at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    stays: Option<String>,
}

/// In place of a URL: the container.
const DOCKER: &str = "docker";

/// Moves every session's queue and prints how many messages were moved.
pub(super) async fn run(args: MoveArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let is_docker = |side: Option<&String>| side.is_some_and(|side| side == DOCKER);
    match (is_docker(args.from.as_ref()), is_docker(args.to.as_ref())) {
        (false, false) => {
            let to = args.to.as_ref().map(|url| config.for_url(url));
            let from = args.from.as_ref().map(|url| config.for_source_url(url));
            let here = || Ok(config.clone());
            let (from, to) = (from.unwrap_or_else(here)?, to.unwrap_or_else(here)?);
            move_all(&from, &to, output).await?;
        }
        (false, true) if args.from.is_none() => into_docker(config, output).await?,
        (true, false) if args.to.is_none() => out_of_docker(config, output).await?,
        _ => {
            return Err(
                Error::usage("`docker` is moved from or to the embedded broker alone")
                    .hint("cbroker move --to docker, or cbroker move --from docker"),
            );
        }
    }
    Ok(Exit::Done)
}

/// Moves from the embedded broker to the container, which then is the local broker.
async fn into_docker(config: &Config, output: &Output) -> Result<(), Error> {
    local::is_ours(config)?;
    let embedded = match LocalBroker::read(&config.home) {
        Some(local) if !local.is_embedded() => {
            return Err(Error::usage("the local broker is the container already"));
        }
        _ => daemon::start(config, Wishes::default()).await?.local,
    };
    let container = start::container(config, output).await?;
    let (from, to) = (config.for_local(&embedded)?, config.for_local(&container)?);
    move_all(&from, &to, output).await?;
    daemon::stop(&config.home).await?;
    start::record(&container, config)?;
    output.line(format!(
        "the local broker is now the container {}",
        container::CONTAINER
    ))
}

/// Moves from the container to the embedded broker, which then is the local broker.
async fn out_of_docker(config: &Config, output: &Output) -> Result<(), Error> {
    local::is_ours(config)?;
    let container = start::existing_container(config).await?;
    let wishes = match daemon::running(&config.home) {
        Some(_) => Wishes::default(),
        None => ports_beside(&container),
    };
    let embedded = daemon::start(config, wishes).await?.local;
    let (from, to) = (config.for_local(&container)?, config.for_local(&embedded)?);
    move_all(&from, &to, output).await.map_err(|error| {
        let why = error.summary();
        Error::new("not everything was moved out of the container")
            .because(why)
            .hint("what was moved is in the embedded broker; run the same command again")
            .exit_with(error.exit())
    })?;
    DockerEngine::new(&config.environment)?.stop().await?;
    output.line("the local broker is now the embedded one")
}

/// Free ports for an embedded broker: those of the container are taken.
fn ports_beside(container: &LocalBroker) -> Wishes {
    let amqp = daemon::free_port_near(container.port);
    let usual = container.management_port.unwrap_or(container.port);
    let management = daemon::free_port_near(usual.max(amqp.saturating_add(1)));
    Wishes {
        amqp: Some(amqp),
        management: Some(management),
        ..Wishes::default()
    }
}

async fn move_all(from: &Config, to: &Config, output: &Output) -> Result<(), Error> {
    if from.endpoint.address.is_same_place(&to.endpoint.address) {
        return Err(Error::usage("both sides are the same broker")
            .because(from.endpoint.address.to_string()));
    }
    let mut source = Peer::connect(&from.endpoint, "move").await?;
    let mut target = Peer::connect(&to.endpoint, "move").await?;
    let names = sessions::names_at(from).await?;
    for name in &names {
        refuse_attached(&mut source, name).await?;
    }
    // Without an API the sessions join again what `--group` names.
    let groups = groups::all(from).await.unwrap_or_default();
    let mut carried = Vec::new();
    for name in &names {
        if source.look_among_sessions(name).await?.is_none() {
            continue;
        }
        let arguments = arguments(&mut source, name, from, output).await?;
        let messages = carry(&mut source, &mut target, name, &arguments).await?;
        for (group, _) in groups.iter().filter(|(_, members)| members.contains(name)) {
            target.join(name, group).await?;
        }
        output.line(format!("{name}: {}", counted(messages, "message")))?;
        let stays = source.delete_unused(name).await?;
        if let Some(why) = &stays {
            output.notice(format!(
                "the queue `{name}` was not deleted at the source: {why}"
            ));
        }
        carried.push(MovedQueue {
            name: name.to_string(),
            messages,
            stays,
        });
    }
    source.close().await;
    target.close().await;
    output.json(&carried)?;
    let total: u32 = carried.iter().map(|carried| carried.messages).sum();
    let there = &to.endpoint.address;
    output.line(format!(
        "moved {} with {} to {there}",
        counted(carried.len() as u64, "queue"),
        counted(total, "message")
    ))
}

/// Refuses to move an attached queue: its session would take messages during the move, and would
/// stay on the old broker.
async fn refuse_attached(source: &mut Peer, name: &SessionName) -> Result<(), Error> {
    match source.look_among_sessions(name).await? {
        Some(state) if state.consumers > 0 => {
            Err(Error::new(format!("a session is attached to `{name}`"))
                .because("its messages cannot be moved while it takes them")
                .hint("close the session and open it again with the other --url"))
        }
        _ => Ok(()),
    }
}

/// Returns the arguments of the queue: from the management API, or, without one, from the broker's
/// error about a different declare.
async fn arguments(
    source: &mut Peer,
    name: &SessionName,
    from: &Config,
    output: &Output,
) -> Result<DeclareArguments, Error> {
    if let Ok(Some(queue)) = Client::new(from, API_WITHIN)?.queue(name.as_str()).await {
        return Ok(DeclareArguments::from_json(&queue.arguments));
    }
    let ttl_ms = from.settings.ttl_ms;
    if let Some(arguments) = source.learn_arguments(name, ttl_ms).await? {
        return Ok(arguments);
    }
    output.notice(format!(
        "the arguments of `{name}` cannot be read without a management API; \
             the target queue gets the default ones"
    ));
    Ok(DeclareArguments::of_session(Some(ttl_ms)))
}

async fn carry(
    source: &mut Peer,
    target: &mut Peer,
    name: &SessionName,
    arguments: &DeclareArguments,
) -> Result<u32, Error> {
    // An existing queue keeps its own limit, which is [`MAX_LENGTH`] for every session's queue.
    let limit = match target.look(name).await? {
        Some(_) => MAX_LENGTH,
        None => arguments.max_length().unwrap_or(u32::MAX),
    };
    let there = target.ensure_queue_with(name, arguments).await?;
    let mut free = limit.saturating_sub(there.messages);
    let mut messages = 0;
    while let Some(delivery) = source.get(name).await? {
        if free == 0 && there.consumers == 0 {
            delivery.requeue().await;
            return Err(
                Error::new(format!("the queue `{name}` at the target is full"))
                    .because(format!(
                        "moved {}; one more would drop the oldest",
                        counted(messages, "message")
                    ))
                    .exit_with(Exit::Unconfirmed),
            );
        }
        match target.forward(name, &delivery, CONFIRM_WITHIN).await? {
            PublishOutcome::Confirmed => delivery.ack().await,
            PublishOutcome::Unroutable | PublishOutcome::Refused => {
                delivery.requeue().await;
                return Err(Error::new(format!(
                    "the target broker did not accept a message for `{name}`"
                ))
                .because(format!(
                    "moved {}; no message was lost",
                    counted(messages, "message")
                ))
                .exit_with(Exit::Unconfirmed));
            }
        };
        messages += 1;
        free = free.saturating_sub(1);
    }
    Ok(messages)
}
