//! Claude Code's own word for what it does: `sessions/PID.json` in its folder, one file a process.
//!
//! Seen with 2.1.332: `idle`, `busy`, and `waiting` with what it waits for. A version without the
//! file says nothing, and neither does a file that cannot be read.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::hold::Hold;
use super::ways::transcript;

/// The file has less than a thousand bytes.
const LIMIT: u64 = 64 * 1024;

/// What a process of Claude Code's says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnStatus {
    /// It waits for a prompt.
    Idle,
    /// It does something else.
    Busy,
    /// It waits for the person: for what.
    Waiting(String),
}

impl OwnStatus {
    /// Why no text may be typed; `None` at rest.
    pub fn hold(&self) -> Option<Hold> {
        match self {
            Self::Idle => None,
            Self::Busy => Some(Hold::Busy),
            Self::Waiting(what) => Some(Hold::Dialog(what.clone())),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusEntry {
    status: Option<String>,
    waiting_for: Option<String>,
}

/// The file of the process `pid` in Claude Code's folder; `None` where either is not known.
pub fn path(folder: &str, pid: &str) -> Option<PathBuf> {
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    let folder = Path::new(folder);
    (is_number && folder.is_absolute()).then(|| folder.join("sessions").join(format!("{pid}.json")))
}

/// What the file says; `None` where it says nothing.
pub fn read(path: &Path) -> Option<OwnStatus> {
    let mut text = String::new();
    let file = transcript::open(path).ok()?;
    file.take(LIMIT).read_to_string(&mut text).ok()?;
    let entry: StatusEntry = serde_json::from_str(&text).ok()?;
    Some(match entry.status?.as_str() {
        "idle" => OwnStatus::Idle,
        "waiting" => OwnStatus::Waiting(entry.waiting_for.unwrap_or_default()),
        _ => OwnStatus::Busy,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_number_in_a_folder_names_a_file() {
        let file = path("/home/a/.claude", "12").unwrap();
        assert_eq!(file, Path::new("/home/a/.claude/sessions/12.json"));
        for (folder, pid) in [("", "12"), ("here", "12"), ("/a", ""), ("/a", "../x")] {
            assert_eq!(path(folder, pid), None, "{folder} {pid}");
        }
    }

    #[test]
    fn a_status_is_read_and_anything_else_says_nothing() {
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
            assert_eq!(read(&path), status, "{text}");
        }
        assert_eq!(read(&folder.path().join("absent")), None);
        assert_eq!(read(folder.path()), None);
    }
}
