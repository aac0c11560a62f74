//! `cbroker move`: moves queues and waiting messages from one broker to another.
//!
//! Each message is confirmed by the target before it is acked at the source, so at every moment at
//! least one of them has it. A queue keeps its arguments. Once it is empty, it is deleted at the
//! source. Its groups get it as a member at the target. A queue that cannot be moved stays, which
//! is said, and the others are moved.
//!
//! `docker` stands for the container of `start --docker`, in place of a URL. Then both local
//! brokers run meanwhile, and the one that was moved to is the local broker from then on.

use std::time::Duration;

use serde::Serialize;

use super::groups::{self, Groups};
use super::send::CONFIRM_WITHIN;
use super::{local, sessions, start};
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
    /// Why the queue, with what was not moved, is still at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    stays: Option<String>,
}

/// Both brokers.
struct Brokers {
    source: Peer,
    target: Peer,
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
    refuse_attached(&from).await?;
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
    let moving = async {
        refuse_attached(&from).await?;
        move_all(&from, &to, output).await
    };
    moving.await.map_err(|error| {
        let again = "run the same command again";
        let hint = match error.advice() {
            Some(advice) => format!("{advice}; then {again}"),
            None => format!("what was moved is in the embedded broker; {again}"),
        };
        Error::new("not everything was moved out of the container")
            .because(error.summary())
            .hint(hint)
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

/// Moves each queue by itself: one that cannot be moved stops no other, since anybody who may bind
/// one to the sessions' exchange can make it.
async fn move_all(from: &Config, to: &Config, output: &Output) -> Result<(), Error> {
    if from.endpoint.address.is_same_place(&to.endpoint.address) {
        return Err(Error::usage("both sides are the same broker")
            .because(from.endpoint.address.to_string()));
    }
    let mut brokers = Brokers {
        source: Peer::connect(&from.endpoint, "move").await?,
        target: Peer::connect(&to.endpoint, "move").await?,
    };
    let names = sessions::names_at(from).await?;
    // Without an API the sessions join again what `--group` names.
    let groups = groups::all(from).await.unwrap_or_default();
    let (mut queues, mut failures) = (Vec::new(), Vec::new());
    for name in &names {
        let mut queue = MovedQueue {
            name: name.to_string(),
            messages: 0,
            stays: None,
        };
        let moving = brokers.move_one((name, &mut queue), (from, &groups), output);
        let error = match moving.await {
            Ok(IsMoved(true)) => None,
            Ok(IsMoved(false)) => continue,
            Err(error) if error.is_silent() => return Err(error),
            Err(error) => Some(brokers.goes_on_after(name, &error).await?),
        };
        if let Some(error) = error {
            queue.stays = Some(error.summary());
            output.error(&error);
            failures.push(error);
        }
        queues.push(queue);
    }
    brokers.close().await;
    output.json(&queues)?;
    let total: u32 = queues.iter().map(|queue| queue.messages).sum();
    let there = &to.endpoint.address;
    let moved = queues.len() - failures.len();
    output.line(format!(
        "moved {} with {} to {there}",
        counted(moved as u64, "queue"),
        counted(total, "message")
    ))?;
    match failures.pop() {
        None => Ok(()),
        Some(last) => Err(Error::new("not everything was moved")
            .because(format!(
                "{} at {}",
                stay(failures.len() as u64 + 1),
                from.endpoint.address
            ))
            .hint("mend what is said of each, and run the same command again")
            .exit_with(last.exit())),
    }
}

fn stay(count: u64) -> String {
    match count {
        1 => "1 queue stays".to_owned(),
        count => format!("{count} queues stay"),
    }
}

/// Whether a queue was one to move.
struct IsMoved(bool);

impl Brokers {
    /// Moves one queue, and counts its messages as it goes on.
    async fn move_one(
        &mut self,
        (name, queue): (&SessionName, &mut MovedQueue),
        (from, groups): (&Config, &Groups),
        output: &Output,
    ) -> Result<IsMoved, Error> {
        let Self { source, target } = self;
        let Some(state) = source.look_among_sessions(name).await? else {
            return Ok(IsMoved(false));
        };
        if state.consumers > 0 {
            return Err(attached());
        }
        let arguments = arguments(source, name, from, output).await?;
        let messages = (state.messages, &mut queue.messages);
        carry((source, target), name, &arguments, messages).await?;
        for (group, _) in groups.iter().filter(|(_, members)| members.contains(name)) {
            target.join(name, group).await?;
        }
        output.line(format!("{name}: {}", counted(queue.messages, "message")))?;
        queue.stays = source.delete_unused(name).await?;
        if let Some(why) = &queue.stays {
            output.notice(format!(
                "the queue `{name}` was not deleted at the source: {why}"
            ));
        }
        Ok(IsMoved(true))
    }

    /// Makes ready for the next queue. Returns what is said of this one.
    ///
    /// # Errors
    /// A broker is gone.
    async fn goes_on_after(&mut self, name: &SessionName, error: &Error) -> Result<Error, Error> {
        // What was refused closed its channel. A connection that is gone has no other.
        self.source.begin_anew().await?;
        self.target.begin_anew().await?;
        let stays = Error::new(format!("`{name}` stays"))
            .because(error.summary())
            .exit_with(error.exit());
        Ok(match error.advice() {
            Some(hint) => stays.hint(hint),
            None => stays,
        })
    }

    async fn close(self) {
        self.source.close().await;
        self.target.close().await;
    }
}

/// A session would take messages during the move, and would stay on the old broker.
fn attached() -> Error {
    Error::new("a session is attached to it")
        .because("its messages cannot be moved while it takes them")
        .hint("close the session and open it again with the other --url")
}

/// Refuses to move the local broker while sessions are attached: it is not the local broker any
/// more then, and what they were sent would be at the other one.
async fn refuse_attached(from: &Config) -> Result<(), Error> {
    let mut source = Peer::connect(&from.endpoint, "move").await?;
    let mut open = Vec::new();
    for name in sessions::names_at(from).await? {
        if let Some(state) = source.look_among_sessions(&name).await?
            && state.consumers > 0
        {
            open.push(format!("`{name}`"));
        }
    }
    source.close().await;
    if open.is_empty() {
        return Ok(());
    }
    Err(
        Error::new(format!("sessions are attached to {}", open.join(", ")))
            .because("the local broker cannot be moved while they take messages")
            .hint("close them; `cbroker delete NAME --yes --force` ends what is none of yours"),
    )
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

/// Carries the messages that wait in a queue over one by one, and counts them. What comes meanwhile
/// stays: publishers without end would keep the other queues from being moved.
async fn carry(
    (source, target): (&mut Peer, &mut Peer),
    name: &SessionName,
    arguments: &DeclareArguments,
    (waiting, messages): (u32, &mut u32),
) -> Result<(), Error> {
    // An existing queue keeps its own limit, which is [`MAX_LENGTH`] for every session's queue.
    let limit = match target.look(name).await? {
        Some(_) => MAX_LENGTH,
        None => arguments.max_length().unwrap_or(u32::MAX),
    };
    let there = target.ensure_queue_with(name, arguments).await?;
    let mut free = limit.saturating_sub(there.messages);
    while *messages < waiting
        && let Some(delivery) = source.get(name).await?
    {
        if free == 0 && there.consumers == 0 {
            delivery.requeue().await;
            return Err(
                Error::new(format!("the queue `{name}` at the target is full"))
                    .because(format!(
                        "moved {}; one more would drop the oldest",
                        counted(*messages, "message")
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
                    counted(*messages, "message")
                ))
                .exit_with(Exit::Unconfirmed));
            }
        };
        *messages += 1;
        free = free.saturating_sub(1);
    }
    Ok(())
}
