//! `cbroker delete`: deletes a queue with its messages, and with `--force` also those that a
//! session holds.

use serde_json::json;

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::removal::{self, Removed};
use crate::cli::ConfirmedArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, counted};
use crate::peer::Removal;

/// Deletes the queue and prints how many messages were deleted with it.
pub(super) async fn run(
    args: ConfirmedArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    removal::confirmed(args.yes, &format!("deleting `{name}`"))?;
    let mut peer = connect::peer(config, "delete", Autostart::Never, output).await?;
    let queue = removal::existing(&mut peer, &name).await?;
    if !args.force {
        removal::unattended(&peer, &name, &queue).await?;
    }
    let removed = Removed {
        name: &name,
        removal: Removal::Deleted,
        config,
    };
    let mut messages = removed.take_waiting(&peer, queue.messages).await?;
    if args.force {
        messages += removed.take_held(&peer, queue.consumers).await?;
    }
    messages += peer.delete(&name).await?;
    peer.close().await;
    output.json(&json!({ "name": name.as_str(), "messages": messages }))?;
    output.line(format!(
        "deleted {name}: {} went with it",
        counted(messages, "message")
    ))?;
    Ok(Exit::Done)
}
