//! Texts too long to type: a file for the agent to read, and a line that names it (SPEC §7.20).
//!
//! Relies on the standard library and the envelope.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::envelope::Envelope;

/// Longest line that is typed, in bytes.
pub(super) const LINE_LIMIT: usize = 64 * 1024;
/// Longest line for a terminal that collects lines itself: the kernel cuts at 4,095 bytes (SPEC §7.9).
pub(super) const CANONICAL_LIMIT: usize = 4_000;
/// How long a spilled text is kept.
pub(super) const KEPT: Duration = Duration::from_hours(7 * 24);

/// Writes the text of `envelope` to a file in `folder`, and gives the envelope that points to it.
pub(super) fn spill(folder: &Path, envelope: &Envelope) -> io::Result<Envelope> {
    // An id is checked to hold nothing that leads elsewhere but dots, and `..` with a prefix is a name.
    let path = folder.join(format!("message-{}.txt", envelope.id.replace(':', "-")));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(envelope.message.as_bytes())?;
    let mut short = envelope.clone();
    short.message = format!(
        "The text of this message is long ({} bytes). Read it in the file {}",
        envelope.message.len(),
        path.display()
    );
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
