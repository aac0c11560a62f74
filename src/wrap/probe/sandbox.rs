//! Checks whether `cbroker send` works where the agent runs its commands, as far as that is
//! possible without a model.
//!
//! It creates a queue for one answer, and runs `cbroker send` to that queue with the environment of
//! a wrapped agent's shell. If Claude Code's settings enable its sandbox and do not except
//! `cbroker`, the command runs inside bubblewrap with the restrictions of that sandbox: no network,
//! and no writing outside of the working folder. The agent's own sandbox may restrict more (a
//! filter of system calls), never less. The result states how the command was run. Codex's sandbox
//! blocks every connection unless its configuration allows the network; without that, nothing is
//! tried.
//!
//! Relies on the peer for the queue, and on `bwrap`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use ulid::Ulid;

use super::ProbeSign;
use crate::config::{Config, write_session_address};
use crate::error::Error;
use crate::message_history::{PROBE_SENDER, PROBE_TEXT};
use crate::name::SessionName;
use crate::peer::Peer;
use crate::wrap::agents::Profile;
use crate::wrap::child_env;
use crate::wrap::pty::{CommandLine, find_program};

const WITHIN: Duration = Duration::from_secs(15);
const WHAT: &str = "send";
const MEND: &str = "add `cbroker` to `sandbox.excludedCommands` in the agent's settings";

/// The settings of the agent's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SandboxSettings {
    /// The file that enables it.
    on_by: Option<PathBuf>,
    /// Whether `cbroker` is excepted from it.
    is_excepted: bool,
    /// The program that the person's own settings name in place of `bwrap`. Those of a folder must
    /// not name a program that runs here: nobody was asked whether the folder is trusted.
    bwrap: Option<String>,
}

/// Whose settings a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SettingsOwner {
    /// The person's.
    Person,
    /// The working folder's, which may be anybody's.
    Folder,
}

/// Tries to send a message as the agent's shell would.
pub(super) async fn send(profile: &Profile, config: &Config) -> ProbeSign {
    match profile.name {
        "claude" => send_as_claude(config).await,
        "codex" => send_as_codex(config).await,
        _ => {
            let place = "as the agent's shell runs it (cbroker knows no sandbox of this agent)";
            sign(place, &attempt(config, Vec::new()).await)
        }
    }
}

async fn send_as_codex(config: &Config) -> ProbeSign {
    let file = codex_settings(config);
    if allows_network(&file) {
        let place = format!(
            "as its shell runs it with the network that {} gives",
            file.display()
        );
        return sign(&place, &attempt(config, Vec::new()).await);
    }
    ProbeSign {
        what: WHAT,
        is_seen: false,
        detail: format!(
            "not tried: Codex's sandbox lets no connection out unless {} says \
             `sandbox_workspace_write.network_access = true`",
            file.display()
        ),
        mend: Some("set that, or use `cbroker mcp install codex`, whose tools run outside of it"),
    }
}

/// The path of Codex's configuration.
fn codex_settings(config: &Config) -> PathBuf {
    let folder = config.environment.get("CODEX_HOME").map(PathBuf::from);
    let home = || Path::new(config.environment.get("HOME").unwrap_or_default()).join(".codex");
    folder.unwrap_or_else(home).join("config.toml")
}

/// Whether this configuration of Codex allows its commands the network.
fn allows_network(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let Ok(settings) = text.parse::<toml::Table>() else {
        return false;
    };
    let is = |key: &str, value: &str| settings.get(key).and_then(|is| is.as_str()) == Some(value);
    let workspace = settings.get("sandbox_workspace_write");
    let network = workspace.and_then(|table| table.get("network_access")?.as_bool());
    let may_connect = is("sandbox_mode", "workspace-write") && network == Some(true);
    is("sandbox_mode", "danger-full-access") || may_connect
}

