//! The ways into the agent that are made before it starts.
//!
//! Relies on the ways and on the session's marks.

use std::io;
use std::path::Path;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::wrap::agents::version::{self, Version};
use crate::wrap::agents::{Profile, other_sessions};
use crate::wrap::child_env::Identity;
use crate::wrap::delivery::Mode;
use crate::wrap::log::Log;
use crate::wrap::options::WrapOptions;
use crate::wrap::pty::find_program;
use crate::wrap::ways::claude_inbox::ClaudeInbox;
use crate::wrap::ways::claude_plugin::{Given, Plugin};
use crate::wrap::ways::codex::{self, Codex, Mark};
use crate::wrap::ways::opencode::{self, Opencode};
use crate::wrap::ways::{Reports, Way, WayIn, WaysIn};

/// Reports that the session has not heard yet.
const REPORTS: usize = 256;
/// The oldest versions whose own way in was seen to work.
const CODEX_SINCE: Version = (0, 171, 0);
const OPENCODE_SINCE: Version = (1, 18, 0);

/// The ways into this agent that report through one channel. What cannot be made is left out, and
/// the other ways serve.
pub(super) async fn open(
    options: &WrapOptions,
    mode: Mode,
    config: &Config,
    identity: &mut Identity,
    log: &mut Log,
) -> WaysIn {
    let profile = Profile::of(&options.program, &options.arguments);
    let (to, reports) = mpsc::channel(REPORTS);
    let mut ways: Vec<Box<dyn WayIn>> = Vec::new();
    if profile.has_hooks {
        match plugin(config, identity, Reports::new(Way::Plugin, to.clone())) {
            Ok(plugin) => ways.push(Box::new(plugin)),
            Err(error) => log.say(&format!("no plugin for Claude Code: {error}")),
        }
    }
    if profile.has_hooks && matches!(mode, Mode::Auto | Mode::Inbox) {
        let reports = Reports::new(Way::Inbox, to.clone());
        ways.push(Box::new(ClaudeInbox::start(reports)));
    }
    if matches!(mode, Mode::Auto | Mode::Api) {
        match api(
            profile,
            options,
            config,
            identity,
            Reports::new(Way::Api, to),
        )
        .await
        {
            Ok(Some(way)) => ways.push(way),
            Ok(None) => {}
            Err(error) => log.say(&format!("no way into {} by its API: {error}", profile.name)),
        }
    }
    WaysIn { ways, reports }
}

fn plugin(config: &Config, identity: &mut Identity, reports: Reports) -> io::Result<Plugin> {
    let name = format!("{}.p.sock", identity.session);
    let socket = identity.socket.with_file_name(name);
    let given = Given::new(&config.home.folder().join("plugin"), socket)?;
    let plugin = Plugin::listen(&given.socket, given.token.clone(), reports)?;
    identity.plugin = Some(given);
    Ok(plugin)
}

/// The agent's own API, where this version has it and the arguments make a session at the terminal.
async fn api(
    profile: &Profile,
    options: &WrapOptions,
    config: &Config,
    identity: &mut Identity,
    reports: Reports,
) -> io::Result<Option<Box<dyn WayIn>>> {
    let since = match profile.name {
        "codex" => CODEX_SINCE,
        "opencode" => OPENCODE_SINCE,
        _ => return Ok(None),
    };
    let has_own_password = config.environment.get(opencode::PASSWORD).is_some();
    if other_sessions(profile.name, &options.arguments)
        || (profile.name == "opencode" && has_own_password)
    {
        return Ok(None);
    }
    let path = config.environment.get("PATH");
    let Some(program) = find_program(&options.program, path) else {
        return Ok(None);
    };
    let cache = config.home.folder().join("agent-versions.json");
    match version::of(&program, &cache).await {
        Some(version) if version >= since => {}
        _ => {
            return Err(io::Error::other(
                "it does not say that it is a version that has one",
            ));
        }
    }
    if profile.name == "opencode" {
        let given = opencode::Given::new()?;
        identity.arguments.extend(given.arguments());
        identity.environment.push(given.environment());
        return Ok(Some(Box::new(Opencode::start(given, reports))));
    }
    let named = |name: &str| config.environment.get(name).map(Path::new);
    let home = codex::home(named("CODEX_HOME"), named("HOME"))
        .ok_or_else(|| io::Error::other("neither CODEX_HOME nor HOME is set"))?;
    let folder = config
        .home
        .sessions()
        .join(format!("{}.codex", identity.session));
    let mark = Mark::new(folder)?;
    identity.arguments.extend(mark.arguments());
    let setup = codex::Setup {
        home,
        program: program.into_os_string(),
        mark,
    };
    Ok(Some(Box::new(Codex::start(setup, reports))))
}
