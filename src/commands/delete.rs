//! `cbroker delete`: remove a queue with what waits in it.

use serde_json::json;

use super::letter::session_name;
use super::purge::{confirmed, existing};
use super::reach::{self, Autostart};
use crate::cli::ConfirmedArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, counted};

/// Deletes the queue and prints how many messages went with it.
pub(super) async fn run(
    args: ConfirmedArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    confirmed(args.yes, &format!("deleting `{name}`"))?;
    let mut peer = reach::peer(config, "delete", Autostart::Never, output).await?;
    existing(&mut peer, &name).await?;
    let messages = peer.delete(&name).await?;
    peer.close().await;
    output.json(&json!({ "name": name.as_str(), "messages": messages }))?;
    output.line(format!(
        "deleted {name}: {} went with it",
        counted(messages, "message")
    ))?;
    Ok(Exit::Done)
}
