//! Messages that are none: kept in a file for a person, so that neither they nor the session are lost (SPEC §2).
//!
//! Relies on the standard library, and on `base64` for bytes that are no text.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    ts: &'a str,
    error: &'a str,
    raw: &'a str,
    /// Present when `raw` is no text but base64 of the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

/// Appends one dead letter to `file`. On disk when this returns, so that the broker may forget the message.
pub(super) fn append(file: &Path, ts: &str, error: &str, body: &[u8]) -> io::Result<()> {
    let encoded;
    let (raw, encoding) = if let Ok(text) = std::str::from_utf8(body) {
        (text, None)
    } else {
        encoded = BASE64_STANDARD.encode(body);
        (encoded.as_str(), Some("base64"))
    };
    let mut line = serde_json::to_vec(&Line {
        ts,
        error,
        raw,
        encoding,
    })?;
    line.push(b'\n');
    let mut out = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(&line)?;
    out.sync_data()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_dead_letter_keeps_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("q.jsonl");
        append(&file, "2026-01-01T00:00:00.000Z", "no JSON", b"{half").unwrap();
        append(&file, "2026-01-01T00:00:01.000Z", "no UTF-8", b"\xff\x00").unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            "{\"ts\":\"2026-01-01T00:00:00.000Z\",\"error\":\"no JSON\",\"raw\":\"{half\"}\n\
             {\"ts\":\"2026-01-01T00:00:01.000Z\",\"error\":\"no UTF-8\",\"raw\":\"/wA=\",\"encoding\":\"base64\"}\n"
        );
    }
}
