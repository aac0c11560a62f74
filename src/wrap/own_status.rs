//! Reads Claude Code's status files: `sessions/PID.json` in its folder, one for each process.
//!
//! With version 2.1.332 they hold the status (`idle`, `busy`, or `waiting` and what for), and the
//! session and its folder, which name the transcript: `projects/FOLDER/SESSION.jsonl`, where FOLDER
//! has a dash for each character that is neither letter nor digit. A missing or invalid file is
//! treated as empty.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::hold::Hold;
use super::ways::transcript;

/// Maximum bytes of the file, which usually has less than a thousand.
const LIMIT: u64 = 64 * 1024;
/// Maximum length of a project's folder name. How longer names are cut is not known.
const FOLDER_NAME: usize = 200;

/// The status of a process of Claude Code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnStatus {
    /// It waits for a prompt.
    Idle,
    /// It does something else.
    Busy,
    /// It waits for the person to do this.
    Waiting(String),
}

impl OwnStatus {
    /// Why no text may be typed; `None` if it is idle.
    pub fn hold(&self) -> Option<Hold> {
        match self {
            Self::Idle => None,
            Self::Busy => Some(Hold::Busy),
            Self::Waiting(what) => Some(Hold::Dialog(what.clone())),
        }
    }
}

/// The content of a status file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusFile {
    /// The status.
    pub status: Option<OwnStatus>,
    /// The transcript that it writes.
    pub transcript: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusEntry {
    status: Option<String>,
    waiting_for: Option<String>,
    session_id: Option<String>,
    cwd: Option<String>,
}

/// Claude Code's folder, from the values of `CLAUDE_CONFIG_DIR` and `HOME`.
pub fn folder(config: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    let is_set = |value: &&OsStr| !value.is_empty();
    let named = config.filter(is_set).map(PathBuf::from);
    let folder = named.or_else(|| Some(Path::new(home.filter(is_set)?).join(".claude")))?;
    folder.is_absolute().then_some(folder)
}

/// The path of the status file of the process `pid` in Claude Code's folder; `None` if either is
/// not known.
pub fn path(folder: &str, pid: &str) -> Option<PathBuf> {
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    let folder = Path::new(folder);
    (is_number && folder.is_absolute()).then(|| folder.join("sessions").join(format!("{pid}.json")))
}

/// Reads a status file.
pub fn read(path: &Path) -> StatusFile {
    let Some(entry) = entry(path) else {
        return StatusFile::default();
    };
    let transcript = transcript_of(path, &entry);
    let status = entry.status.as_deref().map(|status| match status {
        "idle" => OwnStatus::Idle,
        "waiting" => OwnStatus::Waiting(entry.waiting_for.unwrap_or_default()),
        _ => OwnStatus::Busy,
    });
    StatusFile { status, transcript }
}

fn entry(path: &Path) -> Option<StatusEntry> {
    let mut text = String::new();
    let file = transcript::open(path).ok()?;
    file.take(LIMIT).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The transcript that the process of this file writes.
fn transcript_of(path: &Path, entry: &StatusEntry) -> Option<PathBuf> {
    let is_name = |id: &&str| !id.is_empty() && id.chars().all(is_of_a_name);
    let session = entry.session_id.as_deref().filter(is_name)?;
    let folder: String = entry
        .cwd
        .as_deref()?
        .chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() {
                char
            } else {
                '-'
            }
        })
        .collect();
    let projects = path.parent()?.parent()?.join("projects");
    let folder = projects.join(Some(folder).filter(|name| name.len() <= FOLDER_NAME)?);
    Some(folder.join(format!("{session}.jsonl")))
}

fn is_of_a_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '-' || char == '_'
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_status_file_needs_a_folder_and_a_process_id() {
        let file = path("/home/a/.claude", "12").unwrap();
        assert_eq!(file, Path::new("/home/a/.claude/sessions/12.json"));
        for (folder, pid) in [("", "12"), ("here", "12"), ("/a", ""), ("/a", "../x")] {
            assert_eq!(path(folder, pid), None, "{folder} {pid}");
        }
    }

    #[test]
    fn a_status_is_read_and_invalid_files_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.json");
        for (text, status) in [
            (
                r#"{"pid":1,"status":"idle","updatedAt":2}"#,
                Some(OwnStatus::Idle),
            ),
            (r#"{"status":"busy"}"#, Some(OwnStatus::Busy)),
            (r#"{"status":"something new"}"#, Some(OwnStatus::Busy)),
            (
                r#"{"status":"waiting","waitingFor":"permission prompt"}"#,
                Some(OwnStatus::Waiting("permission prompt".into())),
            ),
            (r#"{"pid":1}"#, None),
            ("{", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).status, status, "{text}");
        }
        assert_eq!(read(&folder.path().join("absent")), StatusFile::default());
        assert_eq!(read(folder.path()), StatusFile::default());
    }

    #[test]
    fn the_session_and_its_folder_name_the_transcript() {
        let claude = tempfile::tempdir().unwrap();
        let project = claude.path().join("projects/-home-me-it-s-here-");
        std::fs::create_dir(claude.path().join("sessions")).unwrap();
        let path = claude.path().join("sessions/7.json");
        for (session, folder, transcript) in [
            ("6c0e-8b", "/home/me/it's here!", Some("6c0e-8b.jsonl")),
            ("../../x", "/home/me/it's here!", None),
            ("", "/home/me/it's here!", None),
            ("6c0e-8b", &"/a".repeat(101), None),
        ] {
            let text = serde_json::json!({"sessionId": session, "cwd": folder});
            std::fs::write(&path, text.to_string()).unwrap();
            let expected = transcript.map(|name| project.join(name));
            assert_eq!(read(&path).transcript, expected, "{session} {folder}");
        }
    }

    #[test]
    fn the_folder_is_the_one_that_the_environment_names() {
        for (config, home, expected) in [
            ("/c", "/h", Some("/c")),
            ("", "/h", Some("/h/.claude")),
            ("", "", None),
            ("c", "/h", None),
        ] {
            let found = folder(Some(OsStr::new(config)), Some(OsStr::new(home)));
            assert_eq!(found, expected.map(PathBuf::from), "{config} {home}");
        }
    }
}
