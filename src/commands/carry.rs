//! `cbroker move`: carry queues and waiting messages from one broker to another.
//!
//! Each message is confirmed there before it is acked here, so that at every moment at least one of the two has it. A queue
//! goes with the arguments that it has; emptied, it is deleted here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::list;
use super::send::CONFIRM_WITHIN;
use crate::cli::MoveArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::name::SessionName;
use crate::output::{Output, counted};
use crate::peer::{MAX_LENGTH, Outcome, Peer, QueueArguments};

const API_WITHIN: Duration = Duration::from_secs(3);

/// One queue that was carried, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Carried {
    name: String,
    messages: u32,
    /// Why the queue is still at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    stays: Option<String>,
}

/// Carries every session's queue and prints how many messages went.
pub(super) async fn run(args: MoveArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let side =
        |url: Option<&String>| url.map_or_else(|| Ok(config.clone()), |url| config.for_url(url));
    let (from, to) = (side(args.from.as_ref())?, side(args.to.as_ref())?);
    if from.endpoint.address.is_same_place(&to.endpoint.address) {
        return Err(Error::usage("both sides are the same broker").because(from.endpoint.address));
    }
    let mut source = Peer::connect(&from.endpoint, "move").await?;
    let mut target = Peer::connect(&to.endpoint, "move").await?;
    let present: BTreeMap<_, _> = list::who(&source).await?;
    let names = list::names(&from, &present, output).await;
    for name in &names {
        refuse_attached(&mut source, name).await?;
    }
    let mut carried = Vec::new();
    for name in &names {
        if source.look(name).await?.is_none() {
            continue;
        }
        let arguments = arguments(&mut source, name, &from, output).await?;
        let messages = carry(&mut source, &mut target, name, &arguments).await?;
        output.line(format!("{name}: {}", counted(messages, "message")))?;
        let stays = source.delete_unused(name).await?;
        if let Some(why) = &stays {
            output.notice(format!("the queue `{name}` stays at the source: {why}"));
        }
        carried.push(Carried {
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
        "carried {} with {} to {there}",
        counted(carried.len() as u64, "queue"),
        counted(total, "message")
    ))?;
    Ok(Exit::Done)
}

/// A session would take the messages away under our hands, and would stay on the old broker.
async fn refuse_attached(source: &mut Peer, name: &SessionName) -> Result<(), Error> {
    match source.look(name).await? {
        Some(state) if state.consumers > 0 => {
            Err(Error::new(format!("a session is attached to `{name}`"))
                .because("its messages cannot be carried while it takes them")
                .hint("close the session and open it again with the other --url"))
        }
        _ => Ok(()),
    }
}

/// What the queue was declared with: from the management API where there is one, else from what the broker refuses.
async fn arguments(
    source: &mut Peer,
    name: &SessionName,
    from: &Config,
    output: &Output,
) -> Result<QueueArguments, Error> {
    if let Ok(Some(queue)) = Client::new(from, API_WITHIN)?.queue(name.as_str()).await {
        return Ok(QueueArguments::from_json(&queue.arguments));
    }
    let ttl_ms = from.settings.ttl_ms;
    if let Some(arguments) = source.learn_arguments(name, ttl_ms).await? {
        return Ok(arguments);
    }
    output.notice(format!(
        "the arguments of `{name}` cannot be learned without a management API; it gets the usual ones there"
    ));
    Ok(QueueArguments::of_session(ttl_ms))
}

async fn carry(
    source: &mut Peer,
    target: &mut Peer,
    name: &SessionName,
    arguments: &QueueArguments,
) -> Result<u32, Error> {
    // A queue that is there already keeps its own limit, which is every session's unless somebody else made it.
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
            return Err(Error::new(format!("`{name}` is full there"))
                .because(format!(
                    "after {}: one more would drop the oldest",
                    counted(messages, "message")
                ))
                .exit_with(Exit::Unconfirmed));
        }
        match target.forward(name, &delivery, CONFIRM_WITHIN).await? {
            Outcome::Confirmed => delivery.ack().await,
            Outcome::Unroutable | Outcome::Refused => {
                delivery.requeue().await;
                return Err(Error::new(format!(
                    "the other broker did not take a message for `{name}`"
                ))
                .because(format!(
                    "after {}, and none is lost",
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
