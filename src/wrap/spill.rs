//! Texts too long to type: a file for the agent to read, and a line that names it.
//!
//! Relies on the standard library and the envelope.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ulid::Ulid;

use crate::clean::{Breaks, clean, line};
use crate::envelope::{DeliveryMark, Envelope, digest};

/// Longest line that is typed, in bytes.
pub(super) const LINE_LIMIT: usize = 64 * 1024;
/// Longest line for a terminal that collects lines itself: the kernel cuts at 4,095 bytes.
pub(super) const CANONICAL_LIMIT: usize = 4_000;
/// So many hexadecimal digits of the file's SHA-256 stand in the line.
const DIGEST_DIGITS: usize = 12;
/// How long a spilled text is kept.
pub(super) const KEPT: Duration = Duration::from_hours(7 * 24);

/// Writes the text of `envelope` to a new file in `folder`, and gives the envelope that points to it, with the digest of
/// what was written in its line's head. Where its files and metadata alone would be more than `limit_bytes` of line,
/// they are in the file too. Each delivery has a file of its own: no other message changes what an agent was told to read.
pub(super) fn spill(
    (folder, queue): (&Path, &str),
    envelope: &Envelope,
    limit_bytes: usize,
) -> io::Result<Envelope> {
    // An id is checked to hold nothing that leads elsewhere but dots, and `..` with a prefix is a name. It holds no `+`.
    let id = envelope.id.replace(':', "+");
    let path = folder.join(format!("message-{queue}-{id}-{}.txt", Ulid::generate()));
    let mut short = envelope.clone();
    short.message = format!(
        "The text of this message is long ({} bytes). Read it in the file {}",
        envelope.message.len(),
        path.display()
    );
    short.spilled = Some("0".repeat(DIGEST_DIGITS));
    let mut text = clean(&envelope.message, Breaks::Keep);
    if short
        .to_line(Breaks::Flatten, DeliveryMark::PossibleRepeat)
        .len()
        > limit_bytes
    {
        for file in short.files.take().unwrap_or_default() {
            let _infallible = write!(text, "\nfile: {}", line(&file));
        }
        if let Some(metadata) = short.metadata.take() {
            let metadata = serde_json::Value::from(metadata).to_string();
            let _infallible = write!(text, "\nmetadata: {}", line(&metadata));
        }
    }
    short.spilled = Some(digest(text.as_bytes(), DIGEST_DIGITS));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
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
        let place = (folder.path(), "q");
        let short = spill(place, &envelope("m1"), CANONICAL_LIMIT).unwrap();
        let line = short.to_line(Breaks::Flatten, DeliveryMark::PossibleRepeat);
        assert!(line.len() <= CANONICAL_LIMIT, "{line}");
        let text = fs::read_to_string(&files(folder.path())[0]).unwrap();
        assert_eq!(text.matches("\nfile: /some/file").count(), 400);
        assert!(text.ends_with("\nmetadata: {\"key\":\"value\"}"), "{text}");
        let whole = spill(place, &envelope("m1"), LINE_LIMIT).unwrap();
        assert_eq!(whole.files, envelope("m1").files);
    }

    fn files(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn the_same_id_to_two_sessions_or_twice_overwrites_no_file_that_an_agent_was_told_to_read() {
        let folder = tempfile::tempdir().unwrap();
        for (queue, id) in [("q", "a:b"), ("q", "a-b"), ("q", "a:b"), ("other", "a:b")] {
            let short = spill((folder.path(), queue), &envelope(id), LINE_LIMIT).unwrap();
            let line = short.to_line(Breaks::Flatten, DeliveryMark::None);
            let wanted = digest(id.as_bytes(), 12);
            assert!(line.contains(&format!(" text_sha256={wanted}] ")), "{line}");
        }
        assert_eq!(files(folder.path()).len(), 4);
    }
}
