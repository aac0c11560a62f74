//! The environment of the wrapped program, and the arguments of Claude Code.
//!
//! Variables of another session are removed, and no folder that other users can write to is added
//! to the search path.
//!
//! Relies on the profile, the hooks' settings and the configuration.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::WrapOptions;
use super::agents::Profile;
use super::agents::arguments::{self, Additions, ClaudeRun};
use super::agents::settings::{SettingsError, merge};
use super::hooks::{self, HookAddress};
use super::own_status;
use super::pty::{CommandLine, find_program};
use super::ways::claude_plugin::PluginSetup;
use crate::config::{Config, Environment, write_private};

/// The permission with which an agent can send answers without asking each time.
const SEND_PERMISSION: &str = "Bash(cbroker send:*)";

/// Variables that the program does not get. With the variables of another Claude Code it would
/// consider itself a part of that session.
const REMOVED: [&str; 3] = ["CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PID"];
/// The prefix of further variables that the program does not get.
const REMOVED_PREFIX: &str = "CLAUDE_CODE_MESSAGING_";

/// The default search path, as login programs set it.
const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Mode bits: users other than the owner may write.
const OTHERS_WRITE: u32 = 0o022;
/// Mode bit: only the owner of an entry or of the folder may rename or remove the entry.
const STICKY: u32 = 0o1000;

/// Whether the broker could be reached when the session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BrokerReach {
    /// It was.
    Attached,
    /// It was not, which the program learns from `CBROKER_DISABLED`.
    Away,
}

/// The identity of a session.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Its ULID.
    pub session: String,
    /// Where its hooks report.
    pub hooks: HookAddress,
    /// The private file for the settings of its agent.
    pub settings_file: PathBuf,
    /// This binary.
    pub binary: PathBuf,
    /// The plugin for Claude Code, if it could be set up.
    pub plugin: Option<PluginSetup>,
    /// Arguments of a way in, to insert in front of the program's.
    pub arguments: Vec<OsString>,
    /// Environment variables of that way in.
    pub environment: Vec<(OsString, OsString)>,
}

/// Whether anything listens to the agent's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HookListener {
    /// The session does.
    Session,
    /// The program replaces this process.
    Nobody,
}

/// Returns the program's command, and remarks for the log. Writes the agent's settings.
pub(super) fn command(
    options: &WrapOptions,
    config: &Config,
    identity: &Identity,
    reach: BrokerReach,
    listener: HookListener,
) -> (CommandLine, Vec<String>) {
    let profile = Profile::of(&options.program, &options.arguments);
    let (arguments, remark) = arguments_of(options, profile, identity, listener);
    let mut remarks: Vec<String> = remark.into_iter().collect();
    let mut environment = changed_for(config);
    let mut set = |name: &str, value: Option<OsString>| environment.push((name.into(), value));
    let url = config.endpoint.address.without_password().to_string();
    set("CBROKER_NAME", Some(options.name.as_str().into()));
    set("CBROKER_URL", Some(url.into()));
    set("CBROKER_SESSION", Some(identity.session.clone().into()));
    set(
        "CBROKER_DISABLED",
        (reach == BrokerReach::Away).then(|| "1".into()),
    );
    let path = config.environment.get("PATH");
    match path_with_binary(path, &identity.binary, &options.program) {
        Ok(Some(path)) => set("PATH", Some(path)),
        Ok(None) => {}
        Err(open) => remarks.push(open.to_string()),
    }
    let given = identity.environment.iter().cloned();
    environment.extend(given.map(|(name, value)| (name, Some(value))));
    let command = CommandLine {
        program: options.program.clone(),
        arguments: [identity.arguments.clone(), arguments].concat(),
        environment,
    };
    (command, remarks)
}

/// Returns the program's command without messages.
pub(super) fn bare_command(
    program: OsString,
    arguments: Vec<OsString>,
    environment: &Environment,
) -> CommandLine {
    let mut environment = changed(environment);
    environment.push(("CBROKER_DISABLED".into(), Some("1".into())));
    CommandLine {
        program,
        arguments,
        environment,
    }
}

/// Whether these arguments start a session at the terminal.
pub(super) fn is_session(options: &WrapOptions) -> bool {
    let profile = Profile::of(&options.program, &options.arguments);
    !profile.has_hooks || arguments::claude_run_of(&options.arguments) != ClaudeRun::NoSession
}

/// Whether these arguments start a session of Claude Code without hooks.
pub(super) fn is_bare(options: &WrapOptions) -> bool {
    let profile = Profile::of(&options.program, &options.arguments);
    profile.has_hooks
        && arguments::claude_run_of(&options.arguments) == ClaudeRun::SessionWithoutHooks
}

