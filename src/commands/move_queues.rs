//! `cbroker move`: moves queues and waiting messages from one broker to another.
//!
//! Each message is confirmed by the target before it is acked at the source, so at every moment at
//! least one of them has it. A queue keeps its arguments and its groups. Once it is empty, it is
//! deleted at the source. A queue that cannot be moved stays and is reported; the others are moved.
//!
//! `docker` in place of a URL means the container of `start --docker`. Both local brokers run
//! during the move, and the target is the local broker from then on. The source is stopped once it
//! has no queue any more.

mod moved;
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use self::moved::{MovedQueue, MovedQueues};
use self::target::TargetBroker;
use super::groups::{self, Groups};
use super::{local, sessions, start};
use crate::cli::MoveArgs;
use crate::config::{Address, Config, LocalBroker};
use crate::container::{self, DockerEngine};
use crate::daemon::{self, RequestedSettings};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::name::SessionName;
use crate::output::{Output, counted};
use crate::peer::{DeclareArguments, Peer, QueueCounts};

const API_WITHIN: Duration = Duration::from_secs(3);

/// What may remain at the source after the last round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leftover {
    /// Messages that came during the move, with their queues: the source keeps running.
    MayStay,
    /// Nothing: the source is stopped afterwards.
    Nothing,
}

/// The most rounds for a source that is stopped afterwards: messages that come during one round
/// need another.
const ROUNDS: usize = 5;

/// The word that means the container, in place of a URL.
const DOCKER: &str = "docker";

/// Moves every session's queue and prints how many messages were moved.
pub(super) async fn run(args: MoveArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let is_docker = |side: Option<&String>| side.is_some_and(|side| side == DOCKER);
    let docker = (is_docker(args.from.as_ref()), is_docker(args.to.as_ref()));
    if docker != (false, false) && config.has_api_flag() {
        return Err(Error::usage("no management API can be named with `docker`")
            .caused_by("those of the local brokers are known")
            .with_hint("leave out --mgmt-url, --mgmt-user and --mgmt-pass"));
    }
    match docker {
        (false, false) => {
            for (side, option) in [(&args.to, "--to"), (&args.from, "--from")] {
                check_url(side.as_deref(), option)?;
            }
            let to = args.to.as_ref().map(|url| config.for_target_url(url));
            let from = args.from.as_ref().map(|url| config.for_source_url(url));
            let from = from.unwrap_or_else(|| Ok(config.clone()))?;
            let to = to.unwrap_or_else(|| Ok(config.clone()))?;
            move_all((&from, &to), Leftover::MayStay, output).await?;
        }
        (false, true) if args.from.is_none() => into_docker(config, output).await?,
        (true, false) if args.to.is_none() => out_of_docker(config, output).await?,
        _ => {
            return Err(
                Error::usage("`docker` can be moved only from or to the embedded broker")
                    .with_hint("cbroker move --to docker, or cbroker move --from docker"),
            );
        }
    }
    Ok(Exit::Done)
}

/// Refuses what is no URL under the name of its option.
fn check_url(url: Option<&str>, option: &str) -> Result<(), Error> {
    let Some(Err(error)) = url.map(Address::parse) else {
        return Ok(());
    };
    Err(Error::usage(format!("{option} is not a broker address"))
        .caused_by(error)
        .with_hint("expected amqp://user:password@host:5672/vhost, amqps:// with TLS, or docker"))
}

