//! `cbroker move`: moves queues and waiting messages from one broker to another.
//!
//! Each message is confirmed by the target before it is acked at the source, so at every moment at
//! least one of them has it. A queue keeps its arguments. Once it is empty, it is deleted at the
//! source. Its groups get it as a member at the target.

use std::time::Duration;

use serde::Serialize;

use super::send::CONFIRM_WITHIN;
use super::{groups, sessions};
use crate::cli::MoveArgs;
use crate::config::Config;
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

/// Moves every session's queue and prints how many messages were moved.
pub(super) async fn run(args: MoveArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let side =
        |url: Option<&String>| url.map_or_else(|| Ok(config.clone()), |url| config.for_url(url));
    let (from, to) = (side(args.from.as_ref())?, side(args.to.as_ref())?);
    if from.endpoint.address.is_same_place(&to.endpoint.address) {
        return Err(Error::usage("both sides are the same broker")
            .because(from.endpoint.address.to_string()));
    }
    let mut source = Peer::connect(&from.endpoint, "move").await?;
    let mut target = Peer::connect(&to.endpoint, "move").await?;
    let names = sessions::names(&mut source, &from, output).await?;
    for name in &names {
        refuse_attached(&mut source, name).await?;
    }
    // Without an API the sessions join again what `--group` names.
    let groups = groups::all(&from).await.unwrap_or_default();
    let mut carried = Vec::new();
    for name in &names {
        if source.look(name).await?.is_none() {
            continue;
        }
        let arguments = arguments(&mut source, name, &from, output).await?;
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
    let there = to.endpoint.address;
    output.line(format!(
        "moved {} with {} to {there}",
        counted(carried.len() as u64, "queue"),
        counted(total, "message")
    ))?;
    Ok(Exit::Done)
}

/// Refuses to move an attached queue: its session would take messages during the move, and would
/// stay on the old broker.
async fn refuse_attached(source: &mut Peer, name: &SessionName) -> Result<(), Error> {
    match source.look(name).await? {
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
    Ok(DeclareArguments::of_session(ttl_ms))
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
