//! Texts too long to type: a file for the agent to read, and a line that names it (SPEC §7.20).
//!
//! Relies on the standard library and the envelope.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::envelope::{Breaks, Envelope, Mark};

/// Longest line that is typed, in bytes.
pub(super) const LINE_LIMIT: usize = 64 * 1024;
/// Longest line for a terminal that collects lines itself: the kernel cuts at 4,095 bytes (SPEC §7.9).
pub(super) const CANONICAL_LIMIT: usize = 4_000;
/// How long a spilled text is kept.
pub(super) const KEPT: Duration = Duration::from_hours(7 * 24);

/// Writes the text of `envelope` to a file in `folder`, and gives the envelope that points to it. Where its files and
/// metadata alone would be more than `limit_bytes` of line, they are in the file too.
pub(super) fn spill(
    folder: &Path,
    envelope: &Envelope,
    limit_bytes: usize,
) -> io::Result<Envelope> {
    // An id is checked to hold nothing that leads elsewhere but dots, and `..` with a prefix is a name. It holds no `+`.
    let path = folder.join(format!("message-{}.txt", envelope.id.replace(':', "+")));
    let mut short = envelope.clone();
    short.message = format!(
        "The text of this message is long ({} bytes). Read it in the file {}",
        envelope.message.len(),
        path.display()
    );
    let mut text = envelope.message.clone();
    if short.to_line(Breaks::Flatten, Mark::PossibleRepeat).len() > limit_bytes {
        for file in short.files.take().unwrap_or_default() {
            let _infallible = write!(text, "\nfile: {file}");
        }
        if let Some(metadata) = short.metadata.take() {
            let _infallible = write!(text, "\nmetadata: {}", serde_json::Value::from(metadata));
        }
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(short)
}

/// Removes files of these kinds that were kept long enough. Failures are left to the next start.
pub(super) fn sweep(folder: &Path, kinds: &[&str], kept: Duration, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let is_of_kind = |entry: &fs::DirEntry| {
        let path = entry.path();
        path.extension()
            .is_some_and(|kind| kinds.iter().any(|wanted| kind == *wanted))
    };
    for entry in entries.flatten().filter(is_of_kind) {
        let age = entry
            .metadata()
            .and_then(|file| file.modified())
            .map(|written| now.duration_since(written));
        if matches!(age, Ok(Ok(age)) if age > kept) {
            let _next_time = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn envelope(id: &str) -> Envelope {
        let body = serde_json::json!({"id": id, "from": "a", "to": "b", "ts": "t", "message": id,
            "files": vec!["/some/file"; 400], "metadata": {"key": "value"}});
        Envelope::parse(body.to_string().as_bytes(), 1 << 20).unwrap()
    }

    #[test]
    fn many_files_go_to_the_file_too_and_the_line_is_short() {
        // A terminal that collects lines cut the end of it, and with that the Enter.
        let folder = tempfile::tempdir().unwrap();
        let short = spill(folder.path(), &envelope("m1"), CANONICAL_LIMIT).unwrap();
        let line = short.to_line(Breaks::Flatten, Mark::PossibleRepeat);
        assert!(line.len() <= CANONICAL_LIMIT, "{line}");
        let text = fs::read_to_string(folder.path().join("message-m1.txt")).unwrap();
        assert_eq!(text.matches("\nfile: /some/file").count(), 400);
        assert!(text.ends_with("\nmetadata: {\"key\":\"value\"}"), "{text}");
        let whole = spill(folder.path(), &envelope("m1"), LINE_LIMIT).unwrap();
        assert_eq!(whole.files, envelope("m1").files);
    }

    #[test]
    fn two_ids_are_two_files() {
        let folder = tempfile::tempdir().unwrap();
        for id in ["a:b", "a-b"] {
            spill(folder.path(), &envelope(id), LINE_LIMIT).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
