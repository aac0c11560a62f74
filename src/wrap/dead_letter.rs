//! Dead letters of a session: messages that could not be delivered are written to a file for a
//! person to read, and the session continues. At most 64 KiB of each are kept, in two files of 8
//! MiB for each queue, so that no publisher can fill the disk. Messages of other users have two
//! files of their own, so that they displace none of the session's own user.
//!
//! Relies on the standard library, and on `base64` for bytes that are not text. `kept` reads the
//! files.

pub(super) mod kept;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::envelope::{digest, is_id};

/// Maximum bytes of a body that are kept.
const BODY_BYTES: usize = 64 << 10;
/// A file is rotated once it is larger than this; one older file is kept.
const FILE_BYTES: u64 = 8 << 20;
/// Hex digits of a digest that names a body.
const DIGEST_DIGITS: usize = 32;
/// The extension of the older file.
const OLDER: &str = "jsonl.1";
/// The extension of the file with other users' dead letters.
const OTHERS: &str = "others.jsonl";

#[derive(Serialize)]
struct LetterLine<'a> {
    ts: &'a str,
    error: &'a str,
    raw: &'a str,
    /// `base64` if the body is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// The length of the body, if `raw` is only its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut_from: Option<usize>,
}

/// The beginning of a body. The rest is freed before the write to disk.
#[derive(Debug, Default)]
pub(super) struct DeadBody {
    kept: Vec<u8>,
    /// The length of the whole body.
    bytes: usize,
}

impl DeadBody {
    /// Truncates a body to the bytes that are kept.
    pub(super) fn cut(mut body: Vec<u8>) -> Self {
        let bytes = body.len();
        body.truncate(beginning(&body).len());
        body.shrink_to_fit();
        Self { kept: body, bytes }
    }

    /// Names the body by its length and what is kept of it.
    pub(super) fn digest(&self) -> String {
        format!("{} {}", self.bytes, digest(&self.kept, DIGEST_DIGITS))
    }

    /// The number of bytes of the whole body.
    pub(super) fn whole_bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bytes that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.len()
    }
}

/// A dead letter to write.
#[derive(Debug)]
pub(super) struct NewDeadLetter {
    /// When the message was refused.
    pub(super) ts: String,
    /// Why it is a dead letter.
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

/// The file for dead letters of other users, beside the `file` of a queue.
pub(super) fn path_for_others(file: &Path) -> PathBuf {
    file.with_extension(OTHERS)
}

/// Appends dead letters to `file` until it is full, at least the first, and syncs it, so that the
/// messages may be rejected afterwards. Returns the number of letters written.
pub(super) fn append(file: &Path, letters: &[NewDeadLetter]) -> io::Result<usize> {
    // If the lock fails, the letters are written without it: no message may be lost for that.
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
        // The next attempt must not append to an incomplete line.
        let _stays = out.set_len(before);
    }
    written
}

/// Writes dead letters until the file is full. Its current size is `length` bytes.
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

/// Returns the id that the body of an invalid message claims; empty if it claims none.
pub(super) fn claimed_id(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Claims {
        id: String,
    }
    let claims = serde_json::from_slice::<Claims>(body).ok();
    let id = claims.map(|claims| claims.id);
    id.filter(|id| is_id(id)).unwrap_or_default()
}

/// The beginning of a body, cut between two characters if it is text.
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
    fn dead_letters_use_limited_disk_space() {
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
