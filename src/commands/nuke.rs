//! `cbroker nuke`: stops the local broker and deletes its data.

use std::fs;

use serde_json::json;

use super::local::{self, RunsAs};
use super::removal::confirmed;
use crate::cli::YesArgs;
use crate::config::{BrokerKind, Config, LocalBroker};
use crate::daemon::{self, StartLock};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Deletes the store of the embedded broker, or the container with its volume. Logs and settings
/// are kept.
pub(super) async fn run(args: YesArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    confirmed(args.yes, "deleting all sessions' messages")?;
    let deleted = match local::find(config).await? {
        RunsAs::Container(engine, _) => {
            engine.remove().await?;
            format!("the container and its volume {}", crate::container::VOLUME)
        }
        RunsAs::Embedded(..) | RunsAs::Nothing => delete_store(config).await?,
    };
    let forget = LocalBroker::forget(&config.home);
    forget.map_err(|error| Error::new("cannot remove broker.json").caused_by(error))?;
    output.json(&json!({ "deleted": deleted }))?;
    output.line(format!("deleted {deleted}"))?;
    Ok(Exit::Done)
}

async fn delete_store(config: &Config) -> Result<String, Error> {
    let folder = match LocalBroker::read(&config.home).map(|local| local.kind) {
        Some(BrokerKind::Embedded { data_dir, .. }) => data_dir,
        _ => config.home.data(),
    };
    daemon::stop(&config.home).await?;
    let _lock = StartLock::acquire(&config.home).await?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format!("cannot delete {}", folder.display())).caused_by(error))
        }
        _ => Ok(folder.display().to_string()),
    }
}
