//! `cbroker delete`: deletes a queue with its messages, and with `--force` also those that a
//! session holds.

use serde_json::json;

use super::compose::session_name;
use super::removal;
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
    let (mut peer, taken) =
        removal::take_messages(&args, &name, Removal::Deleted, config, output).await?;
    let messages = taken.count + peer.delete(&name).await?;
    peer.close().await;
    output.json(&json!({ "name": name.as_str(), "messages": messages, "left": taken.left }))?;
    output.line(format!(
        "deleted {name} and {}",
        counted(messages, "message")
    ))?;
    taken.all_answered(&name)?;
    Ok(Exit::Done)
}
