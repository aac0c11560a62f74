//! `cbroker purge`: drop what waits in a queue.

use serde_json::json;

use super::letter::session_name;
use super::reach::{self, Autostart};
use crate::cli::ConfirmedArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::{Output, counted};
use crate::peer::Peer;

/// Drops the waiting messages and prints how many there were.
pub(super) async fn run(
    args: ConfirmedArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    confirmed(args.yes, &format!("dropping all messages of `{name}`"))?;
    let mut peer = reach::peer(config, "purge", Autostart::Never, output).await?;
    existing(&mut peer, &name).await?;
    let purged = peer.purge(&name).await?;
    peer.close().await;
    output.json(&json!({ "name": name.as_str(), "purged": purged }))?;
    output.line(format!(
        "purged {name}: {} dropped",
        counted(purged, "message")
    ))?;
    Ok(Exit::Done)
}

/// What cannot be undone is done only with `--yes`.
pub(super) fn confirmed(is_meant: bool, what: &str) -> Result<(), Error> {
    if is_meant {
        return Ok(());
    }
    Err(Error::usage(format!("{what} cannot be undone")).hint("say --yes if you mean it"))
}

/// Fails where there is no such queue.
pub(super) async fn existing(peer: &mut Peer, name: &SessionName) -> Result<(), Error> {
    match peer.look(name).await? {
        Some(_) => Ok(()),
        None => Err(Error::new(format!("there is no queue `{name}`"))
            .hint("`cbroker list` shows those that are")),
    }
}
