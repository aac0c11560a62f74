//! What the wrapped program finds around it: its environment, and for Claude Code its arguments (SPEC §4, §7.12, §7.13).
//!
//! Relies on the profile, the hooks' settings and the configuration.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::WrapOptions;
use super::agents::Profile;
use super::agents::arguments::{self, Additions, Run};
use super::hooks;
use super::pty::{CommandLine, find_program};
use crate::config::Config;

/// The permission that lets an agent answer without a question each time (SPEC §7.13).
const SEND_PERMISSION: &str = "Bash(cbroker send:*)";

/// Whether the broker could be reached when the session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It was.
    Attached,
    /// It was not; the program is told, for its information.
    Away,
}

/// A session's own marks.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Its ULID.
    pub session: String,
    /// The socket of its hooks.
    pub socket: PathBuf,
    /// What its hooks say first on that socket.
    pub token: String,
    /// This binary.
    pub binary: PathBuf,
}

/// The program's command, and what the log should say about it.
pub(super) fn command(
    options: &WrapOptions,
    config: &Config,
    identity: &Identity,
    reach: Reach,
) -> (CommandLine, Option<String>) {
    let profile = Profile::of(&options.program, &options.arguments);
    let (arguments, remark) = arguments_of(options, profile, identity);
    let mut environment: Vec<(OsString, Option<OsString>)> = vec![
        ("CBROKER_NAME".into(), Some(options.name.as_str().into())),
        (
            "CBROKER_URL".into(),
            Some(
                config
                    .endpoint
                    .address
                    .without_password()
                    .to_string()
                    .into(),
            ),
        ),
        (
            "CBROKER_SESSION".into(),
            Some(identity.session.clone().into()),
        ),
        (
            "CBROKER_DISABLED".into(),
            (reach == Reach::Away).then(|| "1".into()),
        ),
    ];
    if let Some(path) = path_with_us(config.environment.get("PATH"), &identity.binary) {
        environment.push(("PATH".into(), Some(path)));
    }
    (
        CommandLine {
            program: options.program.clone(),
            arguments,
            environment,
        },
        remark,
    )
}

/// Whether these arguments make a session at the terminal (SPEC §7.11).
pub(super) fn is_session(options: &WrapOptions) -> bool {
    let profile = Profile::of(&options.program, &options.arguments);
    !profile.has_hooks || arguments::run_of(&options.arguments) != Run::Answer
}

fn arguments_of(
    options: &WrapOptions,
    profile: &Profile,
    identity: &Identity,
) -> (Vec<OsString>, Option<String>) {
    if !profile.has_hooks || arguments::run_of(&options.arguments) != Run::Session {
        return (options.arguments.clone(), None);
    }
    let additions = Additions {
        briefing: options
            .is_briefed
            .then(|| super::briefing::text(options.name.as_str())),
        settings: hooks::settings(
            &identity.binary,
            &identity.socket,
            &identity.token,
            options.may_send.then_some(SEND_PERMISSION),
        ),
    };
    match arguments::join(&options.arguments, &additions) {
        Ok(joined) => (joined, None),
        Err(why) => (
            options.arguments.clone(),
            Some(format!(
                "no hooks and no briefing: the settings given to the agent cannot be merged: {why}"
            )),
        ),
    }
}

/// The search path with our folder in front, where `cbroker` would be another program or none.
fn path_with_us(path: Option<&OsStr>, binary: &Path) -> Option<OsString> {
    let is_us = |found: PathBuf| found.canonicalize().ok() == binary.canonicalize().ok();
    if find_program(OsStr::new("cbroker"), path).is_some_and(is_us) {
        return None;
    }
    let ours = binary.parent()?.to_owned();
    let folders = std::iter::once(ours).chain(path.into_iter().flat_map(std::env::split_paths));
    std::env::join_paths(folders).ok()
}