async fn send_as_claude(config: &Config) -> ProbeSign {
    let settings = SandboxSettings::of(&settings_files(config));
    let Some(file) = settings.on_by.as_ref().filter(|_| !settings.is_excepted) else {
        let place = if settings.is_excepted {
            "outside of the agent's sandbox, as `sandbox.excludedCommands` says"
        } else {
            "as the agent's shell runs it (no sandbox is switched on)"
        };
        return sign(place, &attempt(config, Vec::new()).await);
    };
    let by = format!("`sandbox.enabled` in {}", file.display());
    let bwrap = OsString::from(settings.bwrap.unwrap_or_else(|| "bwrap".to_owned()));
    if find_program(&bwrap, config.environment.get("PATH")).is_none() {
        return not_tried(&by, "there is no bwrap on the PATH to run one like it");
    }
    match attempt(config, sandboxed(bwrap)).await {
        Err(error) if error.summary().starts_with("bwrap:") => not_tried(&by, &error.summary()),
        outcome => sign(
            &format!("inside bwrap without network, as {by} has it"),
            &outcome,
        ),
    }
}

fn sign(place: &str, outcome: &Result<(), Error>) -> ProbeSign {
    let detail = match outcome {
        Ok(()) => format!("`cbroker send` arrives: tried {place}"),
        Err(error) => format!("`cbroker send` fails: tried {place}: {}", error.summary()),
    };
    ProbeSign {
        what: WHAT,
        is_seen: outcome.is_ok(),
        detail,
        mend: Some(MEND),
    }
}

fn not_tried(by: &str, why: &str) -> ProbeSign {
    ProbeSign {
        what: WHAT,
        is_seen: false,
        detail: format!("not tried: the agent's sandbox is on ({by}), and {why}"),
        mend: Some(MEND),
    }
}

fn sandboxed(bwrap: OsString) -> Vec<OsString> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let mut command = vec![bwrap];
    for word in ["--die-with-parent", "--unshare-net", "--ro-bind", "/", "/"] {
        command.push(word.into());
    }
    for word in ["--dev", "/dev", "--proc", "/proc", "--bind"] {
        command.push(word.into());
    }
    command.extend([here.clone().into(), here.into(), "--".into()]);
    command
}

/// Sends one message, with `prefix` in front of the command, and waits for its arrival.
async fn attempt(config: &Config, prefix: Vec<OsString>) -> Result<(), Error> {
    let to = SessionName::for_answer(Ulid::generate());
    let mut peer = Peer::connect(&config.endpoint, PROBE_SENDER).await?;
    let mut answers = peer.answer_queue(&to, config.settings.ttl_ms).await?;
    let sent = run(config, prefix, &to).await;
    let arrived = match &sent {
        Ok(()) => answers.next_within(WITHIN).await?.is_some(),
        Err(_) => false,
    };
    peer.delete(&to).await?;
    peer.close().await;
    sent.and(if arrived {
        Ok(())
    } else {
        Err(Error::new("the message was confirmed but did not arrive"))
    })
}

/// Runs `cbroker send` with the environment of a wrapped agent's shell.
async fn run(config: &Config, prefix: Vec<OsString>, to: &SessionName) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::new("it cannot be run").caused_by(error);
    let session = Ulid::generate().to_string();
    write_session_address(config, &session).map_err(failed)?;
    let mut words = prefix;
    words.push(std::env::current_exe().map_err(failed)?.into());
    for word in [
        "send",
        "--from",
        PROBE_SENDER,
        "--to",
        to.as_str(),
        "-m",
        PROBE_TEXT,
    ] {
        words.push(word.into());
    }
    let as_for_agent = CommandLine {
        environment: child_env::changed_for(config),
        ..CommandLine::default()
    };
    let command = Command::from(as_for_agent.to_command(&words[0]))
        .args(&words[1..])
        .env("CBROKER_HOME", config.home.folder())
        .env("CBROKER_SESSION", &session)
        .env("CBROKER_NAME", PROBE_SENDER)
        .env(
            "CBROKER_URL",
            config.endpoint.address.without_password().to_string(),
        )
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let outcome = tokio::time::timeout(WITHIN, command).await;
    let _left_for_the_sweep = std::fs::remove_file(config.home.session_credentials(&session));
    let output = outcome
        .map_err(|_| Error::new(format!("it did not end within {} s", WITHIN.as_secs())))?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(first_line(&output)))
}

