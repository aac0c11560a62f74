//! Recognizes the process in which a session of Claude Code continues.
//!
//! Left at an empty prompt (the agents view) moves the session. The other process is a new one,
//! whose arguments hold `--fork-session --resume TRANSCRIPT`, or a spare that was started before
//! (`--bg-spare`), whose arguments do not name the session. The old transcript gets a row `{"type":
//! "continued-in", "continuedInSessionId": ID}` before the other process begins the session. Other
//! spares hold sessions of their own. Seen with 2.1.332.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The type of the row.
const ROW: &str = "continued-in";
/// Bytes at the end of the transcript that are searched; only short rows follow this one.
const TAIL: u64 = 256 * 1024;

/// Whether these are the arguments of a spare process.
pub(in crate::wrap) fn is_spare(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--bg-spare")
}

/// Whether these are the arguments of a process that resumes the session of one of `transcripts`.
pub(in crate::wrap) fn resumes_any_of(arguments: &[String], transcripts: &[PathBuf]) -> bool {
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
    // A transcript is named by its path or by the session's id, which is the name of the file.
    let is_named = |name: &str| {
        transcripts.iter().any(|path| {
            path.as_os_str() == name || path.file_stem().is_some_and(|stem| stem == name)
        })
    };
    forks && resumed.is_some_and(is_named)
}

/// Whether the session of the transcript `from` continues in the session of `to`.
pub(in crate::wrap) fn moved_to(from: &Path, to: &Path) -> bool {
    let (Ok(tail), Some(session)) = (tail(from), to.file_stem()) else {
        return false;
    };
    // The newest row counts.
    let lines = tail.lines().rev().filter(|line| line.contains(ROW));
    let mut rows = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let row = rows.find(|row| row["type"] == ROW);
    row.is_some_and(|row| row["continuedInSessionId"].as_str().map(str::as_ref) == Some(session))
}

/// Reads the end of a file. The path comes from the agent, so only a regular file is read.
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
    fn the_last_continued_in_row_names_the_next_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(format!("{name}.jsonl"));
        assert!(
            !moved_to(&path("one"), &path("two")),
            "nothing is written yet"
        );
        let row =
            |id: &str| format!("{{\"type\":\"continued-in\",\"continuedInSessionId\":\"{id}\"}}\n");
        let quoted = "{\"type\":\"user\",\"message\":{\"content\":\"continued-in three\"}}\n";
        let text = "x".repeat(300_000) + "\n" + &row("three") + &row("two") + quoted;
        std::fs::write(path("one"), text).unwrap();
        assert!(moved_to(&path("one"), &path("two")));
        assert!(
            !moved_to(&path("one"), &path("three")),
            "it was there before"
        );
        assert!(!moved_to(&path("two"), &path("two")));
        assert!(!moved_to(folder.path(), &path("two")), "a folder");
    }
}
