//! Where a session of Claude Code goes on when it moves to another process.
//!
//! One press of Left at an empty prompt (the agents view) moves the session. The other process is a
//! new one, whose arguments hold `--fork-session --resume TRANSCRIPT`, or a spare that was started
//! before (`--bg-spare`), whose arguments say nothing. The old transcript gets a row
//! `{"type": "continued-in", "continuedInSessionId": ID}`, before the other process begins the
//! session. A spare that the session has not moved to holds another one. Seen with 2.1.332.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What stands in the row.
const ROW: &str = "continued-in";
/// Bytes at the end of the transcript that are looked at; only short rows follow this one.
const TAIL: u64 = 256 * 1024;

/// Whether these arguments make a process that waits for a task.
pub(in crate::wrap) fn is_spare(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--bg-spare")
}

/// Whether these arguments make a process that goes on with the session of one of `transcripts`.
pub(in crate::wrap) fn continues(arguments: &[String], transcripts: &[PathBuf]) -> bool {
    let mut resumed = None;
    let mut forks = false;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        forks |= word == "--fork-session";
        if word == "--resume" {
            resumed = words.next().map(String::as_str);
        } else if let Some(value) = word.strip_prefix("--resume=") {
            resumed = Some(value);
        }
    }
    // A transcript is named by its path or by the session's id, which is its file's name.
    let is_named = |name: &str| {
        transcripts.iter().any(|path| {
            path.as_os_str() == name || path.file_stem().is_some_and(|stem| stem == name)
        })
    };
    forks && resumed.is_some_and(is_named)
}

/// Whether the session that writes the transcript `from` goes on in the one that writes `to`.
pub(in crate::wrap) fn goes_on(from: &Path, to: &Path) -> bool {
    let (Ok(tail), Some(session)) = (tail(from), to.file_stem()) else {
        return false;
    };
    // The newest counts.
    let lines = tail.lines().rev().filter(|line| line.contains(ROW));
    let mut rows = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let row = rows.find(|row| row["type"] == ROW);
    row.is_some_and(|row| row["continuedInSessionId"].as_str().map(str::as_ref) == Some(session))
}

/// The path comes from the agent: only a regular file is read.
fn tail(path: &Path) -> io::Result<String> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_last_row_of_its_kind_says_where_the_session_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(format!("{name}.jsonl"));
        assert!(
            !goes_on(&path("one"), &path("two")),
            "nothing is written yet"
        );
        let row =
            |id: &str| format!("{{\"type\":\"continued-in\",\"continuedInSessionId\":\"{id}\"}}\n");
        let quoted = "{\"type\":\"user\",\"message\":{\"content\":\"continued-in three\"}}\n";
        let text = "x".repeat(300_000) + "\n" + &row("three") + &row("two") + quoted;
        std::fs::write(path("one"), text).unwrap();
        assert!(goes_on(&path("one"), &path("two")));
        assert!(
            !goes_on(&path("one"), &path("three")),
            "it was there before"
        );
        assert!(!goes_on(&path("two"), &path("two")));
        assert!(!goes_on(folder.path(), &path("two")), "a folder");
    }
}
