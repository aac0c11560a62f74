//! The arguments of `claude`: decides whether they start an interactive session, and adds cbroker's
//! arguments.
//!
//! A second `--settings` or `--append-system-prompt` replaces the first, so the user's values are
//! merged with cbroker's, and the result comes first, where no subcommand can reject it.
//!
//! Relies on `serde_json` for the settings.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

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
    /// For `--settings`.
    pub settings: Value,
    /// For `--plugin-dir`, which may be given several times.
    pub plugin: Option<PathBuf>,
}

/// Why the value of the user's `--settings` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It begins like JSON and cannot be parsed.
    #[error("the value of --settings is not JSON: {0}")]
    Value(#[source] serde_json::Error),
    /// It names a file that cannot be read.
    #[error("{file}: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// It names a file that is not JSON.
    #[error("{file} is not JSON: {source}")]
    NotJson {
        /// The file.
        file: String,
        /// The parse error.
        source: serde_json::Error,
    },
    /// It is JSON of another type.
    #[error("the value of --settings is not a JSON object")]
    NotAnObject,
}

/// Adds cbroker's arguments in front of the user's. Fails if the user's settings cannot be read;
/// nothing may be added then.
pub fn join(arguments: &[OsString], additions: &Additions) -> Result<Vec<OsString>, SettingsError> {
    let mut rest = arguments.to_vec();
    let mut joined = Vec::new();
    let settings = match take(&mut rest, "--settings") {
        Some(theirs) => merge(&read_settings(&theirs)?, &additions.settings),
        None => additions.settings.clone(),
    };
    if let Some(plugin) = &additions.plugin {
        joined.push("--plugin-dir".into());
        joined.push(plugin.into());
    }
    joined.push("--settings".into());
    joined.push(settings.to_string().into());
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
    Ok(joined)
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

/// Reads the value of `--settings`, which is JSON or the path of a JSON file.
fn read_settings(value: &OsString) -> Result<Value, SettingsError> {
    let text = value.to_string_lossy();
    let parsed = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(SettingsError::Value)?
    } else {
        let file = || text.to_string();
        let content = std::fs::read_to_string(Path::new(value)).map_err(|source| {
            SettingsError::Unreadable {
                file: file(),
                source,
            }
        })?;
        serde_json::from_str(&content).map_err(|source| SettingsError::NotJson {
            file: file(),
            source,
        })?
    };
    match parsed {
        Value::Object(_) => Ok(parsed),
        _ => Err(SettingsError::NotAnObject),
    }
}

/// Merges two values: lists are concatenated, objects are merged by field, and otherwise the user's
/// value is used.
pub fn merge(theirs: &Value, ours: &Value) -> Value {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let mut both: Map<String, Value> = theirs.clone();
            for (key, value) in ours {
                let merged = both
                    .get(key)
                    .map_or_else(|| value.clone(), |their| merge(their, value));
                both.insert(key.clone(), merged);
            }
            Value::Object(both)
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            Value::Array(theirs.iter().chain(ours).cloned().collect())
        }
        _ => theirs.clone(),
    }
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

    #[test]
    fn our_arguments_come_first_and_the_users_are_kept() {
        let ours = Additions {
            briefing: Some("B".into()),
            settings: json!({"hooks": {"Stop": [1]}}),
            plugin: None,
        };
        let mut line = words(
            "--model opus --settings={\"hooks\":{\"Stop\":[0],\"X\":[2]},\"a\":1} \
             --append-system-prompt",
        );
        line.push("theirs".into());
        line.push("prompt".into());
        let joined = join(&line, &ours).unwrap();
        let settings: Value = serde_json::from_str(joined[1].to_str().unwrap()).unwrap();
        assert_eq!(
            settings,
            json!({"hooks": {"Stop": [0, 1], "X": [2]}, "a": 1})
        );
        assert_eq!(joined[0], "--settings");
        assert_eq!(
            joined[2..],
            words("--append-system-prompt x --model opus prompt")
                .iter()
                .cloned()
                .enumerate()
                .map(|(place, word)| if place == 1 {
                    "theirs\n\nB".into()
                } else {
                    word
                })
                .collect::<Vec<OsString>>()
        );
    }

    #[test]
    fn nothing_is_added_if_the_settings_cannot_be_read() {
        let ours = Additions {
            briefing: None,
            settings: json!({}),
            plugin: None,
        };
        assert!(join(&words("--settings /no/such/file"), &ours).is_err());
        assert!(join(&words("--settings {broken"), &ours).is_err());
    }

    #[test]
    fn our_plugin_is_added_to_the_users_plugins() {
        let ours = Additions {
            briefing: None,
            settings: json!({}),
            plugin: Some("/ours".into()),
        };
        let joined = join(&words("--plugin-dir /theirs"), &ours).unwrap();
        assert_eq!(
            joined,
            words("--plugin-dir /ours --settings {} --plugin-dir /theirs")
        );
    }

    #[test]
    fn arguments_after_two_dashes_are_not_parsed() {
        let ours = Additions {
            briefing: None,
            settings: json!({}),
            plugin: None,
        };
        let joined = join(&words("-- --settings x"), &ours).unwrap();
        assert_eq!(joined, words("--settings {} -- --settings x"));
    }
}
