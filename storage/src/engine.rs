//! What the store asks of the rows beneath it, and sled as the one that answers.
//!
//! The rest of the crate knows [`Engine`] only; this is the only file that names sled. Tests put their own engine
//! underneath, which fails when it is told to. Relies on sled 0.34.7 as measured: `flush` alone does not survive a power cut, so every
//! commit ends with a real sync of our own; values above about 7,500 bytes would leave the synced file, so none is written.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;

/// One change of one key. A commit is a list of them, each key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set the key to the value.
    Put(Vec<u8>, Vec<u8>),
    /// Remove the key, which may be absent.
    Delete(Vec<u8>),
}

/// Why an engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The disk is full. Nothing of the commit is promised, everything before it is kept; it may be tried again on a newly opened engine.
    #[error("no room on the disk")]
    NoRoom,
    /// Anything else. The engine must not be used for writing again.
    #[error("{0}")]
    Broken(String),
}

/// Ordered rows that change in atomic, durable commits.
pub trait Engine: Send + Sync {
    /// Makes all changes or none, and returns when they have reached the disk for good.
    fn commit(&self, changes: &[Change]) -> Result<(), EngineError>;
    /// One row.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;
    /// Rows from a key up to, but without, another, in order, until the visitor breaks.
    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), EngineError>;
    /// Bytes that the engine occupies on the disk.
    fn disk_bytes(&self) -> u64;
}

/// Sees each row of a scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>;

/// Bytes of one segment of sled's file. Values of up to a quarter of it, sixteen together, stay inside the file.
const SEGMENT_BYTES: usize = 512 * 1024;

/// sled, with the syncs that it leaves out.
pub struct Sled {
    db: sled::Db,
    file: File,
}

impl Sled {
    /// Opens or creates the rows in a folder. A panic of sled's comes back as an error.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        guarded(|| {
            let db = sled::Config::new()
                .path(folder)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(cache_bytes)
                .flush_every_ms(None)
                .open()
                .map_err(from_sled)?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(folder.join("db"))
                .map_err(|error| from_io(&error))?;
            db.flush().map_err(from_sled)?;
            file.sync_all().map_err(|error| from_io(&error))?;
            sync_folder(folder).map_err(|error| from_io(&error))?;
            Ok(Self { db, file })
        })
    }
}

impl Engine for Sled {
    fn commit(&self, changes: &[Change]) -> Result<(), EngineError> {
        guarded(|| {
            let mut batch = sled::Batch::default();
            for change in changes {
                match change {
                    Change::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                    Change::Delete(key) => batch.remove(key.as_slice()),
                }
            }
            self.db.apply_batch(batch).map_err(from_sled)?;
            self.db.flush().map_err(from_sled)?;
            self.file.sync_data().map_err(|error| from_io(&error))
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        guarded(|| Ok(self.db.get(key).map_err(from_sled)?.map(Bytes::from_owner)))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), EngineError> {
        guarded(|| {
            for row in self.db.range(from..until) {
                let (key, value) = row.map_err(from_sled)?;
                if visit(&key, Bytes::from_owner(value)).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |found| found.blocks() * 512)
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(EngineError::Broken(panic_text(panic.as_ref()))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine panicked: {}", text.unwrap_or("no reason given"))
}

fn from_sled(error: sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => from_io(&error),
        other => EngineError::Broken(other.to_string()),
    }
}

fn from_io(error: &io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            EngineError::NoRoom
        }
        _ => EngineError::Broken(error.to_string()),
    }
}
