//! A file for the bodies of parked messages. Its name is removed at once, so that its space is free
//! after a crash. A name that stays is of an empty file, and is removed at a later start.
//!
//! A body is stored in blocks anywhere in the file, and free blocks are used again. So the file
//! never takes more space than the bodies that it held at one time, rounded up to whole blocks.
//!
//! Relies on the standard library.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// The size of a block, in bytes.
pub(super) const BLOCK_BYTES: usize = 16 << 10;

/// The place of a body: as many blocks of the file as it needs, and its length in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BodyPlace {
    pub(super) blocks: Vec<u32>,
    pub(super) bytes: usize,
}

/// A file of blocks.
#[derive(Debug)]
pub(super) struct BodyFile {
    /// The path at which it is created, and removed at once.
    path: PathBuf,
    file: Option<File>,
}

impl BodyFile {
    /// Describes a file, which is created at the first use.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Writes a body to its blocks, without a sync: after a crash the broker still has the message.
    pub(super) fn write(&mut self, place: &BodyPlace, body: &[u8]) -> io::Result<()> {
        let file = self.open()?;
        for (block, part) in place.blocks.iter().zip(body.chunks(BLOCK_BYTES)) {
            file.write_all_at(part, start(*block))?;
        }
        Ok(())
    }

    /// Reads a body that was written.
    pub(super) fn read(&mut self, place: &BodyPlace) -> io::Result<Vec<u8>> {
        let file = self.open()?;
        let mut body = vec![0; place.bytes];
        for (block, part) in place.blocks.iter().zip(body.chunks_mut(BLOCK_BYTES)) {
            file.read_exact_at(part, start(*block))?;
        }
        Ok(body)
    }

    /// Frees the space on disk. All bodies are lost.
    pub(super) fn clear(&mut self) {
        self.file = None;
    }

    fn open(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            // The name of a file that was created may have stayed, as after a crash.
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
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

fn start(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_that_was_left_is_replaced() {
        // Each write failed, and was repeated for as long as the session ran.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bodies");
        fs::write(&path, "old").unwrap();
        let mut file = BodyFile::new(path.clone());
        let place = BodyPlace {
            blocks: vec![0],
            bytes: 3,
        };
        file.write(&place, b"new").unwrap();
        assert_eq!(file.read(&place).unwrap(), b"new");
        assert!(!path.exists());
    }

    #[test]
    fn each_body_is_read_as_written_and_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = BodyFile::new(folder.path().join("bodies"));
        let place = |blocks: &[u32], bytes| BodyPlace {
            blocks: blocks.to_vec(),
            bytes,
        };
        let long: Vec<u8> = (0..=255).cycle().take(2 * BLOCK_BYTES + 1).collect();
        let (first, second) = (place(&[4, 0, 2], long.len()), place(&[3], 3));
        file.write(&first, &long).unwrap();
        file.write(&second, b"abc").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(file.read(&first).unwrap(), long);
        assert_eq!(file.read(&second).unwrap(), b"abc");
        file.write(&place(&[0], 2), b"xy").unwrap();
        assert_eq!(file.read(&second).unwrap(), b"abc");
        assert_eq!(file.read(&place(&[0], 2)).unwrap(), b"xy");
        file.clear();
        assert!(file.read(&second).is_err());
        file.write(&place(&[1], 1), b"z").unwrap();
        assert_eq!(file.read(&place(&[1], 1)).unwrap(), b"z");
    }
}