fn first_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .next()
        .unwrap_or("it failed without an error message");
    line.trim_start_matches("cbroker: ").to_owned()
}

/// The settings files of the user, the project, and the project's local ones. Later files take
/// precedence.
fn settings_files(config: &Config) -> Vec<(SettingsOwner, PathBuf)> {
    let home = config.environment.get("HOME").map(PathBuf::from);
    let own = home.map(|home| home.join(".claude/settings.json"));
    let own = own.map(|file| (SettingsOwner::Person, file));
    let folder = [".claude/settings.json", ".claude/settings.local.json"];
    let folder = folder.map(|file| (SettingsOwner::Folder, file.into()));
    own.into_iter().chain(folder).collect()
}

impl SandboxSettings {
    fn of(files: &[(SettingsOwner, PathBuf)]) -> Self {
        let mut settings = Self::default();
        for (owner, file) in files {
            settings.add(*owner, file);
        }
        settings
    }

    fn add(&mut self, owner: SettingsOwner, file: &Path) {
        let Some(settings) = std::fs::read(file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        else {
            return;
        };
        let sandbox = &settings["sandbox"];
        if let Some(is_on) = sandbox["enabled"].as_bool() {
            self.on_by = is_on.then(|| file.to_owned());
        }
        if owner == SettingsOwner::Person {
            self.bwrap = sandbox["bwrapPath"].as_str().map(str::to_owned);
        }
        self.is_excepted |= sandbox["excludedCommands"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|command| command.starts_with("cbroker"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn codex_commands_have_the_network_if_its_configuration_allows_it() {
        let folder = tempfile::tempdir().unwrap();
        let allows = |text: &str| {
            let path = folder.path().join("config.toml");
            std::fs::write(&path, text).unwrap();
            allows_network(&path)
        };
        let network = "[sandbox_workspace_write]\nnetwork_access = true\n";
        assert!(allows(&format!(
            "sandbox_mode = \"workspace-write\"\n{network}"
        )));
        assert!(allows("sandbox_mode = \"danger-full-access\"\n"));
        for text in [
            "",
            "sandbox_mode = \"workspace-write\"\n",
            network,
            "no TOML",
        ] {
            assert!(!allows(text), "{text}");
        }
        assert!(!allows_network(&folder.path().join("absent")));
    }

    #[test]
    fn the_last_settings_file_decides_and_any_exception_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let on = write(
            "on.json",
            r#"{"sandbox":{"enabled":true,"bwrapPath":"/b"}}"#,
        );
        let off = write("off.json", r#"{"sandbox":{"enabled":false}}"#);
        let excepted = write(
            "excepted.json",
            r#"{"sandbox":{"excludedCommands":["cbroker send:*"]}}"#,
        );
        let absent = folder.path().join("absent.json");
        let [own, other] = [SettingsOwner::Person, SettingsOwner::Folder];
        let settings = SandboxSettings::of(&[(own, on.clone()), (other, absent)]);
        assert_eq!(settings.on_by, Some(on.clone()));
        assert_eq!(settings.bwrap.as_deref(), Some("/b"));
        assert!(!settings.is_excepted);
        let settings = SandboxSettings::of(&[(own, off.clone()), (other, on.clone())]);
        assert_eq!((settings.on_by, settings.bwrap), (Some(on.clone()), None));
        let settings = SandboxSettings::of(&[(own, on.clone()), (other, off)]);
        assert_eq!(settings.on_by, None);
        assert!(SandboxSettings::of(&[(own, excepted), (other, on)]).is_excepted);
    }
}
