//! `cbroker stop`: end the local broker; all data stays.

use serde_json::json;

use super::local::{self, Local};
use crate::config::Config;
use crate::daemon;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Stops whichever local broker runs. None is fine: it is stopped then.
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

/// Stops it and says whether one ran.
pub(super) async fn stop(config: &Config) -> Result<bool, Error> {
    match local::look(config).await? {
        Local::Embedded(..) => daemon::stop(&config.home).await,
        Local::Container(engine, state) if state.is_running => engine.stop().await.map(|()| true),
        Local::Container(..) | Local::Nothing => Ok(false),
    }
}
