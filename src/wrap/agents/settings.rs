//! The settings that a person gives to Claude Code with `--settings`, and their merge with
//! cbroker's.
//!
//! The value is JSON, or the path of a JSON file. Claude Code resolves some paths in a file against
//! the folder of that file. The merged settings are in another folder, so these paths are made
//! absolute: a rule that denies something must not begin to mean something else.
//!
//! Relies on `serde_json`.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Tools whose rules name files. `Read(/src/**)` begins at the folder of the settings file,
/// `Read(//src/**)` at the root.
const FILE_TOOLS: [&str; 9] = [
    "Edit",
    "Glob",
    "Grep",
    "LS",
    "MultiEdit",
    "NotebookEdit",
    "NotebookRead",
    "Read",
    "Write",
];
/// Lists of rules.
const RULES: [&str; 3] = [
    "/permissions/allow",
    "/permissions/ask",
    "/permissions/deny",
];
/// Lists of paths, which may be relative to the folder of the settings file.
const PATHS: [&str; 4] = [
    "/sandbox/filesystem/allowRead",
    "/sandbox/filesystem/allowWrite",
    "/sandbox/filesystem/denyRead",
    "/sandbox/filesystem/denyWrite",
];
/// A list of objects with such a path.
const CREDENTIALS: &str = "/sandbox/credentials/files";
/// Characters with a meaning in a rule or in a pattern of paths.
const PATTERN_CHARACTERS: &str = r"*?[]{}()\";

/// Why the value of the user's `--settings` cannot be merged.
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
    /// A path in it cannot be made absolute.
    #[error(
        "`{path}` begins at {}, whose name has characters with a meaning in a pattern",
        folder.display()
    )]
    Folder {
        /// The path or rule.
        path: String,
        /// The folder of the settings file.
        folder: PathBuf,
    },
}

/// Reads the value of `--settings`. Its paths are absolute where they began at the folder of its
/// file.
pub(super) fn read(value: &OsStr) -> Result<Value, SettingsError> {
    let text = value.to_string_lossy();
    let mut settings;
    if text.trim_start().starts_with('{') {
        settings = serde_json::from_str(&text).map_err(SettingsError::Value)?;
    } else {
        let (path, file) = (Path::new(value), || text.to_string());
        let content =
            std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
                file: file(),
                source,
            })?;
        settings = serde_json::from_str(&content).map_err(|source| SettingsError::NotJson {
            file: file(),
            source,
        })?;
        // A pipe has no path of its own.
        let path = path.canonicalize().or_else(|_| std::path::absolute(path));
        let folder = path.as_deref().ok().and_then(Path::parent);
        anchor(&mut settings, folder.unwrap_or(Path::new("/")))?;
    }
    match settings {
        Value::Object(_) => Ok(settings),
        _ => Err(SettingsError::NotAnObject),
    }
}

/// Makes the paths absolute that begin at `folder`.
fn anchor(settings: &mut Value, folder: &Path) -> Result<(), SettingsError> {
    for list in RULES {
        for rule in items(settings, list) {
            replace(rule, folder, anchored_rule)?;
        }
    }
    for list in PATHS {
        for path in items(settings, list) {
            replace(path, folder, anchored_path)?;
        }
    }
    for file in items(settings, CREDENTIALS) {
        if let Some(path) = file.get_mut("path") {
            replace(path, folder, anchored_path)?;
        }
    }
    Ok(())
}

/// The items of the list at a JSON pointer.
fn items<'a>(settings: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    let list = settings.pointer_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Replaces a text by its absolute form, if it has another one.
fn replace(
    value: &mut Value,
    folder: &Path,
    anchored: impl Fn(&str, &str) -> Option<String>,
) -> Result<(), SettingsError> {
    let Some(text) = value.as_str() else {
        return Ok(());
    };
    let shown = folder.to_string_lossy();
    let Some(absolute) = anchored(text, shown.trim_end_matches('/')) else {
        return Ok(());
    };
    if folder.to_str().is_none() || shown.contains(|letter| PATTERN_CHARACTERS.contains(letter)) {
        return Err(SettingsError::Folder {
            path: text.to_owned(),
            folder: folder.to_owned(),
        });
    }
    *value = absolute.into();
    Ok(())
}

/// `Read(/src/**)` as `Read(//folder/src/**)`; `None` for a rule that does not begin at the folder.
fn anchored_rule(rule: &str, folder: &str) -> Option<String> {
    let (tool, rest) = rule.split_once('(')?;
    let begins_there = rest.starts_with('/') && !rest.starts_with("//");
    let is_meant = begins_there && FILE_TOOLS.contains(&tool.trim());
    is_meant.then(|| format!("{tool}(/{folder}{rest}"))
}

/// A relative path as one below the folder; `None` for another one.
fn anchored_path(path: &str, folder: &str) -> Option<String> {
    let is_of_home = path == "~" || path.starts_with("~/");
    let is_relative = !path.is_empty() && !path.starts_with('/') && !is_of_home;
    is_relative.then(|| format!("{folder}/{path}"))
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

    #[test]
    fn paths_that_begin_at_the_folder_of_their_file_stay_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.json");
        let given = json!({
            "permissions": {
                "allow": ["Bash(/bin/ls)", "Read(src/**)", "Read(//etc/**)", "Edit(~/x)", 1],
                "deny": ["Read(/keys/**)", "WebFetch"],
            },
            "sandbox": {
                "filesystem": {"denyRead": ["keys", "./more", "/etc", "~/x", "~"]},
                "credentials": {"files": [{"path": "token"}, {"path": "/etc/token"}]},
            },
        });
        std::fs::write(&file, given.to_string()).unwrap();
        let at = folder.path().canonicalize().unwrap();
        let at = at.display();
        let expected = json!({
            "permissions": {
                "allow": ["Bash(/bin/ls)", "Read(src/**)", "Read(//etc/**)", "Edit(~/x)", 1],
                "deny": [format!("Read(/{at}/keys/**)"), "WebFetch"],
            },
            "sandbox": {
                "filesystem": {
                    "denyRead": [format!("{at}/keys"), format!("{at}/./more"), "/etc", "~/x", "~"],
                },
                "credentials": {"files": [{"path": format!("{at}/token")}, {"path": "/etc/token"}]},
            },
        });
        assert_eq!(read(file.as_os_str()).unwrap(), expected);
        // Without a file there is no such folder.
        assert_eq!(read(given.to_string().as_ref()).unwrap(), given);
    }

    #[test]
    fn a_folder_that_would_be_a_pattern_is_refused_where_a_path_begins_there() {
        let folder = tempfile::Builder::new().prefix("a[b]").tempdir().unwrap();
        let file = folder.path().join("other.json");
        for (rule, is_read) in [("Read(/keys/**)", false), ("Read(keys/**)", true)] {
            let settings = json!({"permissions": {"deny": [rule]}});
            std::fs::write(&file, settings.to_string()).unwrap();
            assert_eq!(read(file.as_os_str()).is_ok(), is_read, "{rule}");
        }
    }

    #[test]
    fn what_is_no_object_of_json_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.json");
        std::fs::write(&file, "[]").unwrap();
        for value in [
            file.as_os_str(),
            "/no/such/file".as_ref(),
            "{broken".as_ref(),
        ] {
            assert!(read(value).is_err(), "{}", value.display());
        }
    }
}