/// Claude Code's own folder, with its status files.
pub(super) fn claude_folder(profile: &Profile, config: &Config) -> Option<PathBuf> {
    let named = |name: &str| config.environment.get(name);
    let folder = own_status::folder(named("CLAUDE_CONFIG_DIR"), named("HOME"));
    folder.filter(|_| profile.has_hooks)
}

fn arguments_of(
    options: &WrapOptions,
    profile: &Profile,
    identity: &Identity,
    listener: HookListener,
) -> (Vec<OsString>, Option<String>) {
    if !profile.has_hooks || arguments::claude_run_of(&options.arguments) != ClaudeRun::Session {
        return (options.arguments.clone(), None);
    }
    let additions = Additions {
        briefing: options
            .is_briefed
            .then(|| super::briefing::text(options.name.as_str())),
        settings: settings(options, identity, listener),
        settings_file: identity.settings_file.clone(),
        plugin: identity.plugin.as_ref().map(|given| given.folder.clone()),
    };
    match with_settings_file(&options.arguments, &additions) {
        Ok(arguments) => (arguments, None),
        Err(why) => (
            options.arguments.clone(),
            Some(format!("no hooks and no briefing: {why}")),
        ),
    }
}

/// Why the agent gets no settings.
#[derive(Debug, thiserror::Error)]
enum NoSettings {
    #[error("the settings given to the agent cannot be merged: {0}")]
    Unmerged(#[from] SettingsError),
    #[error("the agent's settings cannot be written: {0}")]
    Unwritten(#[from] io::Error),
}

/// Joins the arguments, and writes the settings that they name.
fn with_settings_file(
    arguments: &[OsString],
    additions: &Additions,
) -> Result<Vec<OsString>, NoSettings> {
    let joined = arguments::join(arguments, additions)?;
    if let Some(settings) = &joined.settings {
        write_private(&additions.settings_file, settings.to_string().as_bytes())?;
    }
    Ok(joined.arguments)
}

/// The settings with the hooks, the permission to send and the plugin's options; `None` if there is
/// nothing to set.
fn settings(options: &WrapOptions, identity: &Identity, listener: HookListener) -> Option<Value> {
    let hooks = (listener == HookListener::Session)
        .then(|| hooks::settings(&identity.binary, &identity.hooks));
    let plugin = identity.plugin.as_ref();
    let plugin = plugin.map(|plugin| plugin.settings(&identity.binary));
    let permission = json!({"permissions": {"allow": [SEND_PERMISSION]}});
    let permission = options.may_send.then_some(permission);
    let parts = [hooks, plugin, permission].into_iter().flatten();
    parts.reduce(|all, part| merge(&all, &part))
}

/// As [`changed`], for a program that gets messages of the configured broker.
pub(super) fn changed_for(config: &Config) -> Vec<(OsString, Option<OsString>)> {
    let withheld = config.withheld_api_variables().iter();
    let withheld = withheld.map(|name| (OsString::from(name), None));
    let changed = changed(&config.environment).into_iter();
    changed.chain(withheld).collect()
}

/// The variables of this process that an agent does not get, or gets without the person's password.
/// It does not get those of a session around this process, so that it does not act in its name.
pub(super) fn changed(environment: &Environment) -> Vec<(OsString, Option<OsString>)> {
    let is_removed = |name: &&OsStr| {
        REMOVED.iter().any(|removed| name == removed)
            || name
                .as_encoded_bytes()
                .starts_with(REMOVED_PREFIX.as_bytes())
    };
    let removed = environment.names().filter(is_removed);
    let removed = removed.map(|name| (name.to_owned(), None));
    let cleaned = environment.changes_for_program().into_iter();
    let cleaned = cleaned.map(|(name, value)| (name.into(), value));
    removed.chain(cleaned).collect()
}

/// The error if the folder of this binary is not put on the program's PATH, because other users can
/// write to it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the program may not find `cbroker`: {} is not on its PATH, since other users can write to {}",
    ours.display(),
    open.display()
)]
struct WritableFolder {
    /// The folder of this binary.
    ours: PathBuf,
    /// That folder, or one above it.
    open: PathBuf,
}

