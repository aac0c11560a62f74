//! Sets up the ways into the agent before it starts.
//!
//! Relies on the ways and on the session's identity.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::config::Config;
use crate::wrap::agents::version::{Version, VersionLookup};
use crate::wrap::agents::{Profile, other_sessions, shows_a_session};
use crate::wrap::child_env::Identity;
use crate::wrap::delivery::DeliveryMode;
use crate::wrap::log::SessionLog;
use crate::wrap::options::WrapOptions;
use crate::wrap::pty::find_program;
use crate::wrap::ways::claude_inbox::ClaudeInbox;
use crate::wrap::ways::claude_plugin::{Plugin, PluginSetup};
use crate::wrap::ways::codex::{self, Codex, ThreadMarker};
use crate::wrap::ways::opencode::{self, Opencode};
use crate::wrap::ways::{Way, WayActors, WayIn, WayReporter};

/// Capacity of the channel of reports.
const REPORTS: usize = 256;
/// The oldest versions whose API was seen to work.
const CODEX_SINCE: Version = (0, 171, 0);
const OPENCODE_SINCE: Version = (1, 18, 0);

/// The ways that this agent may have.
#[derive(Debug)]
pub(super) struct PlannedWays {
    profile: &'static Profile,
    mode: DeliveryMode,
    api: Option<AgentApi>,
}

impl PlannedWays {
    /// Starts the lookups that the ways need, in the background.
    pub(super) fn new(options: &WrapOptions, mode: DeliveryMode, config: &Config) -> Self {
        Self {
            profile: Profile::of(&options.program, &options.arguments),
            mode,
            api: AgentApi::ask(options, mode, config),
        }
    }
}

/// An agent whose version decides whether it has an API. The lookup of the version starts early, so
/// that its result is available when the ways are set up.
#[derive(Debug)]
struct AgentApi {
    since: Version,
    program: PathBuf,
    /// Whether the arguments name a session to show.
    resumes: bool,
    version: VersionLookup,
}

impl AgentApi {
    /// Starts the lookup; `None` if the agent has no API or it is not used.
    fn ask(options: &WrapOptions, mode: DeliveryMode, config: &Config) -> Option<Self> {
        let name = Profile::of(&options.program, &options.arguments).name;
        let since = match name {
            "codex" => CODEX_SINCE,
            "opencode" => OPENCODE_SINCE,
            _ => return None,
        };
        let has_own_password = config.environment.get(opencode::PASSWORD).is_some();
        let is_used = matches!(mode, DeliveryMode::Auto | DeliveryMode::Api)
            && !other_sessions(name, &options.arguments)
            && !(name == "opencode" && has_own_password);
        let path = config.environment.get("PATH");
        let program = find_program(&options.program, path).filter(|_| is_used)?;
        let cache = config.home.folder().join("agent-versions.json");
        Some(Self {
            since,
            resumes: shows_a_session(name, &options.arguments),
            version: VersionLookup::new(program.clone(), name, cache),
            program,
        })
    }
}

/// Sets up the ways that report through one channel. A way that fails is omitted.
pub(super) async fn open(
    planned: PlannedWays,
    config: &Config,
    identity: &mut Identity,
    log: &mut SessionLog,
) -> WayActors {
    let PlannedWays { profile, mode, api } = planned;
    let (to, reports) = mpsc::channel(REPORTS);
    let mut actors: Vec<Box<dyn WayIn>> = Vec::new();
    if profile.has_hooks {
        match plugin(config, identity, WayReporter::new(Way::Plugin, to.clone())) {
            Ok(plugin) => actors.push(Box::new(plugin)),
            Err(error) => log.write(&format!("no plugin for Claude Code: {error}")),
        }
    }
    if profile.has_hooks && matches!(mode, DeliveryMode::Auto | DeliveryMode::Inbox) {
        let reporter = WayReporter::new(Way::Inbox, to.clone());
        actors.push(Box::new(ClaudeInbox::start(reporter)));
    }
    if let Some(asked) = api {
        let reporter = WayReporter::new(Way::Api, to);
        match open_api(profile, asked, config, identity, reporter).await {
            Ok(actor) => actors.push(actor),
            Err(error) => log.write(&format!("no way into {} by its API: {error}", profile.name)),
        }
    }
    WayActors { actors, reports }
}

fn plugin(config: &Config, identity: &mut Identity, reporter: WayReporter) -> io::Result<Plugin> {
    let socket = config.home.session_socket(&identity.session, "p.sock");
    let given = PluginSetup::new(&config.home.folder().join("plugin"), socket)?;
    let plugin = Plugin::listen(&given.socket, given.token.clone(), reporter)?;
    identity.plugin = Some(given);
    Ok(plugin)
}

/// Sets up the agent's API, if its version has one.
async fn open_api(
    profile: &Profile,
    api: AgentApi,
    config: &Config,
    identity: &mut Identity,
    reporter: WayReporter,
) -> io::Result<Box<dyn WayIn>> {
    let AgentApi {
        since,
        program,
        resumes,
        version,
    } = api;
    match version.wait_briefly().await {
        Some(version) if version >= since => {}
        Some(_) => return Err(io::Error::other("this version has no API")),
        None => return Err(io::Error::other("its version is not known yet")),
    }
    if profile.name == "opencode" {
        let given = opencode::OpencodeSetup::new()?;
        identity.arguments.extend(given.arguments());
        identity.environment.push(given.environment());
        return Ok(Box::new(Opencode::start(given, resumes, reporter)));
    }
    let named = |name: &str| config.environment.get(name).map(Path::new);
    let home = codex::home(named("CODEX_HOME"), named("HOME"))
        .ok_or_else(|| io::Error::other("neither CODEX_HOME nor HOME is set"))?;
    let folder = config
        .home
        .sessions()
        .join(format!("{}.codex", identity.session));
    let marker = ThreadMarker::new(folder)?;
    identity.arguments.extend(marker.arguments());
    let setup = codex::Setup {
        home,
        program: program.into_os_string(),
        marker,
    };
    Ok(Box::new(Codex::start(setup, reporter)))
}
