//! `cbroker purge`: deletes the messages in a queue, and with `--force` also those that a session
//! holds.

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

/// Deletes the messages and prints their number.
pub(super) async fn run(
    args: ConfirmedArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    removal::confirmed(args.yes, &format!("deleting all messages of `{name}`"))?;
    let mut peer = connect::peer(config, "purge", Autostart::Never, output).await?;
    let queue = removal::existing(&mut peer, &name).await?;
    if !args.force {
        removal::unattended(&peer, &name, &queue).await?;
    }
    let removed = Removed {
        name: &name,
        removal: Removal::Purged,
        config,
    };
    let mut purged = removed.take_waiting(&peer, queue.messages).await?;
    if args.force {
        purged += removed.take_held(&peer, queue.consumers).await?;
    }
    purged += peer.purge(&name).await?;
    peer.close().await;
    output.json(&json!({ "name": name.as_str(), "purged": purged }))?;
    output.line(format!(
        "purged {name}: {} deleted",
        counted(purged, "message")
    ))?;
    Ok(Exit::Done)
}