/// Returns the search path with this binary's folder, if `cbroker` would be another program or
/// none. The folder comes last, because it can contain other programs. It comes first only if
/// another `cbroker` would be found, and never if it contains a program with the name of the
/// wrapped one.
fn path_with_binary(
    path: Option<&OsStr>,
    binary: &Path,
    program: &OsStr,
) -> Result<Option<OsString>, WritableFolder> {
    let Ok(binary) = binary.canonicalize() else {
        return Ok(None);
    };
    let is_this_binary = |found: PathBuf| found.canonicalize().is_ok_and(|found| found == binary);
    let found = find_program(OsStr::new("cbroker"), path);
    let is_other = found.is_some();
    if found.is_some_and(is_this_binary) {
        return Ok(None);
    }
    let Some(ours) = binary.parent() else {
        return Ok(None);
    };
    if let Some(open) = writable_by_others(ours) {
        return Err(WritableFolder {
            ours: ours.to_owned(),
            open: open.to_owned(),
        });
    }
    let rest = path.unwrap_or(OsStr::new(STANDARD_PATH));
    let mut folders: Vec<PathBuf> = std::env::split_paths(rest).collect();
    let is_name = !program.as_encoded_bytes().contains(&b'/');
    let hides_program = is_name && find_program(program, Some(ours.as_os_str())).is_some();
    let place = if is_other && !hides_program {
        0
    } else {
        folders.len()
    };
    folders.insert(place, ours.to_owned());
    Ok(std::env::join_paths(folders).ok())
}

/// The first of `folder` and its parents that users other than root and this one can change: in
/// `folder` itself they can add a program, and in a parent they can replace a folder.
fn writable_by_others(folder: &Path) -> Option<&Path> {
    let us = rustix::process::geteuid().as_raw();
    let mut role = FolderRole::HoldsPrograms;
    folder.ancestors().find(|folder| {
        let is_closed = folder
            .symlink_metadata()
            .is_ok_and(|found| found.is_dir() && role.is_closed(found.uid(), found.mode(), us));
        role = FolderRole::HoldsFolder;
        !is_closed
    })
}

/// What a folder holds that other users must not be able to change.
#[derive(Clone, Copy, Debug)]
enum FolderRole {
    /// Programs. Other users must not be able to add a file, which the sticky bit does not prevent.
    HoldsPrograms,
    /// A folder of root or of this user: with the sticky bit, as in `/tmp`, others can neither
    /// rename nor remove it.
    HoldsFolder,
}

impl FolderRole {
    fn is_closed(self, owner: u32, mode: u32, us: u32) -> bool {
        let is_kept = match self {
            Self::HoldsPrograms => false,
            Self::HoldsFolder => mode & STICKY != 0,
        };
        (owner == 0 || owner == us) && (mode & OTHERS_WRITE == 0 || is_kept)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_folders_that_nobody_else_can_change_are_closed() {
        for role in [FolderRole::HoldsPrograms, FolderRole::HoldsFolder] {
            for (owner, mode) in [(0, 0o755), (7, 0o700), (7, 0o2755)] {
                assert!(role.is_closed(owner, mode, 7), "{role:?} {owner} {mode:o}");
            }
            for (owner, mode) in [(7, 0o775), (7, 0o757), (0, 0o777), (8, 0o700), (8, 0o1777)] {
                assert!(!role.is_closed(owner, mode, 7), "{role:?} {owner} {mode:o}");
            }
        }
        assert!(!FolderRole::HoldsPrograms.is_closed(0, 0o1777, 7));
        assert!(FolderRole::HoldsFolder.is_closed(0, 0o1777, 7));
    }

    #[test]
    fn a_folder_within_a_writable_folder_is_writable() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let inner = folder.path().join("bin");
        std::fs::create_dir(&inner).unwrap();
        assert_eq!(writable_by_others(&inner), None, "/tmp has the sticky bit");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        assert_eq!(writable_by_others(&inner), Some(folder.path()));
        assert_eq!(
            writable_by_others(Path::new("/tmp")),
            Some(Path::new("/tmp"))
        );
    }

    #[test]
    fn variables_of_another_session_are_removed_and_the_persons_settings_stay() {
        let environment = Environment::from_iter([
            ("CLAUDECODE", "1"),
            ("CLAUDE_CODE_MESSAGING_TOKEN", ""),
            ("CLAUDE_CODE_USE_VERTEX", "1"),
            ("CBROKER_MGMT_PASS", "hush"),
            ("CBROKER_NAME", "outer"),
            ("CBROKER_SESSION", "01J"),
            ("PATH", "/bin"),
        ]);
        let names: Vec<_> = changed(&environment)
            .into_iter()
            .map(|(name, value)| {
                assert_eq!(value, None);
                name.into_string().unwrap()
            })
            .collect();
        assert_eq!(
            names,
            [
                "CLAUDECODE",
                "CLAUDE_CODE_MESSAGING_TOKEN",
                "CBROKER_MGMT_PASS",
                "CBROKER_NAME",
                "CBROKER_SESSION"
            ]
        );
    }
}
