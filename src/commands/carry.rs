//! `cbroker move`: carry queues and waiting messages from one broker to another.
//!
//! Each message is confirmed there before it is acked here, so that at every moment at least one of the two has it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::list;
use super::send::CONFIRM_WITHIN;
use crate::cli::MoveArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::Output;
use crate::peer::{MAX_LENGTH, Outcome, Peer};

/// One queue that was carried, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Carried {
    name: String,
    messages: u32,
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
        let messages = carry(&mut source, &mut target, name, to.settings.ttl_ms).await?;
        output.line(format!("{name}: {messages} messages"))?;
        carried.push(Carried {
            name: name.to_string(),
            messages,
        });
    }
    source.close().await;
    target.close().await;
    output.json(&carried)?;
    let total: u32 = carried.iter().map(|carried| carried.messages).sum();
    let there = to.endpoint.address;
    output.line(format!(
        "carried {} queues with {total} messages to {there}",
        carried.len()
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

async fn carry(
    source: &mut Peer,
    target: &mut Peer,
    name: &SessionName,
    ttl_ms: u64,
) -> Result<u32, Error> {
    let there = target.ensure_queue(name, ttl_ms).await?;
    let mut free = MAX_LENGTH.saturating_sub(there.messages);
    let mut messages = 0;
    while let Some(delivery) = source.get(name).await? {
        if free == 0 && there.consumers == 0 {
            delivery.requeue().await;
            return Err(Error::new(format!("`{name}` is full there"))
                .because(format!(
                    "{messages} messages were carried; one more would drop the oldest"
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
                    "{messages} messages were carried before it, and none is lost"
                ))
                .exit_with(Exit::Unconfirmed));
            }
        };
        messages += 1;
        free = free.saturating_sub(1);
    }
    Ok(messages)
}
