//! `cbroker stop`: stops the local broker and keeps its data.

use serde_json::json;

use super::local::{self, RunsAs};
use crate::config::Config;
use crate::daemon;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Stops the local broker that runs. It is not an error if none does.
pub(super) async fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    local::is_ours(config)?;
    let was_running = stop(config).await?;
    output.json(&json!({ "was_running": was_running }))?;
    output.line(if was_running {
        "broker stopped; its data stays"
    } else {
        "no local broker runs"
    })?;
    Ok(Exit::Done)
}

/// Stops the local broker. Returns whether one ran.
pub(super) async fn stop(config: &Config) -> Result<bool, Error> {
    match local::find(config).await? {
        RunsAs::Embedded(..) => daemon::stop(&config.home).await,
        RunsAs::Container(engine, state) if state.is_running => engine.stop().await.map(|()| true),
        RunsAs::Container(..) | RunsAs::Nothing => Ok(false),
    }
}