/// Moves from the embedded broker to the container, which then is the local broker.
async fn into_docker(config: &Config, output: &Output) -> Result<(), Error> {
    local::is_ours(config)?;
    let embedded = match LocalBroker::read(&config.home) {
        Some(local) if !local.is_embedded() => {
            return Err(Error::usage("the local broker is the container already"));
        }
        _ => {
            daemon::start(config, RequestedSettings::default())
                .await?
                .local
        }
    };
    let container = start::container(config, output).await?;
    let (from, to) = (config.for_local(&embedded)?, config.for_local(&container)?);
    refuse_attached(&from).await?;
    move_all((&from, &to), Leftover::Nothing, output).await?;
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
    let requested = match daemon::running(&config.home) {
        Some(_) => RequestedSettings::default(),
        None => ports_beside(&container),
    };
    let embedded = daemon::start(config, requested).await?.local;
    let (from, to) = (config.for_local(&container)?, config.for_local(&embedded)?);
    let moving = async {
        refuse_attached(&from).await?;
        move_all((&from, &to), Leftover::Nothing, output).await
    };
    moving.await.map_err(|error| {
        let again = "run the same command again";
        let hint = match error.hint() {
            Some(advice) => format!("{advice}; then {again}"),
            None => format!("the embedded broker has the queues that were moved; {again}"),
        };
        Error::new("not everything was moved out of the container")
            .caused_by(error.summary())
            .with_hint(hint)
            .exit_with(error.exit())
    })?;
    DockerEngine::new(&config.environment)?.stop().await?;
    output.line("the local broker is now the embedded one")
}

/// Finds free ports for an embedded broker, since the container uses the usual ones.
fn ports_beside(container: &LocalBroker) -> RequestedSettings {
    let amqp = daemon::free_port_near(container.port);
    let usual = container.management_port.unwrap_or(container.port);
    let management = daemon::free_port_near(usual.max(amqp.saturating_add(1)));
    RequestedSettings {
        amqp: Some(amqp),
        management: Some(management),
        ..RequestedSettings::default()
    }
}

/// Moves each queue by itself, so that one that cannot be moved does not stop the others: any user
/// who may bind a queue to the sessions' exchange can add such a queue.
async fn move_all(
    (from, to): (&Config, &Config),
    leftover: Leftover,
    output: &Output,
) -> Result<(), Error> {
    if from.endpoint.address.is_same_place(&to.endpoint.address) {
        return Err(Error::usage("both sides are the same broker")
            .caused_by(from.endpoint.address.to_string()));
    }
    let mut brokers = Brokers {
        from,
        source: Peer::connect(&from.endpoint, "move").await?,
        target: TargetBroker::connect(to).await?,
    };
    let mut moved = MovedQueues::default();
    brokers.move_rounds(leftover, &mut moved, output).await?;
    brokers.close().await;
    moved.print(&to.endpoint.address, output)?;
    moved.verdict(leftover, &from.endpoint.address)
}

/// Whether the queue was one that had to be moved.
struct IsMoved(bool);

/// Both brokers.
struct Brokers<'a> {
    from: &'a Config,
    source: Peer,
    target: TargetBroker,
}

