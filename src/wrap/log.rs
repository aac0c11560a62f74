//! The log of a session, `~/.cbroker/logs/<name>.log`. A session cannot print messages, because its
//! screen belongs to the program.
//!
//! Relies on the standard library and chrono.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::Utc;

use crate::clean;
use crate::envelope::timestamp;

/// The file is rotated once it is larger than this; one older file is kept.
const LIMIT: u64 = 4 << 20;

/// The log of one session. Errors are ignored: nothing may appear on the agent's screen.
#[derive(Debug)]
pub(super) struct SessionLog {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl SessionLog {
    /// Opens the log at `path` for appending.
    pub(super) fn open(path: &Path) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            file: None,
            length: 0,
        };
        log.begin();
        log
    }

    fn begin(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|file| file.len() > LIMIT) {
            let _keep_appending = std::fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        self.file = options.open(&self.path).ok();
        let length = self.file.as_ref().and_then(|file| file.metadata().ok());
        self.length = length.map_or(0, |file| file.len());
    }

    /// Writes a line with the current time.
    pub(super) fn write(&mut self, what: &str) {
        if self.length > LIMIT {
            self.begin();
        }
        if let Some(file) = &mut self.file {
            let line = format!("{} {}\n", timestamp(Utc::now()), clean::line(what));
            self.length += line.len() as u64;
            let _disk_is_full = file.write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_long_log_is_rotated_while_it_is_written() {
        // The length was checked only at the start of a session.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.log");
        let mut log = SessionLog::open(&path);
        for _ in 0..12 {
            log.write(&"x".repeat(1 << 20));
        }
        log.write("last");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with(" last\n") && text.len() as u64 <= LIMIT + (2 << 20));
        assert!(path.with_extension("log.1").exists());
    }
}
