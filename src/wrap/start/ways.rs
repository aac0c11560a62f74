//! The ways into the agent that are made before it starts.
//!
//! Relies on the ways and on the session's marks.

use tokio::sync::mpsc;

use crate::config::Config;
use crate::wrap::agents::Profile;
use crate::wrap::child_env::Identity;
use crate::wrap::log::Log;
use crate::wrap::ways::claude_plugin::{Given, Plugin};
use crate::wrap::ways::{Reports, Way, WayIn, WaysIn};

/// Reports that the session has not heard yet.
const REPORTS: usize = 256;

/// The ways into this agent that report through one channel. What cannot be made is left out, and
/// the other ways serve.
pub(super) fn open(
    profile: &Profile,
    config: &Config,
    identity: &mut Identity,
    log: &mut Log,
) -> WaysIn {
    let (to, reports) = mpsc::channel(REPORTS);
    let mut ways: Vec<Box<dyn WayIn>> = Vec::new();
    if profile.has_hooks {
        match plugin(config, identity, Reports::new(Way::Plugin, to)) {
            Ok(plugin) => ways.push(Box::new(plugin)),
            Err(error) => log.say(&format!("no plugin for Claude Code: {error}")),
        }
    }
    WaysIn { ways, reports }
}

fn plugin(config: &Config, identity: &mut Identity, reports: Reports) -> std::io::Result<Plugin> {
    let name = format!("{}.p.sock", identity.session);
    let socket = identity.socket.with_file_name(name);
    let given = Given::new(&config.home.folder().join("plugin"), socket)?;
    let plugin = Plugin::listen(&given.socket, given.token.clone(), reports)?;
    identity.plugin = Some(given);
    Ok(plugin)
}
