//! `cbroker purge`: deletes the messages in a queue, and with `--force` also those that a session
//! holds.

use serde_json::json;

use super::compose::session_name;
use super::removal;
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
    let (peer, taken) =
        removal::take_messages(&args, &name, Removal::Purged, config, output).await?;
    let purged = taken.count + peer.purge(&name).await?;
    peer.close().await;
    output.json(&json!({ "name": name.as_str(), "purged": purged, "left": taken.left }))?;
    output.line(format!(
        "purged {name}: {} deleted",
        counted(purged, "message")
    ))?;
    taken.all_answered(&name)?;
    Ok(Exit::Done)
}
