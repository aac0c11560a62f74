//! Whole long texts of the history, a file each, named by its digest: `logs/texts/`.
//!
//! The sender and the recipient on one machine keep the same file. The folder has at most
//! [`FOLDER_BYTES`]; the texts that were written first go first.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ulid::Ulid;

use crate::envelope::digest;

/// At most so much is kept.
const FOLDER_BYTES: u64 = 64 << 20;
/// So many hexadecimal digits of a text's SHA-256 are its name.
const NAME_DIGITS: usize = 32;

/// Returns the name of a text's file.
pub(super) fn name(text: &str) -> String {
    digest(text.as_bytes(), NAME_DIGITS)
}

/// Writes a text, unless it is there.
pub(super) fn keep(folder: &Path, text: &str) -> io::Result<()> {
    let path = folder.join(name(text));
    if path.exists() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    make_room(folder, text.len() as u64)?;
    // Under a temporary name first, so that no reader sees half a text.
    let draft = folder.join(format!(".{}", Ulid::generate()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let written = file.write_all(text.as_bytes());
    let written = written.and_then(|()| fs::rename(&draft, &path));
    if written.is_err() {
        // A draft that cannot be removed counts, and goes when room is needed.
        let _left = fs::remove_file(&draft);
    }
    written
}

/// Reads a text. `None` if it is gone, or is not what its name says.
pub(super) fn read(folder: &Path, name: &str) -> Option<String> {
    let is_name = name.len() == NAME_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let text = is_name.then(|| fs::read_to_string(folder.join(name)).ok())??;
    (self::name(&text) == name).then_some(text)
}

/// Removes the oldest texts until `bytes` more fit.
fn make_room(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        if let Ok(file) = entry.metadata() {
            texts.push((file.modified()?, entry.path(), file.len()));
        }
    }
    texts.sort();
    let mut total = bytes + texts.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
    for (_, path, bytes) in texts {
        if total <= FOLDER_BYTES {
            break;
        }
        // Another process may have removed it.
        let _gone = fs::remove_file(path);
        total -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_without_end_fill_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let texts = folder.path().join("texts");
        let text = |number: usize| format!("{number}{}", "x".repeat(4 << 20));
        for number in 0..20 {
            keep(&texts, &text(number)).unwrap();
        }
        let files = fs::read_dir(&texts).unwrap();
        let total: u64 = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= FOLDER_BYTES, "{total}");
        assert_eq!(read(&texts, &name(&text(0))), None, "the oldest is gone");
        assert_eq!(read(&texts, &name(&text(19))), Some(text(19)));
        assert_eq!(read(&texts, "../texts"), None);
    }
}
