//! `cbroker brief`: the briefing for CLAUDE.md or AGENTS.md.

use serde_json::json;

use super::compose::session_name;
use crate::cli::BriefArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{self, Output};
use crate::wrap::briefing;

/// Stands for the name in a file that several sessions read; each has its own value in its
/// environment.
const ANY_SESSION: &str = "$CBROKER_NAME";

/// Prints the briefing for one session, or for any session that reads it.
pub(super) fn run(args: &BriefArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let name = match args.name.as_deref().or(config.inside.name.as_deref()) {
        Some(name) => session_name(name, "--name")?.to_string(),
        None => ANY_SESSION.to_owned(),
    };
    let text = briefing::text(&name);
    output.json(&json!({ "name": name, "briefing": text }))?;
    if !output.is_json() {
        output::raw(&text)?;
    }
    Ok(Exit::Done)
}
