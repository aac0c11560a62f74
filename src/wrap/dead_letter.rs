//! Messages that could not be parsed: kept in a file for a person to read, so that the session can
//! go on. At most 64 KiB of each are kept, and two files of 8 MiB for each queue, so that no
//! publisher can fill the disk. Messages of other users than the session's own have two files
//! of their own, so that they displace none of the user's.
//!
//! Relies on the standard library, and on `base64` for bytes that are no text. `kept` reads them.

pub(super) mod kept;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::envelope::is_id;

/// So much of a body is kept.
const BODY_BYTES: usize = 64 << 10;
/// A file that grew beyond this is begun anew; one older file is kept.
const FILE_BYTES: u64 = 8 << 20;
/// The extension of the older file.
const OLDER: &str = "jsonl.1";
/// The extension of the file with what other users published.
const OTHERS: &str = "others.jsonl";

#[derive(Serialize)]
struct LetterLine<'a> {
    ts: &'a str,
    error: &'a str,
    raw: &'a str,
    /// Present when `raw` is no text but base64 of the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// Present when `raw` is only the beginning: how many bytes the body had.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut_from: Option<usize>,
}

/// The beginning of a body. The rest takes no memory while it waits for the disk.
#[derive(Debug, Default)]
pub(super) struct DeadBody {
    kept: Vec<u8>,
    /// The length of the whole body.
    bytes: usize,
}

impl DeadBody {
    /// Cuts a body to what is kept of it.
    pub(super) fn cut(mut body: Vec<u8>) -> Self {
        let bytes = body.len();
        body.truncate(beginning(&body).len());
        body.shrink_to_fit();
        Self { kept: body, bytes }
    }

    /// The length of the whole body.
    pub(super) fn whole_bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.len()
    }
}

/// A message that must not reach the agent, as it is kept.
#[derive(Debug)]
pub(super) struct NewDeadLetter {
    /// When it was refused.
    pub(super) ts: String,
    /// What is wrong with it.
    pub(super) error: String,
    /// The beginning of its body.
    pub(super) body: DeadBody,
    /// Whether the session's own user published it.
    pub(super) is_own: bool,
}

impl NewDeadLetter {
    fn to_line(&self) -> io::Result<Vec<u8>> {
        let encoded;
        let kept = self.body.kept.as_slice();
        let cut_from = (kept.len() < self.body.bytes).then_some(self.body.bytes);
        let (raw, encoding) = if let Ok(text) = std::str::from_utf8(kept) {
            (text, None)
        } else {
            encoded = BASE64_STANDARD.encode(kept);
            (encoded.as_str(), Some("base64"))
        };
        let line = serde_json::to_string(&LetterLine {
            ts: &self.ts,
            error: &self.error,
            raw,
            encoding,
            cut_from,
        })?;
        let mut line = crate::clean::json(&line).into_bytes();
        line.push(b'\n');
        Ok(line)
    }
}

/// The file of dead letters that other users published, beside the file of a queue.
pub(super) fn of_others(file: &Path) -> PathBuf {
    file.with_extension(OTHERS)
}

/// Appends dead letters to `file`, as many as go into it: at least the first. Returns how many they
/// are. They are on disk when this returns, so that the broker may forget the messages.
pub(super) fn append(file: &Path, letters: &[NewDeadLetter]) -> io::Result<usize> {
    // Without the lock they are kept all the same: a message must not be lost for a lock.
    let _lock = kept::lock(file);
    if fs::metadata(file).is_ok_and(|file| file.len() > FILE_BYTES) {
        fs::rename(file, file.with_extension(OLDER))?;
    }
    let mut out = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    let before = out.metadata()?.len();
    let written = write(&mut out, before, letters);
    if written.is_err() {
        // The next attempt must not be glued to half a line.
        let _stays = out.set_len(before);
    }
    written
}

/// Writes dead letters until the file has its length, which is `length` now.
fn write(out: &mut File, mut length: u64, letters: &[NewDeadLetter]) -> io::Result<usize> {
    let mut count = 0;
    for letter in letters {
        let line = letter.to_line()?;
        out.write_all(&line)?;
        count += 1;
        length += line.len() as u64;
        if length > FILE_BYTES {
            break;
        }
    }
    out.sync_data()?;
    Ok(count)
}

/// Returns the id that a body claims which could not be parsed; empty if it claims none. Nothing
/// else of the body is kept, however large it is.
pub(super) fn claimed_id(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Claims {
        id: String,
    }
    let claims = serde_json::from_slice::<Claims>(body).ok();
    let id = claims.map(|claims| claims.id);
    id.filter(|id| is_id(id)).unwrap_or_default()
}

/// The beginning of a body, whole characters where it is text.
fn beginning(body: &[u8]) -> &[u8] {
    let kept = &body[..body.len().min(BODY_BYTES)];
    match std::str::from_utf8(kept) {
        Err(error) if error.error_len().is_none() && kept.len() < body.len() => {
            &kept[..error.valid_up_to()]
        }
        _ => kept,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn letter(ts: &str, error: &str, body: &[u8]) -> NewDeadLetter {
        NewDeadLetter {
            ts: ts.into(),
            error: error.into(),
            body: DeadBody::cut(body.to_vec()),
            is_own: true,
        }
    }

    fn append_all(file: &Path, mut letters: &[NewDeadLetter]) {
        while !letters.is_empty() {
            letters = &letters[append(file, letters).unwrap()..];
        }
    }

    #[test]
    fn dead_letters_without_end_fill_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("q.jsonl");
        let body = "é".repeat(1 << 20).into_bytes();
        let letters: Vec<_> = (0..100).map(|_| letter("t", "no JSON", &body)).collect();
        for _ in 0..4 {
            append_all(&file, &letters);
        }
        let sizes = fs::read_dir(folder.path()).unwrap();
        let sizes: Vec<u64> = sizes
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2, "{sizes:?}");
        assert!(
            sizes.iter().sum::<u64>() < 2 * FILE_BYTES + (1 << 20),
            "{sizes:?}"
        );
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().all(|line| line.len() < BODY_BYTES + 200));
        assert!(
            text.lines()
                .all(|line| line.ends_with(",\"cut_from\":2097152}"))
        );
    }

    #[test]
    fn a_dead_letter_keeps_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("q.jsonl");
        let letters = [
            letter("2026-01-01T00:00:00.000Z", "no JSON", b"{half"),
            letter("2026-01-01T00:00:01.000Z", "no UTF-8", b"\xff\x00"),
        ];
        append_all(&file, &letters);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            "{\"ts\":\"2026-01-01T00:00:00.000Z\",\"error\":\"no JSON\",\"raw\":\"{half\"}\n\
             {\"ts\":\"2026-01-01T00:00:01.000Z\",\"error\":\"no UTF-8\",\"raw\":\"/wA=\",\
             \"encoding\":\"base64\"}\n"
        );
    }
}
