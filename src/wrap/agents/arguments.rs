//! The arguments of `claude`: decides whether they start an interactive session, and adds cbroker's
//! arguments.
//!
//! A second `--settings` or `--append-system-prompt` replaces the first, so the user's values are
//! merged with cbroker's, and the result comes first, where no subcommand can reject it. Settings
//! may hold secrets, and other users can read a command line, so the merged settings go into a
//! private file, whose path is the argument.
//!
//! Relies on `serde_json` and on [`settings`] for the settings.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::Value;

use super::settings::{self, SettingsError, merge};

/// Subcommands, which do not start a session.
const SUBCOMMANDS: [&str; 17] = [
    "agents",
    "attach",
    "auth",
    "auto-mode",
    "config",
    "daemon",
    "doctor",
    "gateway",
    "install",
    "logs",
    "mcp",
    "plugin",
    "plugins",
    "project",
    "setup-token",
    "update",
    "upgrade",
];
/// Options that exit at once or answer without a terminal.
const WITHOUT_SESSION: [&str; 6] = ["-p", "--print", "-v", "--version", "-h", "--help"];
/// Options that disable hooks; nothing is added to the arguments.
const WITHOUT_HOOKS: [&str; 2] = ["--bare", "--safe-mode"];
/// Options whose value is the next argument.
const WITH_VALUE: [&str; 22] = [
    "--agent",
    "--agents",
    "--append-system-prompt",
    "--append-system-prompt-file",
    "--debug-file",
    "--effort",
    "--fallback-model",
    "--input-format",
    "--json-schema",
    "--max-budget-usd",
    "--max-turns",
    "--model",
    "--name",
    "-n",
    "--output-format",
    "--permission-mode",
    "--permission-prompt-tool",
    "--session-id",
    "--setting-sources",
    "--settings",
    "--system-prompt",
    "--system-prompt-file",
];
/// Options that take every following argument up to the next option.
const WITH_VALUES: [&str; 11] = [
    "--add-dir",
    "--allowedTools",
    "--allowed-tools",
    "--betas",
    "--disallowedTools",
    "--disallowed-tools",
    "--file",
    "--mcp-config",
    "--plugin-dir",
    "--tools",
    "--channels",
];

/// What `claude` does with some arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaudeRun {
    /// A session at the terminal.
    Session,
    /// A session at the terminal in which hooks do not run.
    SessionWithoutHooks,
    /// No session at the terminal: nothing is typed, and nothing is added to the arguments.
    NoSession,
}

/// Determines what `claude` does with these arguments.
pub fn claude_run_of(arguments: &[OsString]) -> ClaudeRun {
    let mut run = ClaudeRun::Session;
    let mut words = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        if WITHOUT_SESSION.contains(&word.as_ref()) {
            return ClaudeRun::NoSession;
        }
        if WITHOUT_HOOKS.contains(&word.as_ref()) {
            run = ClaudeRun::SessionWithoutHooks;
        } else if WITH_VALUE.contains(&word.as_ref()) {
            words.next();
        } else if WITH_VALUES.contains(&word.as_ref()) {
            while words.next_if(|value| !value.starts_with('-')).is_some() {}
        } else if SUBCOMMANDS.contains(&word.as_ref()) {
            return ClaudeRun::NoSession;
        }
    }
    run
}

/// The arguments that cbroker adds.
#[derive(Clone, Debug)]
pub struct Additions {
    /// For `--append-system-prompt`.
    pub briefing: Option<String>,
    /// For `--settings`, if there are any.
    pub settings: Option<Value>,
    /// The file for the settings, merged with the user's.
    pub settings_file: PathBuf,
    /// For `--plugin-dir`, which may be given several times.
    pub plugin: Option<PathBuf>,
}

/// The arguments of an agent, and what their file must hold.
#[derive(Clone, Debug)]
pub struct JoinedArguments {
    /// All arguments.
    pub arguments: Vec<OsString>,
    /// The content of [`Additions::settings_file`], if the arguments name it.
    pub settings: Option<Value>,
}

