//! A file for the bodies of parked messages. It has no name, so a crash leaves nothing of it.
//!
//! Relies on the standard library.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// Where a body is: a slot of the file, and how many bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyPlace {
    pub(super) slot: u32,
    pub(super) bytes: usize,
}

/// Slots of one length each. A slot that was never written takes no room on the disk.
#[derive(Debug)]
pub(super) struct BodyFile {
    /// Where it is made, and its name for a moment.
    path: PathBuf,
    slot_bytes: usize,
    file: Option<File>,
}

impl BodyFile {
    /// A file that is made when it is needed; no body is longer than `slot_bytes`.
    pub(super) fn new(path: PathBuf, slot_bytes: usize) -> Self {
        Self {
            path,
            slot_bytes,
            file: None,
        }
    }

    /// Writes a body to its slot. It need not outlast a crash: the broker has the message.
    pub(super) fn keep(&mut self, place: BodyPlace, body: &[u8]) -> io::Result<()> {
        let start = self.start(place);
        self.open()?.write_all_at(body, start)
    }

    /// Reads a body that was kept.
    pub(super) fn fetch(&mut self, place: BodyPlace) -> io::Result<Vec<u8>> {
        let start = self.start(place);
        let mut body = vec![0; place.bytes];
        self.open()?.read_exact_at(&mut body, start)?;
        Ok(body)
    }

    /// Gives the room back.
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
    fn each_body_comes_back_whole_and_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = BodyFile::new(folder.path().join("bodies"), 8);
        let place = |slot, bytes| BodyPlace { slot, bytes };
        file.keep(place(0, 8), b"01234567").unwrap();
        file.keep(place(2, 3), b"abc").unwrap();
        file.keep(place(0, 2), b"xy").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(file.fetch(place(2, 3)).unwrap(), b"abc");
        assert_eq!(file.fetch(place(0, 2)).unwrap(), b"xy");
        file.clear();
        assert!(file.fetch(place(2, 3)).is_err());
        file.keep(place(1, 1), b"z").unwrap();
        assert_eq!(file.fetch(place(1, 1)).unwrap(), b"z");
    }
}
