//! `~/.cbroker/logs/<name>.log`: what a session would say if its screen were its own.
//!
//! Relies on the standard library and chrono.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chrono::Utc;

use crate::envelope::timestamp;

/// A file that grew beyond this is begun anew; one older file is kept.
const LIMIT: u64 = 4 << 20;

/// One session's log. What cannot be written is not said: nothing may appear on the agent's screen.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
}

impl Log {
    /// Appends to `path`.
    pub(super) fn open(path: &Path) -> Self {
        if std::fs::metadata(path).is_ok_and(|file| file.len() > LIMIT) {
            let _keep_appending = std::fs::rename(path, path.with_extension("log.1"));
        }
        Self {
            file: OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)
                .ok(),
        }
    }

    /// One line with its time.
    pub(super) fn say(&mut self, what: &str) {
        if let Some(file) = &mut self.file {
            let _disk_is_full =
                file.write_all(format!("{} {what}\n", timestamp(Utc::now())).as_bytes());
        }
    }
}
