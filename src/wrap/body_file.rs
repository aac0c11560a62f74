//! A file for the bodies of parked messages. It is unlinked at once, so that a crash leaves no
//! file.
//!
//! Relies on the standard library.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// The place of a body: a slot of the file, and the length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyPlace {
    pub(super) slot: u32,
    pub(super) bytes: usize,
}

/// A sparse file of slots of equal length. A slot that was never written uses no space on disk.
#[derive(Debug)]
pub(super) struct BodyFile {
    /// The path at which it is created, and removed at once.
    path: PathBuf,
    slot_bytes: usize,
    file: Option<File>,
}

impl BodyFile {
    /// Describes a file, which is created at the first use. No body may be longer than
    /// `slot_bytes`.
    pub(super) fn new(path: PathBuf, slot_bytes: usize) -> Self {
        Self {
            path,
            slot_bytes,
            file: None,
        }
    }

    /// Writes a body to its slot, without a sync: after a crash the broker still has the message.
    pub(super) fn write(&mut self, place: BodyPlace, body: &[u8]) -> io::Result<()> {
        let start = self.start(place);
        self.open()?.write_all_at(body, start)
    }

    /// Reads a body that was written.
    pub(super) fn read(&mut self, place: BodyPlace) -> io::Result<Vec<u8>> {
        let start = self.start(place);
        let mut body = vec![0; place.bytes];
        self.open()?.read_exact_at(&mut body, start)?;
        Ok(body)
    }

    /// Frees the space on disk. All bodies are lost.
    pub(super) fn clear(&mut self) {
        self.file = None;
    }

    fn start(&self, place: BodyPlace) -> u64 {
        u64::from(place.slot) * self.slot_bytes as u64
    }

    fn open(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.path)?;
            fs::remove_file(&self.path)?;
            self.file = Some(file);
        }
        self.file
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_body_is_read_as_written_and_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = BodyFile::new(folder.path().join("bodies"), 8);
        let place = |slot, bytes| BodyPlace { slot, bytes };
        file.write(place(0, 8), b"01234567").unwrap();
        file.write(place(2, 3), b"abc").unwrap();
        file.write(place(0, 2), b"xy").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(file.read(place(2, 3)).unwrap(), b"abc");
        assert_eq!(file.read(place(0, 2)).unwrap(), b"xy");
        file.clear();
        assert!(file.read(place(2, 3)).is_err());
        file.write(place(1, 1), b"z").unwrap();
        assert_eq!(file.read(place(1, 1)).unwrap(), b"z");
    }
}