impl Brokers<'_> {
    /// Moves all queues. If the source is stopped afterwards, repeats that until a round finds
    /// none.
    async fn move_rounds(
        &mut self,
        leftover: Leftover,
        moved: &mut MovedQueues,
        output: &Output,
    ) -> Result<(), Error> {
        let rounds = match leftover {
            Leftover::MayStay => 1,
            Leftover::Nothing => ROUNDS,
        };
        for _ in 0..rounds {
            let before = moved.messages();
            self.move_round(moved, output).await?;
            let is_stuck = moved.staying() > 0 && moved.messages() == before;
            if moved.found_none() || is_stuck || !moved.failures.is_empty() {
                break;
            }
        }
        moved.print_what_stays(output);
        Ok(())
    }

    /// Moves the queues and messages that are there now.
    async fn move_round(&mut self, moved: &mut MovedQueues, output: &Output) -> Result<(), Error> {
        moved.begin_round();
        let names = sessions::names_at(self.from).await?;
        // Without an API, sessions join the groups of `--group` again when they open.
        let groups = groups::all(self.from).await.unwrap_or_default();
        for name in &names {
            let mut queue = MovedQueue {
                name: name.to_string(),
                messages: 0,
                stays: None,
            };
            let moving = self.move_one((name, &mut queue), &groups, output);
            match moving.await {
                Ok(IsMoved(true)) => {}
                Ok(IsMoved(false)) => continue,
                Err(error) if error.is_silent() => return Err(error),
                Err(error) => {
                    let error = self.prepare_for_next(name, &error).await?;
                    output.error(&error);
                    queue.stays = Some(error.summary());
                    moved.failures.insert(name.clone(), error);
                }
            }
            moved.add(name, queue);
        }
        Ok(())
    }

    /// Moves one queue, and counts its messages while it does.
    async fn move_one(
        &mut self,
        (name, queue): (&SessionName, &mut MovedQueue),
        groups: &Groups,
        output: &Output,
    ) -> Result<IsMoved, Error> {
        let Self {
            from,
            source,
            target,
        } = self;
        let Some(state) = source.look_among_sessions(name).await? else {
            return Ok(IsMoved(false));
        };
        if has_session(source, name, state, from).await? {
            return Err(attached(name));
        }
        let arguments = arguments(source, name, from, output).await?;
        let there = target.queue(name, &arguments).await?;
        let target = &mut target.peer;
        let messages = (state.messages, &mut queue.messages);
        there.fill((source, target), messages).await?;
        for (group, _) in groups.iter().filter(|(_, members)| members.contains(name)) {
            target.join(name, group).await?;
        }
        output.line(format!("{name}: {}", counted(queue.messages, "message")))?;
        let stays = source.delete_unused(name).await?;
        queue.stays = stays.map(|why| match state.consumers {
            0 => why,
            _ => format!(
                "{why}; `cbroker delete {name} --yes --force` cuts off another user's program"
            ),
        });
        Ok(IsMoved(true))
    }

    /// Prepares for the next queue after an error. Returns the error to report for this one.
    ///
    /// # Errors
    /// If a broker cannot be reached any more.
    async fn prepare_for_next(
        &mut self,
        name: &SessionName,
        error: &Error,
    ) -> Result<Error, Error> {
        // A refusal closed the channel. Without a connection there is no new one.
        self.source.begin_anew().await?;
        self.target.peer.begin_anew().await?;
        let stays = Error::new(format!("`{name}` stays"))
            .caused_by(error.summary())
            .exit_with(error.exit());
        Ok(match error.hint() {
            Some(hint) => stays.with_hint(hint),
            None => stays,
        })
    }

    async fn close(self) {
        self.source.close().await;
        self.target.peer.close().await;
    }
}

/// Whether a session of this user may be attached. A program of another user does not prevent the
/// move.
async fn has_session(
    source: &mut Peer,
    name: &SessionName,
    state: QueueCounts,
    from: &Config,
) -> Result<bool, Error> {
    if state.consumers == 0 {
        return Ok(false);
    }
    let names = BTreeSet::from([name.clone()]);
    Ok(sessions::attached_of(source, &names, from).await? > 0)
}

/// The error about an attached session, which would take messages during the move and stay at the
/// source.
fn attached(name: &SessionName) -> Error {
    Error::new("a session is attached to it")
        .caused_by("its messages cannot be moved while it takes them")
        .with_hint(format!(
            "close the session and open it again with the other --url; if it is not yours, \
             `cbroker delete {name} --yes --force` deletes its queue and the messages in it"
        ))
}

/// Refuses to move the local broker while sessions are attached: they would stay at the source, and
/// messages to them would go to the target.
async fn refuse_attached(from: &Config) -> Result<(), Error> {
    let mut source = Peer::connect(&from.endpoint, "move").await?;
    let mut open = Vec::new();
    for name in sessions::names_at(from).await? {
        if let Some(state) = source.look_among_sessions(&name).await?
            && has_session(&mut source, &name, state, from).await?
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
            .caused_by("the local broker cannot be moved while they take messages")
            .with_hint("close them; for one that is not yours: cbroker delete NAME --yes --force"),
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
