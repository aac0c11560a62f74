//! Which session a conversation goes on in, as its transcript says.
//!
//! Claude Code moves a session to another process when the person opens the agents view. It writes
//! a row `{"type": "continued-in", "continuedInSessionId": ID}` into the old transcript, before the
//! new process says hello. Seen with Claude Code 2.1.332.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

/// What stands in the row.
const ROW: &str = "continued-in";
/// Bytes at the end of the transcript that are looked at; only short rows follow this one.
const TAIL: u64 = 256 * 1024;

/// Whether the session that writes the transcript `from` goes on in the one that writes `to`.
pub(super) fn goes_on(from: &Path, to: &Path) -> bool {
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