/// Adds cbroker's arguments in front of the user's. Fails if the user's settings cannot be read;
/// nothing may be added then.
pub fn join(
    arguments: &[OsString],
    additions: &Additions,
) -> Result<JoinedArguments, SettingsError> {
    let mut rest = arguments.to_vec();
    let mut joined = Vec::new();
    let mut settings = additions.settings.clone();
    if let Some(ours) = &mut settings
        && let Some(theirs) = take(&mut rest, "--settings")
    {
        *ours = merge(&settings::read(&theirs)?, ours);
    }
    if let Some(plugin) = &additions.plugin {
        joined.push("--plugin-dir".into());
        joined.push(plugin.into());
    }
    if settings.is_some() {
        joined.push("--settings".into());
        joined.push(additions.settings_file.clone().into());
    }
    // A prompt in a file cannot be combined with the briefing, which is left to `cbroker brief`
    // then.
    let has_file = rest.iter().any(|word| {
        word.to_string_lossy()
            .starts_with("--append-system-prompt-file")
    });
    if let Some(briefing) = additions.briefing.as_ref().filter(|_| !has_file) {
        let mut prompt = OsString::new();
        if let Some(theirs) = take(&mut rest, "--append-system-prompt") {
            prompt.push(theirs);
            prompt.push("\n\n");
        }
        prompt.push(briefing);
        joined.push("--append-system-prompt".into());
        joined.push(prompt);
    }
    joined.append(&mut rest);
    Ok(JoinedArguments {
        arguments: joined,
        settings,
    })
}

/// Removes every occurrence of an option and returns the last value, which is the effective one.
fn take(arguments: &mut Vec<OsString>, option: &str) -> Option<OsString> {
    let mut value = None;
    let mut rest = Vec::with_capacity(arguments.len());
    let mut words = std::mem::take(arguments).into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word);
            break;
        }
        let text = word.to_string_lossy();
        if text == option {
            value = words.next().or(value);
        } else if let Some(inline) = text
            .strip_prefix(option)
            .and_then(|rest| rest.strip_prefix('='))
        {
            value = Some(inline.into());
        } else {
            rest.push(word);
        }
    }
    rest.extend(words);
    *arguments = rest;
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn subcommands_and_one_shot_options_start_no_session() {
        for line in [
            "",
            "--resume",
            "--model opus",
            "hello",
            "--settings {} -c",
            "--mcp-config mcp.json update --model x",
            "-- -p",
        ] {
            assert_eq!(claude_run_of(&words(line)), ClaudeRun::Session, "{line}");
        }
        for line in [
            "-p hi",
            "--version",
            "--help",
            "mcp list",
            "--model opus doctor",
            "--add-dir a b --print",
            "update",
        ] {
            assert_eq!(claude_run_of(&words(line)), ClaudeRun::NoSession, "{line}");
        }
        assert_eq!(
            claude_run_of(&words("--bare")),
            ClaudeRun::SessionWithoutHooks
        );
    }

    /// Additions with these settings.
    fn with(settings: Value) -> Additions {
        Additions {
            briefing: None,
            settings: Some(settings),
            settings_file: "/file".into(),
            plugin: None,
        }
    }

    #[test]
    fn our_arguments_come_first_and_the_users_are_kept() {
        let ours = Additions {
            briefing: Some("B".into()),
            ..with(json!({"hooks": {"Stop": [1]}}))
        };
        let mut line = words(
            "--model opus --settings={\"hooks\":{\"Stop\":[0],\"X\":[2]},\"a\":1} \
             --append-system-prompt",
        );
        line.push("theirs".into());
        line.push("prompt".into());
        let joined = join(&line, &ours).unwrap();
        assert_eq!(
            joined.settings,
            Some(json!({"hooks": {"Stop": [0, 1], "X": [2]}, "a": 1}))
        );
        let mut expected = words("--settings /file --append-system-prompt x --model opus prompt");
        expected[3] = "theirs\n\nB".into();
        assert_eq!(joined.arguments, expected);
    }

    #[test]
    fn nothing_is_added_if_the_settings_cannot_be_read() {
        let ours = with(json!({}));
        assert!(join(&words("--settings /no/such/file"), &ours).is_err());
        assert!(join(&words("--settings {broken"), &ours).is_err());
    }

    #[test]
    fn without_settings_of_ours_the_users_stay_where_they_are() {
        let ours = Additions {
            settings: None,
            ..with(json!({}))
        };
        let line = words("--model opus --settings {broken");
        let joined = join(&line, &ours).unwrap();
        assert_eq!((joined.arguments, joined.settings), (line, None));
    }

    #[test]
    fn our_plugin_is_added_to_the_users_plugins() {
        let ours = Additions {
            plugin: Some("/ours".into()),
            ..with(json!({}))
        };
        let joined = join(&words("--plugin-dir /theirs"), &ours).unwrap();
        assert_eq!(
            joined.arguments,
            words("--plugin-dir /ours --settings /file --plugin-dir /theirs")
        );
    }

    #[test]
    fn arguments_after_two_dashes_are_not_parsed() {
        let joined = join(&words("-- --settings x"), &with(json!({}))).unwrap();
        assert_eq!(joined.arguments, words("--settings /file -- --settings x"));
    }
}
